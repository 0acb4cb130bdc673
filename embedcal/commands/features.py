"""Commands on features of other tools: import-features, export-features."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, cast

import typer

from embedcal.commands import completing
from embedcal.commands.shared import File, Json, answer


def register(app: typer.Typer) -> None:
    """Give these commands to the app."""
    app.command(short_help="make a cache of ready features")(import_features)
    app.command(short_help="write features for other tools")(export_features)


def import_features(
    path: Annotated[
        Path, typer.Argument(help=".npz, .npy, .pt, .safetensors, .parquet, or a tool's folder")
    ],
    table: Annotated[
        Path | None, typer.Option(help="CSV or Parquet with y, split, attributes, id")
    ] = None,
    format: Annotated[
        Literal["npz", "npy", "pt", "safetensors", "parquet", "clip-retrieval", "clip-benchmark"]
        | None,
        typer.Option(help="the form, where name and contents do not tell"),
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="the cache file to write")] = None,
    name: Annotated[str | None, typer.Option(help="name of the data set")] = None,
    features: Annotated[
        str | None, typer.Option(help="array or column of features [features, embedding]")
    ] = None,
    attribute: Annotated[
        list[str] | None,
        typer.Option(help="array or column of attribute values; may be repeated"),
    ] = None,
    classes: Annotated[str | None, typer.Option(help="class names, in order")] = None,
    attributes: Annotated[str | None, typer.Option(help="names of the attribute's values")] = None,
    as_json: Json = False,
) -> None:
    """Make a cache of features that something else computed.

    Example: embedcal import-features features.npy --table labels.csv --attribute place
    """
    from embedcal.answers.features import import_record, import_report
    from embedcal.cache import open_cache
    from embedcal.interchange import import_from

    made = import_from(
        path,
        table=table,
        format=format,
        features=features,
        attributes=tuple(attribute or ()),
        classes=classes,
        values=attributes,
        name=name,
        out=out,
    )
    with open_cache(made) as cache:
        answer(import_record(cache), import_report(cache), as_json=as_json)


def export_features(
    out: Annotated[
        Path,
        typer.Option("--out", "-o", help="FILE.parquet, .npz, .npy, .safetensors, or a folder"),
    ],
    file: File = None,
    level: Annotated[Literal["embedding", "pooled"], typer.Option(help="which features")] = (
        "embedding"
    ),
    split: Annotated[
        list[str] | None,
        typer.Option(
            help="only train, val or test; may be repeated",
            autocompletion=completing.words("train", "val", "test"),
        ),
    ] = None,
    run: Annotated[
        str | None,
        typer.Option(
            help="also predictions of this run: its folder, id, or last",
            autocompletion=completing.run_names,
        ),
    ] = None,
    format: Annotated[
        Literal["parquet", "npz", "safetensors", "npy", "clip-retrieval"] | None,
        typer.Option(help="the form, where the name does not tell"),
    ] = None,
    normalise: Annotated[
        bool, typer.Option("--normalise", help="rows of length 1; else raw, as stored")
    ] = False,
    as_json: Json = False,
) -> None:
    """Write a cache's features and labels for other tools.

    Example: embedcal export-features birds.h5 -o birds.parquet --run last
    """
    from embedcal.answers.features import export_record, export_report
    from embedcal.cache import open_cache
    from embedcal.caching import which_cache
    from embedcal.interchange import export_features as write
    from embedcal.interchange import find_run
    from embedcal.types import SPLITS, Split

    path, splits = which_cache(file), cast("list[Split]", split) or SPLITS
    with open_cache(path) as cache:
        found = find_run(run, path) if run else None
        done = write(
            cache, out, level=level, splits=splits, format=format, run=found, normalise=normalise
        )
        record = export_record(cache, done, splits, found)
    answer(record, export_report(record), as_json=as_json)
