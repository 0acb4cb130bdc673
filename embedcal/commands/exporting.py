"""The command that takes a fitted head out of the lab: export."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from embedcal.commands import completing
from embedcal.commands.shared import CacheFile, Json, answer

if TYPE_CHECKING:
    from embedcal.exporting import Form


def register(app: typer.Typer) -> None:
    """Give this command to the app."""
    app.command(short_help="write a run's model for open_clip, ONNX, or as a matrix")(export)


def export(
    run: Annotated[
        str,
        typer.Argument(help="a run: its folder, id, or last", autocompletion=completing.run_names),
    ],
    out: Annotated[Path, typer.Argument(help="a new folder, or a new .safetensors or .onnx file")],
    to: Annotated[
        str,
        typer.Option(
            metavar="open_clip|safetensors|onnx",
            help="open_clip: a folder with model, script and card; safetensors: the head alone; "
            "onnx: pixels to logits",
            autocompletion=completing.forms,
        ),
    ] = "open_clip",
    pretrained: Annotated[
        str | None,
        typer.Option(help="file of the encoder's weights, where the cache was made from one"),
    ] = None,
    backbone: Annotated[
        str | None,
        typer.Option(
            help="the encoder's name, where the cache's does not find it",
            autocompletion=completing.backbones,
        ),
    ] = None,
    cache: CacheFile = None,
    as_json: Json = False,
) -> None:
    """Write the calibrated model, or the head, so that it works without embedcal.

    Example: embedcal export last birds-model --to open_clip
    """
    from embedcal.answers.exporting import export_record, export_report
    from embedcal.cache import open_cache
    from embedcal.caching import which_cache
    from embedcal.exporting import export as write
    from embedcal.interchange import find_run

    form = cast("Form", to.replace("-", "_"))  # whatever is no form is refused below
    # A run that is named by its folder says itself which cache it is over.
    named = (Path(run) / "run.json").is_file()
    path = Path(run) if named and cache is None else which_cache(cache)
    found = find_run(run, path)
    if named and cache is None:
        done = write(found, to=form, out=out, pretrained=pretrained, backbone=backbone)
    else:
        with open_cache(path) as opened:
            done = write(found, opened, to=form, out=out, pretrained=pretrained, backbone=backbone)
    record = export_record(done)
    answer(record, export_report(record), as_json=as_json)
