"""Commands on caches: cache, info, verify."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from embedcal.commands.shared import SKIPPED, Device, Json, answer
from embedcal.errors import EmbedcalError


def register(app: typer.Typer) -> None:
    """Give these commands to the app."""
    app.command(short_help="encode a data set once into one HDF5 file")(cache)
    app.command(short_help="what is in a cache")(info)
    app.command(short_help="has any byte of a cache changed?")(verify)


def cache(
    source: Annotated[str, typer.Argument(help="a named data set, a CSV file, a folder, ...")],
    backbone: Annotated[
        str | None,
        typer.Option(help="tiny, RN50, ViT-L/14@336px, FILE.py:Name [RN50; birds, digits: tiny]"),
    ] = None,
    pretrained: Annotated[str | None, typer.Option(help="open_clip's tag, or a file")] = None,
    root: Annotated[Path | None, typer.Option(help="folder of the images")] = None,
    out: Annotated[Path | None, typer.Option(help="the cache file to write")] = None,
    classes: Annotated[str | None, typer.Option(help="class names, in order: land,water")] = None,
    attributes: Annotated[str | None, typer.Option(help="names of the attribute's values")] = None,
    attribute_name: Annotated[str | None, typer.Option(help="the attribute's own name")] = None,
    attribute: Annotated[
        list[str] | None, typer.Option(help="a column that is an attribute; may be repeated")
    ] = None,
    columns: Annotated[str | None, typer.Option(help="foreign headers: path=file,y=label")] = None,
    split: Annotated[
        str | None, typer.Option(help="0.7,0.1,0.2 of train, val, test, or a rule of the set's")
    ] = None,
    split_seed: Annotated[int, typer.Option(help="decides which rows those are")] = 0,
    boxes: Annotated[Path | None, typer.Option(help="instances in COCO's form (JSON)")] = None,
    prompts: Annotated[Path | None, typer.Option(help="JSON file of prompts by bank")] = None,
    descriptions: Annotated[
        Path | None, typer.Option(help="JSON file of sentences by class, in place of prompts")
    ] = None,
    templates: Annotated[
        str, typer.Option(help="openai (all 80), simple, FILE or FILE#KEY")
    ] = "openai",
    crop: Annotated[
        str, typer.Option(help="centre crop: pixels, none; auto: the data set's for image-only")
    ] = "auto",
    keep: Annotated[str, typer.Option(help="'tokens' keeps the map before the pool")] = "",
    store: Annotated[
        Literal["float32", "float16"], typer.Option(help="stored type of features")
    ] = "float32",
    precision: Annotated[str, typer.Option(help="arithmetic: fp32, bf16, fp16")] = "fp32",
    batch_size: Annotated[int, typer.Option(help="images a batch")] = 64,
    workers: Annotated[int | None, typer.Option(help="decoding threads; all cores")] = None,
    device: Device = "auto",
    on_error: Annotated[
        Literal["skip", "raise"], typer.Option(help="what an unreadable image does")
    ] = "skip",
    rows: Annotated[int | None, typer.Option(help="birds: pictures to render")] = None,
    seed: Annotated[int | None, typer.Option(help="birds: seed of the world")] = None,
    strict: Annotated[bool, typer.Option("--strict", help="warnings are errors")] = False,
    allow_outside_root: Annotated[
        bool, typer.Option("--allow-outside-root", help="follow paths out of the root")
    ] = False,
    explain_miss: Annotated[
        bool, typer.Option("--explain-miss", help="say why the last cache does not serve")
    ] = False,
    as_json: Json = False,
) -> None:
    """Encode a data set once: image features, all templates, labels, projection, in one file.

    Example: embedcal cache birds --backbone tiny
    """
    from embedcal.answers.caches import cache_record, cache_report
    from embedcal.cache import BuildOptions
    from embedcal.caching import cache as run
    from embedcal.datasets import ReadOptions, attributes_of, columns_of
    from embedcal.datasets.birds import ROWS
    from embedcal.progress import progress

    with progress() as bars:
        report = run(
            source,
            backbone=backbone,
            pretrained=pretrained,
            precision=precision,
            device=device,
            root=root,
            out=out,
            templates=templates,
            read=ReadOptions(
                columns=columns_of(columns) if columns else {},
                classes=classes,
                attributes=attributes_of(attributes or "", attribute or ()),
                attribute_name=attribute_name,
                prompts=prompts,
                descriptions=descriptions,
                crop=crop,
                strict=strict,
                allow_outside_root=allow_outside_root,
                rows=rows,
                seed=seed,
                progress=bars.counter("make", rows or ROWS),
            ),
            build=BuildOptions(
                tokens=_keep(keep),
                store=store,
                batch_size=batch_size,
                workers=workers,
                on_error=on_error,
            ),
            explain_miss=explain_miss,
            progress=bars.stage,
        )
    answer(cache_record(report), cache_report(report), as_json=as_json)
    if report.skipped:
        raise typer.Exit(SKIPPED)


def info(
    file: Annotated[
        Path | None, typer.Argument(help="a cache; by default the one used last")
    ] = None,
    as_json: Json = False,
) -> None:
    """What is in a cache: encoder, rows, groups in each split, text banks, warnings.

    Example: embedcal info --json | jq .fingerprint
    """
    from embedcal.answers.caches import info_record, info_report
    from embedcal.cache import open_cache
    from embedcal.caching import which_cache

    with open_cache(which_cache(file)) as opened:
        answer(info_record(opened), info_report(opened), as_json=as_json)


def verify(
    file: Annotated[
        Path | None, typer.Argument(help="a cache; by default the one used last")
    ] = None,
    as_json: Json = False,
) -> None:
    """Hash a cache and say whether any byte has changed since it was written.

    Example: embedcal verify birds.h5
    """
    from embedcal.cache import verify as run
    from embedcal.caching import which_cache

    found = run(which_cache(file))
    if not found.ok:
        raise EmbedcalError(found.reason)
    record = {"path": str(found.path), "ok": found.ok, "sha256": found.sha256}
    answer(record, f"{found.path}: every byte is as written", as_json=as_json)


def _keep(text: str) -> bool:
    if text not in ("", "tokens"):
        raise EmbedcalError(f"expected --keep tokens, found --keep {text}")
    return text == "tokens"
