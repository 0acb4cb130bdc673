"""The command that draws embeddings before and after heads: map."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from embedcal.commands import completing
from embedcal.commands.shared import Attribute, CacheFile, Json, Seed, answer


def register(app: typer.Typer) -> None:
    """Give this command to the app."""
    app.command("map", short_help="embeddings before and after, in two dimensions")(map_views)


def map_views(
    out: Annotated[Path, typer.Option("--out", "-o", help="the figure: .png, .svg or .pdf")],
    runs: Annotated[
        list[str] | None,
        typer.Argument(
            help="folders, ids, or last; zero-shot for a run's name",
            autocompletion=completing.heads,
        ),
    ] = None,
    by: Annotated[
        Literal["pca", "tsne", "umap"], typer.Option(help="how they come into two dimensions")
    ] = "pca",
    split: Annotated[Literal["train", "val", "test"], typer.Option(help="whose images")] = "test",
    attribute: Attribute = None,
    points: Annotated[int, typer.Option(help="images drawn, at random; 0: all")] = 2000,
    seed: Seed = 0,
    csv: Annotated[
        Path | None, typer.Option("--csv", help="write rows, ids and coordinates here")
    ] = None,
    cache: CacheFile = None,
    as_json: Json = False,
) -> None:
    """Frozen embeddings beside those of heads, by class, attribute and error; with silhouettes.

    Example: embedcal map last -o map.png
    """
    from embedcal.answers.mapping import check_places, map_record, map_report, save_points
    from embedcal.answers.seeing import save
    from embedcal.cache import open_cache
    from embedcal.caching import which_cache
    from embedcal.interchange import find_run
    from embedcal.mapping import draw, map_runs

    check_places(out, csv)
    path = which_cache(cache)
    with open_cache(path) as opened:
        found = map_runs(
            [
                None if name == "zero-shot" else find_run(name, path)
                for name in dict.fromkeys(runs or ["zero-shot"])
            ],
            opened,
            split=split,
            by=by,
            attribute=attribute,
            points=points,
            seed=seed,
        )
        save(draw(found, opened), out)
        if csv is not None:
            save_points(found, opened, csv)
        record = map_record(found, opened, out, csv)
    answer(record, map_report(record), as_json=as_json)
