"""Progress on standard error: bars with their rates, or a grid's table while it runs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING

from rich.console import Console, RenderableType
from rich.live import Live
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from embedcal.tables import console, facts, percent, shown

if TYPE_CHECKING:
    from embedcal.grids import Tally

QUIET = 30.0  # seconds between lines where there is no terminal


class Rate(ProgressColumn):
    """Items a second since the stage began."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text(f"{speed:,.0f}/s" if speed else "", style="progress.data.speed")


class Bars:
    """One bar for each stage, made when the stage first reports."""

    def __init__(self, shown: Progress) -> None:
        self._shown = shown
        self._tasks: dict[str, object] = {}

    def stage(self, stage: str, done: int, total: int) -> None:
        """``stage`` has done so many of its total."""
        if stage not in self._tasks:
            self._tasks[stage] = self._shown.add_task(stage, total=total)
        self._shown.update(self._tasks[stage], completed=done, total=total)  # type: ignore[arg-type]

    def counter(self, stage: str, total: int) -> Callable[[int], None]:
        """A callback that takes only how many are done."""
        return lambda done: self.stage(stage, done, total)


@contextmanager
def progress() -> Iterator[Bars]:
    """Bars on standard error while the block runs."""
    to = console(stderr=True)
    shown = Progress(
        TextColumn("{task.description:<8}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        Rate(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=to,
        disable=not to.is_terminal,
    )
    with shown:
        yield Bars(shown)


class GridView:
    """How far a grid is: a live table on a terminal, else a line every half minute."""

    def __init__(self, to: Console) -> None:
        self._to = to
        self._began = self._told = time.monotonic()
        self._tally: Tally | None = None

    def __call__(self, tally: Tally) -> None:
        if self._tally is None:  # what came before, imports and planning, is no run's
            self._began = time.monotonic()
        self._tally = tally
        if not self._to.is_terminal and time.monotonic() - self._told > QUIET:
            self._told = time.monotonic()
            line = ", ".join(f"{name} {value}" for name, value in self._facts().items())
            self._to.print(line, soft_wrap=True)

    def __rich__(self) -> RenderableType:
        return facts(self._facts()) if self._tally else ""

    def _facts(self) -> dict[str, object]:
        tally, seconds = self._tally, time.monotonic() - self._began
        assert tally is not None
        ended = tally.done + tally.failed
        fresh = ended - tally.reused
        rate = fresh / seconds if seconds > 0 else 0.0
        there = f" ({tally.reused:,} were there)" if tally.reused else ""
        found: dict[str, object] = {
            "done": f"{tally.done:,} of {tally.total:,}{there}",
            "running": f"{tally.running:,}",
            "failed": f"{tally.failed:,}",
        }
        if tally.best is not None:
            label, score = tally.best
            found["best"] = f"{shown(label)}, {tally.rule} {percent(score)}"
        if fresh and rate:
            left = round((tally.total - ended) / rate)
            found["rate"] = f"{rate:,.1f} runs/s" if rate >= 1 else f"{60 * rate:,.1f} runs/min"
            found["left"] = str(timedelta(seconds=left))
        return found


@contextmanager
def grid_view() -> Iterator[GridView]:
    """A grid's table on standard error while the block runs."""
    to = console(stderr=True)
    view = GridView(to)
    if not to.is_terminal:
        yield view
        return
    with Live(view, console=to, refresh_per_second=4, transient=True):
        yield view
