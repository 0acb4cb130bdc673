"""How far probabilities can be believed: calibration error, NLL and Brier score, by group.

The confidence of a row is its largest probability, and the event is that the row is right. So the
calibration error here is Guo's, over 15 bins; ``ece`` of a run's record has 10 bins, and of two
classes takes the probability of the second.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
from jaxtyping import Float

from embedcal.evaluate import Strata
from embedcal.evaluate.intervals import MOST_DRAWS
from embedcal.predicting.temperature import nll, softmax
from embedcal.types import EmbedcalError, FloatArray, IntArray

BINS = 15
DRAWS = 2000
CHANCE_DRAWS = 200
TAIL = 0.025
MEASURES = ("ece", "ece_equal_mass", "nll", "brier")


@dataclass(frozen=True)
class Score:
    """A number with its 95 % interval; its ends are NaN where no draws were asked for."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Rows:
    """All rows, or one group of them, before and after. Keys are those of ``MEASURES``.

    ``chance`` is the ``ece`` that these confidences would show, on so few rows, of a head that is
    calibrated. ``classwise`` has no interval. Confidence and accuracy are fractions.
    """

    name: str
    n: int
    accuracy: float
    confidence: tuple[float, float]
    before: Mapping[str, Score]
    after: Mapping[str, Score]
    change: Mapping[str, Score]
    classwise: tuple[float, float]
    chance: tuple[float, float]


@dataclass(frozen=True, eq=False)
class Judged:
    """Logits (n, C) under one temperature, and what the scores of them are sums of."""

    logits: FloatArray
    cells: Strata
    temperature: float

    @cached_property
    def p(self) -> FloatArray:
        """Probabilities (n, C)."""
        return softmax(self.logits, self.temperature)

    @cached_property
    def confidence(self) -> FloatArray:
        """(n,)"""
        found: FloatArray = self.p.max(axis=1)
        return found

    @cached_property
    def correct(self) -> npt.NDArray[np.bool_]:
        """(n,), by the logits: a temperature never changes it."""
        right: npt.NDArray[np.bool_] = self.logits.argmax(axis=1) == self.cells.y
        return right

    @cached_property
    def sums(self) -> dict[str, FloatArray]:
        """Values (n,) whose means are NLL and Brier score (the squared distance, from 0 to 2)."""
        hot = np.eye(self.cells.n_classes)[self.cells.y]
        return {
            "nll": nll(self.logits, self.cells.y, self.temperature),
            "brier": ((self.p - hot) ** 2).sum(axis=1),
        }


def equal_width(confidence: Float[np.ndarray, " n"], bins: int = BINS) -> IntArray:
    """The bin (n,) of each row: (0, 1/M], (1/M, 2/M], ... (Guo et al. 2017, equation 3)."""
    place = np.searchsorted(np.linspace(0, 1, bins + 1)[1:-1], confidence, side="left")
    return place.astype(np.int64)


def equal_mass(confidence: Float[np.ndarray, " n"], bins: int = BINS) -> IntArray:
    """The bin (n,) of each row, with as many rows in each as ties allow: equal confidences share
    one (the adaptive bins of Nixon et al. 2019, arXiv:1904.01685)."""
    inner = np.quantile(confidence, np.linspace(0, 1, bins + 1)[1:-1])
    return np.searchsorted(inner, confidence, side="left").astype(np.int64)


def gaps(
    place: IntArray, miss: Float[np.ndarray, " n"], groups: IntArray, n_groups: int
) -> FloatArray:
    """Sums (G + 1, M) of ``miss`` in each group and bin; the last row, for -1, is of no group."""
    at = np.where(groups < 0, n_groups, groups) * BINS + place
    sums = np.bincount(at, weights=miss, minlength=(n_groups + 1) * BINS)
    return sums.astype(np.float64).reshape(n_groups + 1, BINS)


def classwise(p: Float[np.ndarray, "n C"], y: IntArray, bins: int = BINS) -> float:
    """The mean over classes of the calibration error of p_c against y = c (Nixon et al. 2019)."""
    errors = []
    for c in range(p.shape[1]):
        sums = np.bincount(equal_width(p[:, c], bins), weights=p[:, c] - (y == c), minlength=bins)
        errors.append(np.abs(sums).sum() / len(y))
    return float(np.mean(errors))


def scores(
    logits: Float[np.ndarray, "n C"],
    cells: Strata,
    temperature: float,
    names: Sequence[str],
    *,
    draws: int = DRAWS,
    seed: int = 0,
) -> tuple[Rows, ...]:
    """All rows first, then each group in the order of ``names``: before and after a temperature.

    Groups are those of attributes, or the classes where ``cells`` has no attributes; groups
    without rows are left out. Intervals are of the Bayesian bootstrap within each cell (Rubin
    1981), as ``embedcal.evaluate`` has it, the same draws before and after. A calibration error
    is a sum of absolute values and so biased upwards, its draws once more: intervals are the
    quantiles, shifted so that the draws are centred at the estimate, and end at 0. EmbedcalError
    for a number of draws that is none; 0: no intervals.
    """
    if not isinstance(draws, int) or not 0 <= draws <= MOST_DRAWS:
        raise EmbedcalError(f"expected 0 to {MOST_DRAWS:,} draws, found {draws}: take {DRAWS:,}")
    groups = cells.y if not cells.n_attributes else _groups(cells)
    sides = (Judged(logits, cells, 1.0), Judged(logits, cells, temperature))
    resampled = _Draws(sides, groups, len(names))
    ones = np.ones(len(cells))
    estimate = resampled.of(ones)  # (2 sides, 4 measures, G + 1)
    drawn = np.full((1, *estimate.shape), np.nan)
    if draws:
        drawn = np.stack([resampled.of(w) for w in _weights(cells, draws, seed)])
    chances = [_chance(side, groups, len(names), seed) for side in sides]
    found = []
    for g, name in enumerate((*names, "all")):
        rows = groups == g if g < len(names) else np.ones(len(groups), bool)
        n = int(rows.sum())
        if n:
            found.append(
                Rows(
                    name=name,
                    n=n,
                    accuracy=float(sides[0].correct[rows].mean()),
                    confidence=_pair([side.confidence[rows].mean() for side in sides]),
                    before=_score(estimate[0, :, g], drawn[:, 0, :, g]),
                    after=_score(estimate[1, :, g], drawn[:, 1, :, g]),
                    change=_score(
                        estimate[1, :, g] - estimate[0, :, g],
                        drawn[:, 1, :, g] - drawn[:, 0, :, g],
                        lowest=-np.inf,
                    ),
                    classwise=_pair([classwise(side.p[rows], cells.y[rows]) for side in sides]),
                    chance=_pair([chance[g] for chance in chances]),
                )
            )
    return (found[-1], *found[:-1])


