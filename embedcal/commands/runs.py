"""Commands on single runs: demo, fit, methods."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from embedcal.commands import completing
from embedcal.commands.by_method import CONTEXT, method_group
from embedcal.commands.shared import (
    Attribute,
    CacheFile,
    Device,
    Json,
    Oracle,
    Seed,
    Select,
    answer,
    say,
    selection,
)

Memory = Annotated[
    str | None,
    typer.Option(help="features above this stay in the file: 2GB; half of the machine's memory"),
]


def register(app: typer.Typer) -> None:
    """Give these commands to the app."""
    app.command(short_help="the main job on data that comes along: cache, fit, one table")(demo)
    app.add_typer(fit, name="fit", short_help="train one method over a cache, in seconds")
    app.command(short_help="every method and the labels that it reads")(methods)


def demo(
    dataset: Annotated[
        str,
        typer.Option(
            help="birds, or digits: real handwriting",
            autocompletion=completing.words("birds", "digits"),
        ),
    ] = "birds",
    rows: Annotated[
        int | None, typer.Option(help="pictures to make; by default 5894 birds or 1797 digits")
    ] = None,
    seeds: Annotated[int, typer.Option(help="head seeds a method")] = 3,
    seed: Annotated[int, typer.Option(help="seed of the pictures")] = 0,
    every: Annotated[bool, typer.Option("--all", help="every method, by what it reads")] = False,
    as_json: Json = False,
) -> None:
    """Embedded birds or digits through the tiny CLIP: cache, fit, one table. No network.

    Example: embedcal demo
    """
    from embedcal.answers.runs import demo_report
    from embedcal.demo import demo as run
    from embedcal.progress import progress

    with progress() as bars:
        found = run(dataset, rows=rows, seeds=seeds, seed=seed, every=every, progress=bars)
    answer(found.record, demo_report(found), as_json=as_json)


def _shared(
    cache: CacheFile = None,
    seed: Seed = 0,
    select: Select = None,
    oracle: Oracle = False,
    attribute: Attribute = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="folder of runs")] = None,
    device: Device = "auto",
    memory: Memory = None,
    as_json: Json = False,
) -> None:
    """Options that every method has."""


def _fit(name: str, options: Mapping[str, Any], shared: Mapping[str, Any]) -> None:
    from embedcal.annotating import labelled, notes
    from embedcal.answers.caches import cache_line
    from embedcal.answers.runs import run_record, run_report
    from embedcal.cache import open_cache
    from embedcal.caching import which_cache
    from embedcal.datasets.places import remember, remember_last_cache
    from embedcal.fitting import fit as run
    from embedcal.streaming import left_in_file

    select = selection(shared["select"], oracle=shared["oracle"])
    path = which_cache(shared["cache"])
    with open_cache(path) as opened:
        say(cache_line(opened.meta))
        left = left_in_file(opened.meta.rows, opened.meta.shapes, shared["memory"])
        for line in [*notes(opened, shared["attribute"]), *left]:
            say(line)
        found = run(
            name,
            opened,
            seed=shared["seed"],
            select=select,
            attribute=shared["attribute"],
            out=shared["out"],
            device=shared["device"],
            memory=shared["memory"],
            **options,
        )
        names = labelled(opened, shared["attribute"]).group_names(shared["attribute"])
    remember_last_cache(path)
    remember("run", found.folder)
    answer(run_record(found), run_report(found, names), as_json=shared["as_json"])


fit = typer.Typer(cls=method_group(_fit, _shared), rich_markup_mode=None, context_settings=CONTEXT)


@fit.callback(no_args_is_help=True)
def _fit_help() -> None:
    """Fit one method over a cache and store the run: embedcal fit METHOD [OPTIONS].

    Example: embedcal fit dfr --seed 1
    """


def methods(as_json: Json = False) -> None:
    """Every method: what it minimises, the labels that it reads, its options.

    Example: embedcal methods
    """
    from embedcal.answers.runs import methods_record, methods_report

    answer(methods_record(), methods_report(), as_json=as_json)
