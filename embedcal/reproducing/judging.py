"""Ours beside theirs: one number, its tolerance, and what is said of it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from embedcal.reproducing.recipe import OVERLAP

Status = Literal["within", "beyond", "failed", "missing", "left out", "shown", "unmeasured"]


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One published number and what was measured. Percent, differences in points; AIOU as it is.

    ``published`` is NaN where it cannot be read, ``ours`` where nothing was measured; it is the
    mean of ``values``, one a seed, and ``deviation`` theirs (NaN for one). ``tolerance`` is None
    for a number that is not judged. ``status``: ``within`` or ``beyond`` its tolerance; ``failed``
    where the run did; ``missing`` without a cache, ``left out`` where other caches were given;
    ``shown`` where it is not judged, and ``unmeasured`` where nothing can measure it. ``why``
    gives the reason for all but the first two. ``decimals`` are those of the published column.
    """

    part: str
    row: str
    column: str
    metric: str
    published: float
    ours: float
    values: tuple[float, ...]
    deviation: float
    tolerance: float | None
    status: Status
    why: str
    decimals: int = 1

    @property
    def difference(self) -> float:
        """Ours minus theirs, in points; NaN where one of them is."""
        return self.ours - self.published

    @property
    def judged(self) -> bool:
        """Whether the number counts: it has a tolerance, and its part was asked for."""
        return self.tolerance is not None and self.status != "left out"


def judge(published: float, ours: float, tolerance: float | None) -> Status:
    """What is said of a number that was measured; a tolerance is met by its own edge.

    Differences are compared to a millionth of a point, since neither side is exact beyond that.
    """
    if tolerance is None or math.isnan(published):
        return "shown"
    return "within" if round(abs(ours - published), 6) <= tolerance else "beyond"


def percent_of(metrics: Mapping[str, Any], metric: str) -> float:
    """A metric of a record in percent, ``NAME`` or ``NAME.INDEX``; NaN where it has none.

    AIOU is the fraction that it is, as it is printed everywhere.
    """
    name, _, index = metric.partition(".")
    value = metrics.get(name)
    if index and value is not None:
        value = value[int(index)] if int(index) < len(value) else None
    return math.nan if value is None else float(value) * (1 if metric in OVERLAP else 100)


def decimals(published: Iterable[float]) -> int:
    """How many decimals a column was published with, one at least."""
    texts = (repr(float(value)) for value in published if math.isfinite(value))
    return max((len(text.partition(".")[2]) for text in texts), default=1)
