"""The command that writes a page about runs: report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from embedcal.commands.shared import CacheFile, Device, Json, Oracle, Select, answer, say, selection


def register(app: typer.Typer) -> None:
    """Give this command to the app."""
    app.command(short_help="one page that shows what was run, and what came of it")(report)


def report(
    runs: Annotated[
        list[str] | None,
        typer.Argument(help="folders of runs, ids, or last; by default the grid used last"),
    ] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="the page: .html")] = Path("report.html"),
    by: Annotated[
        str, typer.Option(help="what makes a row: method, or a list: method,neg")
    ] = "method",
    select: Select = None,
    oracle: Oracle = False,
    metric: Annotated[str | None, typer.Option(help="worst_group, mean, worst_class, ...")] = None,
    attribute: Annotated[
        list[str] | None,
        typer.Option(
            "--attribute", help="judge test by this one's groups, not by those fitted with"
        ),
    ] = None,
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
            _named(runs, cache),
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


def _named(runs: list[str] | None, cache: Path | None) -> list[str | Path]:
    """Folders as they are; ids and ``last`` as folders of runs; for none the grid used last."""
    from embedcal.caching import which_cache
    from embedcal.datasets.places import remembered
    from embedcal.errors import EmbedcalError
    from embedcal.interchange import find_run

    if runs:
        found = [name if Path(name).exists() else None for name in runs]
        return [
            path if path is not None else find_run(name, which_cache(cache)).folder
            for name, path in zip(runs, found, strict=True)
        ]
    last = remembered("grid")
    if last is None:
        raise EmbedcalError(
            "expected runs, found none named and no grid before: give a folder of runs, an id, or "
            "last, or run embedcal grid first"
        )
    say(f"runs {last}")
    return [last]
