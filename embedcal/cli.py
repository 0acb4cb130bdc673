"""The command line: each command is parse, one call of a public function, print.

Exit status: 0 done, 1 a bug of ours, 2 something that the user can mend, 3 finished with samples
skipped, 130 interrupted. Heavy imports are guests of the commands that need them.
"""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from embedcal.commands import CONTEXT, in_order, method_group
from embedcal.errors import EmbedcalError

app = typer.Typer(
    name="embedcal",
    cls=in_order("demo", "cache", "fit", "info", "verify", "methods", "datasets"),
    help="Cache a frozen CLIP once, then train robust heads over it in seconds.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings=CONTEXT,
)

Json = Annotated[bool, typer.Option("--json", help="print one JSON document, nothing else")]
CacheFile = Annotated[
    Path | None, typer.Option("--cache", help="the cache; by default the one used last")
]
Device = Annotated[str, typer.Option(help="cpu, cuda, mps; auto: an accelerator if there is one")]
SKIPPED = 3
INTERRUPTED = 130


def main() -> None:
    """Run the command line; every mistake of the user's ends in one line and status 2."""
    from typer.exceptions import TyperException

    try:
        status = app(standalone_mode=False, prog_name="embedcal")
    except EmbedcalError as error:
        status = _fail(str(error))
    except TyperException as error:
        status = _usage(error)
    except (KeyboardInterrupt, typer.Abort):
        status = INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 0
    if status == INTERRUPTED:  # typer turns some of them into a status itself
        again = shlex.join(["embedcal", *sys.argv[1:]])
        _say(f"interrupted; what was finished is kept. To go on: {again}")
    sys.exit(status if isinstance(status, int) else 0)


@app.callback(invoke_without_command=True)
def _root(
    version: Annotated[bool, typer.Option("--version", help="print the version")] = False,
) -> None:
    if version:
        from embedcal import __version__

        typer.echo(f"embedcal {__version__}")
        raise typer.Exit


@app.command(short_help="the main job on embedded birds: cache, fit, one table")
def demo(
    rows: Annotated[int, typer.Option(help="pictures to render")] = 5894,
    seeds: Annotated[int, typer.Option(help="head seeds a method")] = 3,
    seed: Annotated[int, typer.Option(help="seed of the rendered world")] = 0,
    every: Annotated[bool, typer.Option("--all", help="every method, by what it reads")] = False,
    as_json: Json = False,
) -> None:
    """Embedded birds through the tiny CLIP: cache, fit methods, one table. No network.

    Example: embedcal demo
    """
    from embedcal.answers.runs import demo_report
    from embedcal.demo import demo as run
    from embedcal.progress import progress

    with progress() as bars:
        found = run(rows=rows, seeds=seeds, seed=seed, every=every, progress=bars)
    _answer(found.record, demo_report(found), as_json=as_json)


