"""Commands on caches: cache, info; and the joining of shards."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from embedcal.commands import completing
from embedcal.commands.shared import SKIPPED, Device, File, Json, answer
from embedcal.errors import EmbedcalError


def register(app: typer.Typer) -> None:
    """Give these commands to the app."""
    app.command(short_help="encode a data set once into one HDF5 file")(cache)
    app.command(short_help="what is in a cache")(info)


def cache(
    source: Annotated[
        str,
        typer.Argument(
            help="a named data set, a CSV file, a folder, ...", autocompletion=completing.datasets
        ),
    ],
    backbone: Annotated[
        str | None,
        typer.Option(
            help="tiny, RN50, ViT-L/14@336px, FILE.py:Name [RN50; birds, digits: tiny]",
            autocompletion=completing.backbones,
        ),
    ] = None,
    pretrained: Annotated[str | None, typer.Option(help="open_clip's tag, or a file")] = None,
    root: Annotated[Path | None, typer.Option(help="folder of the images")] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="the cache file to write")] = None,
    classes: Annotated[str | None, typer.Option(help="class names, in order: land,water")] = None,
    attributes: Annotated[str | None, typer.Option(help="names of the attribute's values")] = None,
    attribute_name: Annotated[str | None, typer.Option(help="the attribute's own name")] = None,
    attribute: Annotated[
        list[str] | None, typer.Option(help="a column that is an attribute; may be repeated")
    ] = None,
    columns: Annotated[str | None, typer.Option(help="foreign headers: path=file,y=label")] = None,
    split: Annotated[
        str | None,
        typer.Option(
            help="0.7,0.1,0.2 of train, val, test, or a rule of the set's",
            autocompletion=completing.splits,
        ),
    ] = None,
    split_seed: Annotated[int, typer.Option(help="decides which rows those are")] = 0,
    boxes: Annotated[Path | None, typer.Option(help="instances in COCO's form (JSON)")] = None,
    prompts: Annotated[Path | None, typer.Option(help="JSON file of prompts by bank")] = None,
    descriptions: Annotated[
        Path | None, typer.Option(help="JSON file of sentences by class, in place of prompts")
    ] = None,
    templates: Annotated[
        str,
        typer.Option(
            help="openai (all 80), simple, FILE or FILE#KEY", autocompletion=completing.templates
        ),
    ] = "openai",
    pairs: Annotated[
        str | None,
        typer.Option(
            help="TOML file of concept pairs; none: without the data set's own",
            autocompletion=completing.words("none"),
        ),
    ] = None,
    crop: Annotated[
        str,
        typer.Option(
            help="centre crop: pixels, none; auto: the data set's for image-only",
            autocompletion=completing.words("auto", "none"),
        ),
    ] = "auto",
    keep: Annotated[
        str,
        typer.Option(
            help="'tokens' keeps the map before the pool",
            autocompletion=completing.words("tokens"),
        ),
    ] = "",
    store: Annotated[
        Literal["float32", "float16"], typer.Option(help="stored type of features")
    ] = "float32",
    precision: Annotated[
        str,
        typer.Option(
            help="fp32, bf16, fp16; auto: bf16 where the device is made for it",
            autocompletion=completing.precisions,
        ),
    ] = "fp32",
    runtime: Annotated[
        Literal["torch", "openvino", "onnxruntime"],
        typer.Option(help="what runs the frozen trunk; the others are held to torch's features"),
    ] = "torch",
    batch_size: Annotated[int, typer.Option(help="images a batch")] = 64,
    workers: Annotated[int | None, typer.Option(help="decoding threads; all cores")] = None,
    device: Device = "auto",
    on_error: Annotated[
        Literal["skip", "raise"], typer.Option(help="what an unreadable image does")
    ] = "skip",
    rows: Annotated[int | None, typer.Option(help="birds: pictures to render")] = None,
    seed: Annotated[int | None, typer.Option(help="birds: seed of the world")] = None,
    shard: Annotated[
        str | None, typer.Option(help="I/N: only that part of the rows, for embedcal merge")
    ] = None,
    extend: Annotated[
        Path | None,
        typer.Option(
            help="an older cache: images that it has are not encoded again",
            autocompletion=completing.caches,
        ),
    ] = None,
    engine: Annotated[
        Literal["here", "ray"], typer.Option(help="ray: shards on a cluster, then one file")
    ] = "here",
    jobs: Annotated[int | None, typer.Option(help="ray: shards at once; one a core")] = None,
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
    from embedcal.caching import cache as here
    from embedcal.datasets import ReadOptions, attributes_of, columns_of
    from embedcal.datasets.birds import ROWS
    from embedcal.progress import progress

    run: Any = here
    if jobs is not None and engine != "ray":
        raise EmbedcalError(
            f"expected --engine ray beside --jobs, found {engine}: add it, or leave --jobs out; "
            "threads are --workers"
        )
    if engine == "ray":
        from embedcal.sharded import cache as spread

        run = partial(spread, jobs=jobs)
    with progress() as bars:
        report = run(
            source,
            backbone=backbone,
            pretrained=pretrained,
            precision=precision,
            runtime=runtime,
            device=device,
            root=root,
            out=out,
            templates=templates,
            pairs=pairs,
            read=ReadOptions(
                columns=columns_of(columns) if columns else {},
                classes=classes,
                attributes=attributes_of(attributes or "", attribute or ()),
                attribute_name=attribute_name,
                prompts=prompts,
                descriptions=descriptions,
                crop=crop,
                split=split,
                split_seed=split_seed,
                boxes=boxes,
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
            shard=shard,
            extend=extend,
            explain_miss=explain_miss,
            progress=bars.stage,
        )
    answer(cache_record(report), cache_report(report), as_json=as_json)
    if report.skipped:
        raise typer.Exit(SKIPPED)


def info(
    file: File = None,
    as_json: Json = False,
) -> None:
    """What is in a cache: encoder, rows, groups in each split, text banks, warnings.

    Example: embedcal info --json | jq .fingerprint
    """
    from embedcal.answers.caches import info_record, info_report, shard_record, shard_report
    from embedcal.cache.sharding import Shard, open_any
    from embedcal.caching import which_cache

    with open_any(which_cache(file)) as opened:
        if isinstance(opened, Shard):
            answer(shard_record(opened), shard_report(opened), as_json=as_json)
        else:
            record = info_record(opened)
            answer(record, info_report(record), as_json=as_json)


def join(files: list[Path], out: Path, *, virtual: bool, as_json: bool) -> None:
    """What ``embedcal merge`` does with shards of a cache."""
    from embedcal.answers.caches import joined_record, joined_report
    from embedcal.cache.merging import join_shards
    from embedcal.datasets.places import remember_last_cache
    from embedcal.progress import progress

    for path in files:
        if path.is_dir():
            raise EmbedcalError(
                f"expected shards of a cache, found the folder {path}: name their files, or name "
                "folders of runs only"
            )
    with progress() as bars:
        found = join_shards(files, out, virtual=virtual, progress=partial(bars.stage, "merge"))
    remember_last_cache(found.path)
    answer(joined_record(found), joined_report(found), as_json=as_json)


def _keep(text: str) -> bool:
    if text not in ("", "tokens"):
        raise EmbedcalError(
            f"expected --keep tokens, found --keep {text}: other levels are always kept; write "
            "tokens, or leave it out"
        )
    return text == "tokens"
