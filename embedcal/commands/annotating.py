"""The command that keeps what a person decided about attributes: annotate."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from embedcal.commands import completing
from embedcal.commands.shared import CacheFile, Device, Json, answer
from embedcal.errors import EmbedcalError


def register(app: typer.Typer) -> None:
    """Give this command to the app."""
    app.command(short_help="keep a verdict on an attribute, with labels inferred for it")(annotate)


def annotate(
    attribute: Annotated[
        str | None, typer.Option(help="its name: water", autocompletion=completing.vocabulary)
    ] = None,
    verdict: Annotated[
        Literal["spurious", "healthy"] | None, typer.Option(help="what you decided about it")
    ] = None,
    file: Annotated[
        Path | None, typer.Option(help="verdicts that the page of a report saved")
    ] = None,
    listed: Annotated[bool, typer.Option("--list", help="what is annotated already")] = False,
    gone: Annotated[
        str | None,
        typer.Option(
            "--remove",
            metavar="NAME",
            help="delete one of these",
            autocompletion=completing.judged,
        ),
    ] = None,
    detector: Annotated[
        str | None,
        typer.Option(
            help="clip, owlvit, or a table of attributes; default: the file's, else clip",
            autocompletion=completing.detectors,
        ),
    ] = None,
    root: Annotated[Path | None, typer.Option(help="folder of the images, for owlvit")] = None,
    backbone: Annotated[
        str | None,
        typer.Option(
            help="the cache's encoder, where its own name does not find it",
            autocompletion=completing.backbones,
        ),
    ] = None,
    pretrained: Annotated[
        str | None, typer.Option(help="its weights, where their own name does not find them")
    ] = None,
    device: Device = "auto",
    cache: CacheFile = None,
    as_json: Json = False,
) -> None:
    """Keep whether an attribute is spurious, and infer its labels, for fit --attribute.

    Example: embedcal annotate --attribute water --verdict spurious
    """
    from embedcal import judging
    from embedcal.annotating import remove
    from embedcal.answers import annotating as answers
    from embedcal.cache import open_cache
    from embedcal.caching import which_cache
    from embedcal.detecting import DetectOptions
    from embedcal.progress import progress

    _check(attribute, verdict, file, listed=listed, gone=gone)
    path = which_cache(cache)
    with open_cache(path) as opened:
        if gone is not None:
            remove(opened, gone)
        if gone is not None or listed:
            record = answers.list_record(opened)
            answer(record, answers.list_report(record), as_json=as_json)
            return
        verdicts: dict[str, str] = {attribute: verdict} if attribute and verdict else {}
        if file is not None:
            saved = judging.read_verdicts(file, opened)
            verdicts, detector = dict(saved.verdicts), detector or saved.detector
        with progress() as bars:
            found = judging.judge(
                opened,
                verdicts,
                detector or judging.CLIP,
                DetectOptions(
                    root=root,
                    backbone=backbone,
                    pretrained=pretrained,
                    device=device,
                    progress=lambda done, total: bars.stage("annotate", done, total),
                ),
            )
    record = answers.annotate_record(found, path)
    answer(record, answers.annotate_report(record), as_json=as_json)


def _check(
    attribute: str | None, verdict: str | None, file: Path | None, *, listed: bool, gone: str | None
) -> None:
    """One thing at a time, and a verdict beside its attribute."""
    asked = [attribute is not None, file is not None, listed, gone is not None]
    if sum(asked) != 1:
        raise EmbedcalError(
            f"expected one of --attribute, --file, --list, --remove, found {sum(asked) or 'none'}: "
            "embedcal annotate --attribute water --verdict spurious"
        )
    if (attribute is None) != (verdict is None):
        there, lacking = ("--attribute", "--verdict") if attribute else ("--verdict", "--attribute")
        raise EmbedcalError(
            f"expected {lacking} beside {there}, found none: embedcal annotate --attribute water "
            "--verdict spurious"
        )
