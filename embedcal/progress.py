"""Progress on standard error: one bar a stage with its rate; nothing where it is no terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

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

from embedcal.tables import console


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