class _Draws:
    """Every measure of every group for rows of given weights, from bins found once."""

    def __init__(self, sides: Sequence[Judged], groups: IntArray, n_groups: int) -> None:
        self._sides, self._groups, self._n = sides, groups, n_groups
        self._miss = [side.confidence - side.correct for side in sides]
        self._even = [equal_width(side.confidence) for side in sides]
        # Bins of equal mass are of the rows that are scored together: each group has its own.
        self._own = [np.zeros(len(groups), np.int64) for _ in sides]
        self._every = [equal_mass(side.confidence) for side in sides]
        for own, side in zip(self._own, sides, strict=True):
            for g in range(n_groups):
                rows = groups == g
                if rows.any():
                    own[rows] = equal_mass(side.confidence[rows])

    def of(self, weights: Float[np.ndarray, " n"]) -> FloatArray:
        """(sides, measures, G + 1), the last column of all rows; 0 for groups without rows."""
        found = np.zeros((len(self._sides), len(MEASURES), self._n + 1))
        total = self._total(weights)
        for i, side in enumerate(self._sides):
            miss = weights * self._miss[i]
            found[i, 0] = self._error(miss, self._even[i], self._even[i])
            found[i, 1] = self._error(miss, self._own[i], self._every[i])
            for k, values in enumerate(side.sums.values(), 2):
                found[i, k] = self._total(weights * values)
        scaled: FloatArray = found / np.where(total > 0, total, 1)
        return scaled

    def _total(self, values: FloatArray) -> FloatArray:
        at = np.where(self._groups < 0, self._n, self._groups)
        sums = np.bincount(at, weights=values, minlength=self._n + 1).astype(np.float64)
        sums[-1] = sums.sum()
        return sums

    def _error(self, miss: FloatArray, own: IntArray, every: IntArray) -> FloatArray:
        errors: FloatArray = np.abs(gaps(own, miss, self._groups, self._n)).sum(axis=1)
        errors[-1] = np.abs(np.bincount(every, weights=miss, minlength=BINS)).sum()
        return errors


def _groups(cells: Strata) -> IntArray:
    """The group (n,) of each row, -1 where its attribute is unknown."""
    a = cells.a
    return np.where(a >= 0, cells.y * cells.n_attributes + a, -1)


def _weights(cells: Strata, draws: int, seed: int) -> Iterator[FloatArray]:
    """Weights (n,) draw by draw; in each cell they sum to its number of rows."""
    rng = np.random.default_rng(seed)
    sizes = cells.sizes.reshape(-1)
    for _ in range(draws):
        weights = rng.standard_exponential(len(cells))
        sums = np.bincount(cells.cell, weights=weights, minlength=sizes.size)
        yield weights * (sizes / np.where(sizes > 0, sums, 1))[cells.cell]


def _chance(side: Judged, groups: IntArray, n_groups: int, seed: int) -> FloatArray:
    """The mean ``ece`` (G + 1,) where each row is right with the probability it claims
    (consistency resampling: Broecker and Smith 2007)."""
    rng = np.random.default_rng(seed)
    place = equal_width(side.confidence)
    sizes = np.bincount(np.where(groups < 0, n_groups, groups), minlength=n_groups + 1)
    sizes[-1] = len(groups)
    total = np.zeros(n_groups + 1)
    for _ in range(CHANCE_DRAWS):
        miss = side.confidence - (rng.random(len(groups)) < side.confidence)
        sums = gaps(place, miss, groups, n_groups)
        errors = np.abs(sums).sum(axis=1)
        errors[-1] = np.abs(sums.sum(axis=0)).sum()
        total += errors
    found: FloatArray = total / CHANCE_DRAWS / np.maximum(sizes, 1)
    return found


def _score(estimate: FloatArray, drawn: FloatArray, lowest: float = 0.0) -> dict[str, Score]:
    """Each measure with the quantiles of its draws (draws, 4), moved to be centred at it."""
    shift = estimate - drawn.mean(axis=0)
    low, high = np.quantile(drawn, [TAIL, 1 - TAIL], axis=0) + shift
    low, high = np.maximum(lowest, np.minimum(low, estimate)), np.maximum(high, estimate)
    return {
        name: Score(float(estimate[k]), float(low[k]), float(high[k]))
        for k, name in enumerate(MEASURES)
    }


def _pair(values: Sequence[float]) -> tuple[float, float]:
    before, after = values
    return float(before), float(after)
