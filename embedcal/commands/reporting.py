"""The command that writes a page about runs: report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from embedcal.commands import completing
from embedcal.commands.shared import (
    By,
    CacheFile,
    Device,
    Json,
    Judge,
    Oracle,
    Select,
    answer,
    named_runs,
    selection,
)


def register(app: typer.Typer) -> None:
    """Give this command to the app."""
    app.command(short_help="one page that shows what was run, and what came of it")(report)


def report(
    runs: Annotated[
        list[str] | None,
        typer.Argument(
            help="folders of runs, ids, or last; by default the grid used last",
            autocompletion=completing.runs,
        ),
    ] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="the page: .html")] = Path("report.html"),
    by: By = "method",
    select: Select = None,
    oracle: Oracle = False,
    metric: Annotated[
        str | None,
        typer.Option(help="worst_group, mean, worst_class, ...", autocompletion=completing.metrics),
    ] = None,
    attribute: Judge = None,
    detect: Annotated[
        bool, typer.Option("--detect", help="look for attributes, and ask healthy or spurious")
    ] = False,
    no_images: Annotated[
        bool, typer.Option("--no-images", help="no photographs in the page")
    ] = False,
    root: Annotated[
        Path | None, typer.Option(help="folder of the images; else found by digest")
    ] = None,
    device: Device = "auto",
    cache: CacheFile = None,
    as_json: Json = False,
) -> None:
    """Write one HTML page about runs: verdict, tables, figures, errors. It needs no connection.

    Example: embedcal report --detect -o report.html
    """
    from embedcal.answers.reporting import report_record, report_report
    from embedcal.progress import progress
    from embedcal.reporting import ReportOptions
    from embedcal.reporting import report as write

    with progress() as bars:
        found = write(
            named_runs(runs, cache),
            out,
            ReportOptions(
                by=by,
                select=selection(select, oracle=oracle),
                oracle=oracle,
                metric=metric,
                attribute=tuple(attribute or ()),
                cache=cache,
                root=root,
                images=not no_images,
                detect=detect,
                device=device,
            ),
            progress=lambda done, total: bars.stage("report", done, total),
        )
    record = report_record(found)
    answer(record, report_report(record), as_json=as_json)
