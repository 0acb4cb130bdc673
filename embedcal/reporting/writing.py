"""Gather, render, write: the page as a file that appears whole."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from embedcal.atomic import atomic
from embedcal.datasets.places import check_place
from embedcal.reporting.gathering import Progress, ReportOptions, gather, silently
from embedcal.reporting.page import render
from embedcal.types import EmbedcalError

SUFFIXES = (".html", ".htm")


@dataclass(frozen=True, kw_only=True)
class Written:
    """A page that was written: so many ``bytes`` about ``runs`` runs; ``notes``: what it lacks."""

    path: Path
    bytes: int
    runs: int
    sections: tuple[str, ...]
    notes: tuple[str, ...]


def report(
    runs: Sequence[str | Path] | str | Path,
    out: str | Path = "report.html",
    options: ReportOptions | None = None,
    *,
    progress: Progress = silently,
) -> Written:
    """Write one HTML page about ``runs``, which needs nothing beside it and opens no connection.

    ``runs``: folders of runs, folders of single runs, or ``results.jsonl`` files. What cannot be
    had, such as images that are not on this machine, is left out, and ``notes`` say so. The same
    runs give the same bytes. EmbedcalError where there is nothing to report, for names that do not
    exist, and where the page cannot be written.

    Example:
        >>> import embedcal
        >>> with embedcal.open("birds.h5") as cache:
        ...     run = embedcal.fit("erm", cache, epochs=2, out="runs")
        >>> embedcal.report("runs", "birds.html").path.name
        'birds.html'
    """
    path = Path(out).expanduser()
    if path.suffix.lower() not in SUFFIXES:
        raise EmbedcalError(
            f"expected a page's name to end in .html, found '{path.name}': call it {path.stem}.html"
        )
    check_place(path)
    page = gather(runs, options or ReportOptions(), progress)
    text = render(page).encode("utf-8")
    with atomic(path, parents=True, otherwise="choose another place with -o") as part:
        part.write_bytes(text)
    notes = [note for each in page.parts for note in (*each.block.notes, *each.notes)]
    return Written(
        path=path,
        bytes=len(text),
        runs=page.runs,
        sections=tuple(title for each in page.parts for _, title in each.sections),
        notes=tuple(dict.fromkeys([*page.notes, *notes])),
    )