@app.command(short_help="encode a data set once into one HDF5 file")
def cache(
    source: Annotated[str, typer.Argument(help="waterbirds, birds, a CSV file, or a folder")],
    backbone: Annotated[
        str | None,
        typer.Option(help="tiny, RN50, ViT-L/14@336px, FILE.py:Name [RN50; for birds: tiny]"),
    ] = None,
    pretrained: Annotated[str | None, typer.Option(help="open_clip's tag, or a file")] = None,
    root: Annotated[Path | None, typer.Option(help="folder of the images")] = None,
    out: Annotated[Path | None, typer.Option(help="the cache file to write")] = None,
    classes: Annotated[str | None, typer.Option(help="class names, in order: land,water")] = None,
    attributes: Annotated[str | None, typer.Option(help="names of the attribute's values")] = None,
    attribute_name: Annotated[str | None, typer.Option(help="the attribute's own name")] = None,
    columns: Annotated[str | None, typer.Option(help="foreign headers: path=file,y=label")] = None,
    prompts: Annotated[Path | None, typer.Option(help="JSON file of prompts by bank")] = None,
    templates: Annotated[str, typer.Option(help="openai (all 80), simple, or a file")] = "openai",
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
    from embedcal.datasets.benchmarks import BIRDS_ROWS
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
                attributes=attributes_of(attributes) if attributes else None,
                attribute_name=attribute_name,
                prompts=prompts,
                strict=strict,
                allow_outside_root=allow_outside_root,
                rows=rows,
                seed=seed,
                progress=bars.counter("render", rows or BIRDS_ROWS),
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
    _answer(cache_record(report), cache_report(report), as_json=as_json)
    if report.skipped:
        raise typer.Exit(SKIPPED)


def _shared(
    cache: CacheFile = None,
    seed: Annotated[int, typer.Option(help="decides everything random")] = 0,
    select: Annotated[
        str | None,
        typer.Option(help="val.worst_group, val.worst_class, val.mean, last, oracle.worst_group"),
    ] = None,
    oracle: Annotated[bool, typer.Option("--oracle", help="allow selection on test")] = False,
    attribute: Annotated[str | None, typer.Option(help="the one that makes the groups")] = None,
    out: Annotated[Path | None, typer.Option(help="folder of runs")] = None,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Options that every method has."""


def _fit(name: str, options: Mapping[str, Any], shared: Mapping[str, Any]) -> None:
    from embedcal.answers.caches import cache_line
    from embedcal.answers.runs import run_record, run_report
    from embedcal.cache import open_cache
    from embedcal.caching import which_cache
    from embedcal.fitting import fit as run

    if shared["select"] == "oracle.worst_group" and not shared["oracle"]:
        raise EmbedcalError(
            "expected --oracle beside --select oracle.worst_group, which looks at test: add it, or "
            "select by val.worst_group"
        )
    select = shared["select"] or ("oracle.worst_group" if shared["oracle"] else None)
    path = which_cache(shared["cache"])
    with open_cache(path) as opened:
        _say(cache_line(opened.meta))
        found = run(
            name,
            opened,
            seed=shared["seed"],
            select=select,
            attribute=shared["attribute"],
            out=shared["out"],
            device=shared["device"],
            **options,
        )
        names = opened.group_names(shared["attribute"])
    _remember(path)
    _answer(run_record(found), run_report(found, names), as_json=shared["as_json"])


fit = typer.Typer(cls=method_group(_fit, _shared), rich_markup_mode=None, context_settings=CONTEXT)


@fit.callback(no_args_is_help=True)
def _fit_help() -> None:
    """Fit one method over a cache and store the run: embedcal fit METHOD [OPTIONS].

    Example: embedcal fit dfr --seed 1
    """


app.add_typer(fit, name="fit", short_help="train one method over a cache, in seconds")


@app.command(short_help="what is in a cache")
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
        _answer(info_record(opened), info_report(opened), as_json=as_json)


@app.command(short_help="has any byte of a cache changed?")
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
    _answer(record, f"{found.path}: every byte is as written", as_json=as_json)


@app.command(short_help="every method and the labels that it reads")
def methods(as_json: Json = False) -> None:
    """Every method: what it minimises, the labels that it reads, its options.

    Example: embedcal methods
    """
    from embedcal.answers.runs import methods_record, methods_report

    _answer(methods_record(), methods_report(), as_json=as_json)


@app.command(short_help="the named data sets")
def datasets(as_json: Json = False) -> None:
    """Named data sets: groups, where they come from, licence.

    Example: embedcal datasets
    """
    from embedcal.answers.caches import datasets_record, datasets_report

    _answer(datasets_record(), datasets_report(), as_json=as_json)


@app.command(short_help="make a cache of ready features")
def import_features(
    file: Annotated[Path, typer.Argument(help=".npz with features, y, split, attributes")],
    out: Annotated[Path | None, typer.Option(help="the cache file to write")] = None,
    name: Annotated[str | None, typer.Option(help="name of the data set")] = None,
    features: Annotated[str, typer.Option(help="the array of features")] = "features",
    attribute: Annotated[
        list[str] | None, typer.Option(help="an array of attribute values; may be repeated")
    ] = None,
    classes: Annotated[str | None, typer.Option(help="class names, in order")] = None,
    attributes: Annotated[str | None, typer.Option(help="names of the attribute's values")] = None,
    as_json: Json = False,
) -> None:
    """Make a cache of features that something else computed: no images, no prompts.

    Example: embedcal import-features features.npz --attribute place
    """
    from embedcal.caching import import_npz
    from embedcal.tables import facts

    path = import_npz(
        file,
        out=out,
        name=name,
        features=features,
        attributes=tuple(attribute or ()),
        classes=classes,
        values=attributes,
    )
    _answer({"path": str(path)}, facts({"cache": str(path)}), as_json=as_json)


def _answer(record: Mapping[str, Any], report: Any, *, as_json: bool) -> None:
    """One JSON document on standard output, or a report for people."""
    from embedcal.tables import show

    if as_json:
        sys.stdout.write(json.dumps(record, indent=2, allow_nan=False) + "\n")
    else:
        show(report)


def _say(line: str) -> None:
    """A line for people, on standard error."""
    from embedcal.tables import show, shown

    show(shown(line), stderr=True)


def _fail(message: str) -> int:
    from embedcal.datasets.printable import printable

    sys.stderr.write(f"embedcal: {printable(message, longest=4000)}\n")
    return 2


def _usage(error: Any) -> int:
    """A mistyped command or option in one line; the whole help where nothing was typed at all."""
    message = str(error.format_message()).strip()
    ctx = getattr(error, "ctx", None)
    if ctx is not None and message == ctx.get_help().strip():
        sys.stderr.write(message + "\n")
        return 2
    see = f" (see '{ctx.command_path} --help')" if ctx is not None else ""
    return _fail(message.replace("\n", " ") + see)


def _remember(path: Path) -> None:
    from embedcal.datasets.places import remember_last_cache

    remember_last_cache(path)


def _keep(text: str) -> bool:
    if text not in ("", "tokens"):
        raise EmbedcalError(f"expected --keep tokens, found --keep {text}")
    return text == "tokens"
