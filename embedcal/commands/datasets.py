"""The command datasets and what is below it: the list, show, check, get."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from embedcal.commands import completing
from embedcal.commands.by_method import CONTEXT, in_order
from embedcal.commands.shared import SKIPPED, Json, answer

Name = Annotated[
    str,
    typer.Argument(
        help="a named data set, as embedcal datasets lists them",
        autocompletion=completing.datasets,
    ),
]


def register(app: typer.Typer) -> None:
    """Give this command and those below it to the app."""
    below = typer.Typer(
        cls=in_order("show", "check", "get"),
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        context_settings=CONTEXT,
    )
    below.callback(invoke_without_command=True)(datasets)
    below.command(short_help="what is known of one, and how to obtain it")(show)
    below.command(short_help="is what lies on disk the data set?")(check)
    below.command(short_help="download it, where that can be done")(get)
    app.add_typer(below, name="datasets", short_help="the named data sets")


def datasets(ctx: typer.Context, as_json: Json = False) -> None:
    """Named data sets: size, groups, licence, what is automatic and what is not.

    Example: embedcal datasets
    """
    from embedcal.answers.datasets import datasets_record, datasets_report

    if ctx.invoked_subcommand is None:
        answer(datasets_record(), datasets_report(), as_json=as_json)


def show(name: Name, as_json: Json = False) -> None:
    """What is known of a data set: groups of each split, prompts, layouts, how to obtain it.

    Example: embedcal datasets show waterbirds
    """
    from embedcal.answers.datasets import show_record, show_report
    from embedcal.datasets.named import benchmark

    facts = benchmark(name)
    answer(show_record(facts), show_report(facts), as_json=as_json)


def check(
    name: Name,
    root: Annotated[Path | None, typer.Option(help="folder of the data set")] = None,
    split: Annotated[
        str | None,
        typer.Option(help="a rule of its own, or 0.7,0.1,0.2", autocompletion=completing.splits),
    ] = None,
    sample: Annotated[int, typer.Option(help="images to decode")] = 64,
    as_json: Json = False,
) -> None:
    """Compare what lies on disk with what is known: files, columns, counts, some images.

    Status 2 where it is not the data set, 3 where something differs that one can live with.

    Example: embedcal datasets check waterbirds --root ~/data
    """
    from embedcal.answers.datasets import check_record, check_report
    from embedcal.checking import check as run
    from embedcal.datasets import ReadOptions
    from embedcal.progress import progress

    with progress() as bars:
        found = run(
            name,
            root,
            options=ReadOptions(split=split),
            sample=sample,
            progress=bars.counter("make", 0),
        )
    answer(check_record(found), check_report(found), as_json=as_json)
    if any(finding.state == "fails" for finding in found.findings):
        raise typer.Exit(2)
    if not found.ok:
        raise typer.Exit(SKIPPED)


def get(
    name: Name,
    root: Annotated[Path | None, typer.Option(help="folder to put it into")] = None,
    as_json: Json = False,
) -> None:
    """Download a data set and unpack it; what is there already is not fetched again.

    Example: embedcal datasets get waterbirds --root ~/data
    """
    from embedcal.answers.datasets import get_record, get_report
    from embedcal.obtaining import obtain
    from embedcal.progress import progress

    with progress() as bars:
        got = obtain(name, root, progress=bars.stage)
    answer(get_record(got), get_report(got), as_json=as_json)
