"""Timing things fairly: interleaved repetitions, medians and spreads, as frozen values.

Machines drift: another process starts, a processor slows down. So what is compared is run in
turns, A B A B, each quotient is taken within one turn, and the median of the quotients is the
result. A quotient of two medians would mix the machine's good minutes with its bad ones.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Spread:
    """Median, least and greatest of some repetitions."""

    median: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Reading:
    """One side of a comparison: what was run, and its median as people read it."""

    what: str
    value: float
    unit: str


@dataclass(frozen=True, kw_only=True)
class Row:
    """One measurement beside its baseline.

    ``ratio`` is ours against the baseline, oriented as ``target`` is: at least so much where more
    is better, at most so much where ``at_most``. A row without a target informs only. ``facts``
    are further numbers for whoever reads the JSON.
    """

    name: str
    ours: Reading
    baseline: Reading
    ratio: Spread
    target: float | None = None
    at_most: bool = False
    note: str = ""
    facts: Mapping[str, float] = field(default_factory=dict)

    @property
    def reached(self) -> bool | None:
        """Whether the median meets the target; None where there is none."""
        if self.target is None:
            return None
        found = self.ratio.median
        return found <= self.target if self.at_most else found >= self.target

    @property
    def record(self) -> dict[str, Any]:
        """As JSON holds it."""
        return {**asdict(self), "reached": self.reached}


def spread(values: Sequence[float]) -> Spread:
    """Median and range of at least one value."""
    return Spread(median=median(values), low=min(values), high=max(values))


def quotients(above: Sequence[float], below: Sequence[float]) -> Spread:
    """Spread of above_i / below_i, one quotient for each turn."""
    return spread([a / b for a, b in zip(above, below, strict=True)])


def interleaved(
    tasks: Mapping[str, Callable[[], object]],
    *,
    repetitions: int,
    warmup: int = 1,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, tuple[float, ...]]:
    """Seconds of each task in each turn: every task once a turn, in the order given.

    The first ``warmup`` turns are run and forgotten.
    """
    seconds: dict[str, list[float]] = {name: [] for name in tasks}
    for turn in range(warmup + repetitions):
        for name, task in tasks.items():
            began = clock()
            task()
            elapsed = clock() - began
            if turn >= warmup:
                seconds[name].append(elapsed)
    return {name: tuple(values) for name, values in seconds.items()}
