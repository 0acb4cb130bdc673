"""Commands that look into what a head does: detect, explain."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from embedcal.commands.shared import CacheFile, Device, Json, answer, say

SplitName = Annotated[Literal["train", "val", "test"], typer.Option(help="of whose images")]
Root = Annotated[Path | None, typer.Option(help="folder of the images; else found by digest")]


def register(app: typer.Typer) -> None:
    """Give these commands to the app."""
    app.command(short_help="which attributes does a class's accuracy hang on?")(detect)
    app.command(short_help="where does a head look?")(explain)


def detect(
    run: Annotated[
        str | None, typer.Option(help="whose errors: its folder, id, or last; else zero-shot")
    ] = None,
    vocabulary: Annotated[
        str | None, typer.Option(help="a file of names, one a line; else the list that ships")
    ] = None,
    detector: Annotated[str, typer.Option(help="clip, owlvit, or a table of attributes")] = "clip",
    by: Annotated[
        Literal["delta", "mi"], typer.Option(help="ranking; mi: mutual information")
    ] = "delta",
    split: SplitName = "val",
    per_class: Annotated[int, typer.Option(help="attributes shown of each class")] = 5,
    min_detect: Annotated[int, typer.Option(help="images with and without it")] = 10,
    root: Root = None,
    device: Device = "auto",
    cache: CacheFile = None,
    as_json: Json = False,
) -> None:
    """For every candidate attribute and class: accuracy with it and without it.

    Example: embedcal detect --split test
    """
    from embedcal.answers.seeing import detect_record, detect_report
    from embedcal.cache import open_cache
    from embedcal.caching import which_cache
    from embedcal.detecting import DetectOptions
    from embedcal.detecting import detect as search
    from embedcal.interchange import find_run
    from embedcal.progress import progress

    path = which_cache(cache)
    with open_cache(path) as opened, progress() as bars:
        found = search(
            opened,
            find_run(run, path) if run else None,
            vocabulary=vocabulary,
            detector=detector,
            by=by,
            split=split,
            options=DetectOptions(
                min_detect=min_detect,
                root=root,
                device=device,
                progress=lambda done, total: bars.stage("detect", done, total),
            ),
        )
    record = detect_record(found, path, per_class)
    answer(record, detect_report(record), as_json=as_json)


def explain(
    out: Annotated[Path, typer.Option("--out", "-o", help="the figure: .png, .svg or .pdf")],
    runs: Annotated[
        list[str] | None, typer.Argument(help="folders, ids, or last; zero-shot for a run's name")
    ] = None,
    rows: Annotated[str | None, typer.Option(help="rows of the cache: 3,17,250")] = None,
    group: Annotated[int | None, typer.Option(help="only of this group, y * A + a")] = None,
    worst: Annotated[int, typer.Option(help="so many that the first run gets most wrong")] = 6,
    of: Annotated[
        Literal["label", "predicted", "rival"], typer.Option(help="the class that maps are of")
    ] = "label",
    split: SplitName = "test",
    region: Annotated[
        Literal["auto", "mask", "box"], typer.Option(help="what counts as the object")
    ] = "auto",
    root: Root = None,
    device: Device = "auto",
    cache: CacheFile = None,
    as_json: Json = False,
) -> None:
    """Grad-CAM of some images under one head or several, side by side, as a figure.

    Example: embedcal explain zero-shot last --worst 6 -o why.png
    """
    from embedcal.answers.seeing import explain_record, explain_report, save
    from embedcal.cache import open_cache
    from embedcal.caching import which_cache
    from embedcal.explaining import Sources, choose, figure
    from embedcal.explaining import explain as look
    from embedcal.interchange import find_run

    path, names = which_cache(cache), runs or ["zero-shot"]
    with open_cache(path) as opened:
        heads = {name: None if name == "zero-shot" else find_run(name, path) for name in names}
        if rows is not None:
            chosen = _numbers(rows)
        else:
            first = next(iter(heads.values()))
            chosen = choose(first, opened, split, group=group, count=worst).tolist()
        sources = Sources(root=root, region=region)
        found = {
            name if run is None else f"{run.record['method']} {run.id}": look(
                run, opened, chosen, sources=sources, device=device
            )
            for name, run in heads.items()
        }
        for note in dict.fromkeys(each.note for each in found.values() if each.note):
            say(note)
        save(figure(found, opened, of), out)
        record = explain_record(found, opened, out)
    answer(record, explain_report(record), as_json=as_json)


def _numbers(text: str) -> list[int]:
    from embedcal.errors import EmbedcalError

    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise EmbedcalError(
            f"expected rows of the cache as numbers, found '{text}': write, say, 3,17,250"
        ) from None
