"""The command that fits every method and ranks them by what they read: leaderboard."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from embedcal.commands import completing
from embedcal.commands.grids import numbers
from embedcal.commands.many_runs import Engine, Jobs, RetryFailed, Seeds, over_cache
from embedcal.commands.runs import Memory
from embedcal.commands.shared import (
    SKIPPED,
    Attribute,
    CacheFile,
    Device,
    Json,
    Oracle,
    answer,
    one_form,
    plain,
)
from embedcal.errors import EmbedcalError


def register(app: typer.Typer) -> None:
    """Give this command to the app."""
    app.command(short_help="every method, tuned by one rule, ranked by the labels it reads")(
        leaderboard
    )


def leaderboard(
    cache: CacheFile = None,
    methods: Annotated[
        str | None,
        typer.Option(
            help="only these: erm,cfr,dfr; by default all",
            autocompletion=completing.listed(completing.methods),
        ),
    ] = None,
    select: Annotated[
        list[str] | None,
        typer.Option(
            "--select",
            help="the rule that chooses epochs and settings; may be repeated; by default "
            "val.worst_class and val.worst_group",
            autocompletion=completing.rules,
        ),
    ] = None,
    oracle: Oracle = False,
    seeds: Seeds = "5",
    quick: Annotated[bool, typer.Option("--quick", help="each method's defaults alone")] = False,
    budget: Annotated[
        int | None, typer.Option(help="settings of each method, its defaults among them; 8")
    ] = None,
    default_grid: Annotated[
        bool, typer.Option("--default-grid", help="every setting of each method's own grid")
    ] = False,
    grid: Annotated[
        Path | None,
        typer.Option("--grid", "--file", help="a TOML file of [[runs]] in place of their grids"),
    ] = None,
    options: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="OPTION=VALUE",
            help="held for every method that takes it: head=linear; may be repeated",
        ),
    ] = None,
    search_seed: Annotated[int, typer.Option(help="decides which settings are drawn")] = 0,
    metric: Annotated[
        str | None,
        typer.Option(
            help="what is ranked by: worst_group, train_weighted, mean, ...",
            autocompletion=completing.metrics,
        ),
    ] = None,
    attribute: Attribute = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="folder of the runs; one of its own")
    ] = None,
    device: Device = "auto",
    engine: Engine = "auto",
    jobs: Jobs = None,
    memory: Memory = None,
    retry_failed: RetryFailed = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="print a Markdown table")] = False,
    latex: Annotated[bool, typer.Option("--latex", help="print a LaTeX table")] = False,
    as_json: Json = False,
) -> None:
    """Fit every method, choose by a rule on validation, and rank those that read the same labels.

    What is there already is not done again: a larger call goes on with a smaller one.

    Example: embedcal leaderboard --quick --seeds 3
    """
    from embedcal.answers import leaderboard as answers
    from embedcal.leading import leaderboard as run

    one_form(json=as_json, latex=latex, markdown=markdown)
    with over_cache(cache, attribute, memory) as (opened, view):
        found = run(
            opened,
            methods=None if methods is None else _listed(methods),
            select=_rules(select),
            seeds=numbers(seeds),
            budget=budget,
            quick=quick,
            default_grid=default_grid,
            grid=grid,
            options=_held(options or ()),
            search_seed=search_seed,
            attribute=attribute,
            metric=metric,
            oracle=oracle,
            out=out,
            device=device,
            engine=engine,
            jobs=jobs,
            memory=memory,
            retry_failed=retry_failed,
            watch=view,
        )
    report: Any = answers.leaderboard_report(found)
    if latex or markdown:
        report = plain(answers.latex(found) if latex else answers.markdown(found))
    answer(found.record, report, as_json=as_json)
    if found.failed:
        raise typer.Exit(SKIPPED)


def _rules(select: Sequence[str] | None) -> list[str] | None:
    """The rules that were named, as ``--select A --select B`` or ``--select A,B``."""
    return [name for text in select for name in _listed(text)] if select else None


def _listed(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _held(options: Sequence[str]) -> dict[str, str]:
    found = {}
    for text in options:
        name, equals, value = text.partition("=")
        if not (name and equals and value):
            raise EmbedcalError(
                f"expected --set OPTION=VALUE, found '{text}': write, say, --set head=linear"
            )
        found[name.strip().replace("-", "_")] = value.strip()
    return found
