"""Commands that hold a cache against its seal and its images: verify, repair."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from embedcal.commands.shared import (
    SKIPPED,
    Backbone,
    Device,
    File,
    Json,
    Pretrained,
    Seed,
    answer,
    row_numbers,
)
from embedcal.errors import EmbedcalError

Root = Annotated[Path | None, typer.Option(help="folder of the images; else found by digest")]


def register(app: typer.Typer) -> None:
    """Give these commands to the app."""
    app.command(short_help="has any byte of a cache changed?")(verify)
    app.command(short_help="encode the rows of a cache that fail again")(repair)


def verify(
    file: File = None,
    reencode: Annotated[
        int, typer.Option(help="so many random rows are encoded again and compared")
    ] = 0,
    root: Root = None,
    backbone: Backbone = None,
    pretrained: Pretrained = None,
    device: Device = "auto",
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Hash a cache, its shards too, and say whether any byte has changed since it was written.

    With --reencode, random rows are also encoded again from their images and compared; rows that
    differ are named, and the status is 3.

    Example: embedcal verify birds.h5 --reencode 50
    """
    from embedcal.answers.verifying import verify_record, verify_report
    from embedcal.cache.sharding import verify_any as run
    from embedcal.caching import which_cache

    found = run(which_cache(file))
    if not found.ok:
        raise EmbedcalError(found.reason)
    if reencode < 0:
        raise EmbedcalError(f"expected rows to encode again, found {reencode}: give, say, 50")
    again = None
    if reencode:
        from embedcal.progress import progress
        from embedcal.reencoding import reencode as encode

        with progress() as bars:
            again = encode(
                found.path,
                reencode,
                source=_source(root, backbone, pretrained, device),
                seed=seed,
                progress=lambda done, total: bars.stage("reencode", done, total),
            )
    record = verify_record(found, again)
    answer(record, verify_report(record), as_json=as_json)
    if again is not None and not again.ok:
        raise typer.Exit(SKIPPED)


def repair(
    file: File = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="the new file; NAME-repaired.h5, a shard's own name"),
    ] = None,
    rows: Annotated[
        str | None, typer.Option(help="rows to encode again besides those that fail: 3,17")
    ] = None,
    root: Root = None,
    backbone: Backbone = None,
    pretrained: Pretrained = None,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Encode the rows of a damaged cache that fail again, into a whole file beside it.

    Rows fail whose checksum does not hold, or that have NaN or infinity. The damaged file is left
    as it is, but a shard takes its name again where its seal proves every byte; those of a virtual
    cache are repaired so.

    Example: embedcal repair birds.h5 -o whole.h5
    """
    from embedcal.answers.verifying import repair_record, repair_report
    from embedcal.caching import which_cache
    from embedcal.progress import progress
    from embedcal.repairing import repair as run

    with progress() as bars:
        found = run(
            which_cache(file),
            rows=row_numbers(rows) if rows is not None else (),
            out=out,
            source=_source(root, backbone, pretrained, device),
            progress=lambda done, total: bars.stage("reencode", done, total),
        )
    answer(repair_record(found), repair_report(found), as_json=as_json)
    if found.unreadable:
        raise typer.Exit(SKIPPED)


def _source(root: Path | None, backbone: str | None, pretrained: str | None, device: str) -> Any:
    from embedcal.reencoding import Source

    return Source(root=root, backbone=backbone, pretrained=pretrained, device=device)
