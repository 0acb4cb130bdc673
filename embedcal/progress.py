"""Progress on standard error: bars with their rates, or a grid's table while it runs.

Bars and tables are drawn on a terminal only, never into a file or a pipe, whatever FORCE_COLOR
says. There a grid tells a line every half minute; with ``--verbose`` all work does, and more often.
``--quiet`` leaves everything out.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
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
from embedcal.volume import Volume, volume

if TYPE_CHECKING:
    from embedcal.grids import Tally

PATIENCE = {Volume.NORMAL: 30.0, Volume.VERBOSE: 5.0}  # seconds between lines without a terminal


def drawable(to: Console) -> bool:
    """Whether what moves may be drawn: a terminal that can, and not a file that is called one."""
    return (
        volume() is not Volume.QUIET
        and to.is_terminal
        and not to.is_dumb_terminal
        and sys.stderr.isatty()  # FORCE_COLOR makes a terminal of every file
    )


class Rate(ProgressColumn):
    """Items a second since the stage began."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text(f"{speed:,.0f}/s" if speed else "", style="progress.data.speed")


class Lines:
    """A line when a stage ends, and one now and then before: for files, with ``--verbose``."""

    def __init__(self, to: Console) -> None:
        self._to = to
        self._began: dict[str, float] = {}
        self._told: dict[str, float] = {}
        self._ended: set[str] = set()

    def stage(self, stage: str, done: int, total: int) -> None:
        """``stage`` has done so many of its total."""
        now = time.monotonic()
        began = self._began.setdefault(stage, now)
        told = self._told.setdefault(stage, now)
        ends = done >= total and stage not in self._ended
        if ends or (done < total and now - told > PATIENCE[Volume.VERBOSE]):
            self._told[stage] = now
            self._ended |= {stage} if ends else set()
            seconds = now - began
            self._to.print(
                f"{shown(stage)}: {done:,} of {total:,} in {seconds:,.1f} s", soft_wrap=True
            )


class Bars:
    """One bar for each stage, made when the stage first reports; or lines, if there are any."""

    def __init__(self, shown: Progress, lines: Lines | None = None) -> None:
        self._shown, self._lines = shown, lines
        self._tasks: dict[str, object] = {}

    def stage(self, stage: str, done: int, total: int) -> None:
        """``stage`` has done so many of its total."""
        if self._lines is not None:
            self._lines.stage(stage, done, total)
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
    draw = drawable(to)
    shown = Progress(
        TextColumn("{task.description:<8}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        Rate(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=to,
        disable=not draw,
    )
    told = None if draw or volume() is not Volume.VERBOSE else Lines(to)
    with shown if draw else nullcontext():  # rich before 14 ends even a disabled one with a line
        yield Bars(shown, told)


class GridView:
    """How far a grid is: a live table on a terminal, else a line every half minute."""

    def __init__(self, to: Console, *, drawn: bool) -> None:
        self._to, self._drawn = to, drawn
        self._began = self._told = time.monotonic()
        self._tally: Tally | None = None

    def __call__(self, tally: Tally) -> None:
        if self._tally is None:  # what came before, imports and planning, is no run's
            self._began = time.monotonic()
        self._tally = tally
        patience = PATIENCE.get(volume())
        if self._drawn or patience is None:
            return
        if time.monotonic() - self._told > patience:
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
    draw = drawable(to)
    view = GridView(to, drawn=draw)
    if not draw:
        yield view
        return
    with Live(view, console=to, refresh_per_second=4, transient=True):
        yield view
