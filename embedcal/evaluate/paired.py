"""Does A beat B? The difference between two methods on the same test images, with an interval.

It answers for two things. **Images**: both methods are judged on the same ones, so both share
every draw of the Bayesian bootstrap within cells (Rubin 1981; see ``intervals``). Four pseudo
images of weight 1/2 join each cell, one for each way in which two methods can be right and wrong:
Jeffreys' prior for matched pairs (the counts that Agresti and Min 2005 add). Without them a single
image on which the two disagree would look like certainty. Each cell is then shifted back so that
its draws are centred at the measured accuracy.

**Seeds**: those of a method are a sample of all. Each draw adds t s / sqrt(r) for either method,
t from Student's distribution with r - 1 degrees of freedom: the posterior of a normal mean. Seeds
also differ because a test set is finite, which the images' draws hold already; that part of their
variance (the mean over draws of the variance over seeds) is taken off s^2, down to 0. Resampling
the seeds themselves would be too narrow: five seeds give 0.8, three 0.7 of the deviation. A method
with one run has no seeds to learn from: the interval is then about this run.

A minimum over groups is biased down where groups are nearly tied, in either method, and its draws
are biased once more. So the interval is the hull of the percentile interval and of its reflection
about the estimate, and the p-value the larger of the two.
How often all this is right: docs/explanation/comparing.md.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from embedcal.errors import did_you_mean
from embedcal.evaluate.intervals import DRAWS, MEANS, MINIMA, PSEUDO, TAIL, Interval, patterns_of
from embedcal.evaluate.strata import Strata, statistics
from embedcal.types import EmbedcalError, FloatArray

COMPARABLE = MINIMA + MEANS


@dataclass(frozen=True, kw_only=True)
class Difference:
    """The accuracy ``statistic`` of A less that of B, each a mean over its runs; fractions.

    ``interval`` 95 %; ``p_value`` two-sided, for no difference; ``probability`` the share of draws
    in which A is above B, half of the ties included. ``runs`` are those of A and of B; the
    interval answers for the seeds of a method only where it has two runs or more.
    """

    statistic: str
    difference: float
    interval: Interval
    p_value: float
    probability: float
    runs: tuple[int, int]


def paired(
    a: Bool[np.ndarray, "r n"],
    b: Bool[np.ndarray, "q n"],
    cells: Strata,
    statistic: str = "worst_group",
    draws: int = DRAWS,
    seed: int = 0,
) -> Difference:
    """Compare two methods on n images that both were tested on.

    ``a`` and ``b`` say which images each run of either method got right; ``cells`` are the labels
    of these images. The two may have different numbers of runs. p-values go down to
    2 / (``draws`` + 1). EmbedcalError for a statistic that is no single number or that the labels
    do not allow, and for shapes that do not fit. The same seed gives the same answer, whatever the
    order of the rows.
    """
    for runs in (a, b):
        if runs.shape[0] == 0 or runs.shape[1] != len(cells):
            raise EmbedcalError(
                f"expected one row a run and one column for each of the {len(cells)} labels, found "
                f"shape {runs.shape}: pass predictions of the split that the labels belong to"
            )
    totals = cells.totals(np.concatenate([a, b]))
    _check(statistic, bool(cells.n_attributes), cells.train_group_counts is not None)
    estimate = statistics(totals, cells)[statistic]  # (r + q,)
    rng = np.random.default_rng(seed)
    hits = _resample(a, b, cells, draws, rng)
    hits += totals - hits.mean(axis=0)
    drawn = statistics(hits, cells)[statistic]  # (draws, r + q)
    of_a, of_b = slice(0, len(a)), slice(len(a), None)
    found = float(estimate[of_a].mean() - estimate[of_b].mean())
    moved = drawn[:, of_a].mean(1) - drawn[:, of_b].mean(1)
    moved += _seeds(estimate[of_a], drawn[:, of_a], rng)
    moved -= _seeds(estimate[of_b], drawn[:, of_b], rng)
    return Difference(
        statistic=statistic,
        difference=found,
        interval=_interval(found, moved),
        p_value=max(_p_value(moved), _p_value(2 * found - moved)),
        probability=float((moved > 0).mean() + (moved == 0).mean() / 2),
        runs=(len(a), len(b)),
    )


def holm(p_values: Sequence[float], comparisons: int | None = None) -> tuple[float, ...]:
    """p-values adjusted for being several (Holm 1979), in the order given.

    ``comparisons`` (by default as many as there are p-values) may be more: where the pairs to test
    were picked by looking at the results, all the pairs that could have been picked count.
    """
    m = len(p_values) if comparisons is None else comparisons
    if m < len(p_values):
        raise EmbedcalError(
            f"expected at least {len(p_values)} comparisons, found {m}: count every pair"
        )
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (m - rank) * p_values[index]))
        adjusted[index] = largest
    return tuple(adjusted)


def _check(statistic: str, attributes: bool, counts: bool) -> None:  # noqa: FBT001
    if statistic not in COMPARABLE:
        hint = did_you_mean(statistic, COMPARABLE, "worst_group and worst_class are usual")
        raise EmbedcalError(
            f"expected one of {', '.join(COMPARABLE)} to compare, found '{statistic}': {hint}"
        )
    of_groups = statistic in ("worst_group", "group_mean", "train_weighted")
    if (of_groups and not attributes) or (statistic == "train_weighted" and not counts):
        lacking = "training counts" if attributes else "attribute labels"
        raise EmbedcalError(
            f"expected {lacking} for '{statistic}', found none: compare by worst_class or mean"
        )


def _resample(
    a: Bool[np.ndarray, "r n"],
    b: Bool[np.ndarray, "q n"],
    cells: Strata,
    draws: int,
    rng: np.random.Generator,
) -> Float[np.ndarray, "draws runs C columns"]:
    """Hits of each cell in each draw, for the runs of both methods under the same weights.

    As in ``intervals.resample``, one gamma variate for each pattern of right and wrong.
    """
    both = np.concatenate([a, b])
    pseudo = np.zeros((4, len(both)))
    pseudo[:2, : len(a)] = 1.0
    pseudo[::2, len(a) :] = 1.0
    sizes = cells.sizes.reshape(-1)
    hits = np.zeros((draws, len(both), sizes.size))
    for cell in np.flatnonzero(sizes):
        patterns, counts = patterns_of(both[:, cells.cell == cell])
        rows = np.concatenate([patterns, pseudo])  # (p + 4, r + q)
        shape = np.concatenate([counts, np.full(4, PSEUDO)])
        weights = rng.standard_gamma(shape, size=(draws, len(shape)))
        weights /= weights.sum(axis=1, keepdims=True)
        hits[:, :, cell] = (weights @ rows) * sizes[cell]
    return hits.reshape(draws, len(both), *cells.sizes.shape)


def _seeds(estimate: FloatArray, drawn: FloatArray, rng: np.random.Generator) -> FloatArray:
    """How far another sample of seeds might move the mean, (draws,); zeros for a single run."""
    draws, runs = drawn.shape
    if runs == 1:
        return np.zeros(draws)
    by_images = (drawn - estimate).var(axis=1, ddof=1).mean()
    variance = max(0.0, float(estimate.var(ddof=1) - by_images))
    moved: FloatArray = rng.standard_t(runs - 1, draws) * math.sqrt(variance / runs)
    return moved


def _interval(estimate: float, drawn: FloatArray) -> Interval:
    low, high = np.quantile(drawn, [TAIL, 1 - TAIL])
    low, high = min(low, 2 * estimate - high), max(high, 2 * estimate - low)
    return max(-1.0, float(low)), min(1.0, float(high))


def _p_value(drawn: FloatArray) -> float:
    """Twice the smaller share of draws beyond 0; one draw is added, so that it is never 0."""
    beyond = min(int((drawn <= 0).sum()), int((drawn >= 0).sum()))
    return min(1.0, 2 * (beyond + 1) / (len(drawn) + 1))
