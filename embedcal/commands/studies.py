"""Commands of whole questions: study, reproduce."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

import typer

from embedcal.commands import completing
from embedcal.commands.grids import numbers
from embedcal.commands.many_runs import Engine, Jobs
from embedcal.commands.shared import (
    SKIPPED,
    Attribute,
    Device,
    Json,
    Select,
    answer,
    one_form,
    plain,
    say,
)

Caches = Annotated[
    list[Path] | None,
    typer.Option(
        "--cache",
        help="a cache; may be repeated; by default the one used last",
        autocompletion=completing.caches,
    ),
]
Seeds = Annotated[str | None, typer.Option(help="how many, or which: 5, or 0,3,7")]
Markdown = Annotated[bool, typer.Option("--markdown", help="print Markdown")]


def register(app: typer.Typer) -> None:
    """Give these commands to the app."""
    app.command(short_help="an open question of the papers, answered on your data")(study)
    app.command(short_help="a published table: ours beside theirs, checked")(reproduce)


def study(
    name: Annotated[
        str | None,
        typer.Argument(
            help="a study, or a TOML file; none: what there is",
            autocompletion=completing.studies,
        ),
    ] = None,
    cache: Caches = None,
    seeds: Seeds = None,
    select: Select = None,
    attribute: Attribute = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="the study's folder; one of its own")
    ] = None,
    device: Device = "auto",
    engine: Engine = "auto",
    jobs: Jobs = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="one seed, two epochs: to see that it runs")
    ] = False,
    markdown: Markdown = False,
    as_json: Json = False,
) -> None:
    """Answer one of the papers' open questions on a cache: a table, a figure, a paragraph.

    Example: embedcal study cfr-sampling
    """
    from embedcal.answers.studies import studies_record, studies_report, study_report
    from embedcal.cache import open_cache
    from embedcal.caching import which_cache
    from embedcal.progress import grid_view
    from embedcal.studies import studies
    from embedcal.studies import study as run
    from embedcal.studies.markdown import markdown as written

    one_form(json=as_json, markdown=markdown)
    if name is None:
        listed = studies()
        answer(studies_record(listed), studies_report(listed), as_json=as_json)
        return
    with ExitStack() as stack:
        paths = [which_cache(path) for path in cache] if cache else [which_cache(None)]
        opened = [stack.enter_context(open_cache(path)) for path in paths]
        _say_caches(opened)
        view = stack.enter_context(grid_view())
        found = run(
            name,
            opened,
            seeds=None if seeds is None else numbers(seeds),
            select=select,
            attribute=attribute,
            out=out,
            engine=engine,
            device=device,
            jobs=jobs,
            quick=quick,
            watch=view,
        )
    answer(
        found.record, plain(written(found)) if markdown else study_report(found), as_json=as_json
    )


def reproduce(
    name: Annotated[
        str | None,
        typer.Argument(
            help="a recipe, or a TOML file; none: what there is",
            autocompletion=completing.recipes,
        ),
    ] = None,
    cache: Caches = None,
    root: Annotated[Path | None, typer.Option(help="folder of the data set's images")] = None,
    seeds: Seeds = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="folder of the runs; one of its own")
    ] = None,
    device: Device = "auto",
    engine: Engine = "auto",
    jobs: Jobs = None,
    markdown: Markdown = False,
    as_json: Json = False,
) -> None:
    """Run the recipe of a published table; ours beside theirs, each within its tolerance or not.

    Status 3 where a figure is beyond its tolerance.

    Example: embedcal reproduce yang2023-table2 --root ~/data
    """
    from embedcal.answers.reproducing import (
        recipes_record,
        recipes_report,
        reproduction_markdown,
        reproduction_report,
    )
    from embedcal.cache import open_cache
    from embedcal.caching import which_cache
    from embedcal.progress import grid_view
    from embedcal.reproducing import recipes
    from embedcal.reproducing.running import reproduce as run

    one_form(json=as_json, markdown=markdown)
    if name is None:
        known = recipes()
        answer(recipes_record(known), recipes_report(known), as_json=as_json)
        return
    with ExitStack() as stack:
        opened = [stack.enter_context(open_cache(which_cache(path))) for path in cache or []]
        _say_caches(opened)
        view = stack.enter_context(grid_view())
        found = run(
            name,
            cache=opened or None,
            root=root,
            seeds=None if seeds is None else numbers(seeds),
            out=out,
            engine=engine,
            device=device,
            jobs=jobs,
            watch=view,
        )
    report = plain(reproduction_markdown(found)) if markdown else reproduction_report(found)
    answer(found.record, report, as_json=as_json)
    if not found.ok:
        raise typer.Exit(SKIPPED)


def _say_caches(opened: list[Any]) -> None:
    from embedcal.answers.caches import cache_line

    for each in opened:
        say(cache_line(each.meta))
