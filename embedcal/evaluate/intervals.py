"""95 % intervals for accuracies: what another test set of the same groups might have given.

They answer for the images of the split, group sizes held fixed; they do not answer for the seed
(see ``summarise`` for that). Several runs share the test images, so they share the resampling
too, and the interval is that of the mean over the runs.

How: the Bayesian bootstrap (Rubin 1981) within each cell of class and attribute value. A draw
gives every image a weight from a flat Dirichlet distribution instead of a whole number of copies.
Two pseudo images of weight 1/2 each, one that every run gets right and one that none does, are
added to each cell; for one run this is the posterior under Jeffreys' prior, and it keeps groups
at 0 or 1 from having an interval of width zero. From the draws:

* a group, alone: the 2.5 % and 97.5 % quantiles, which are Jeffreys' interval (Brown, Cai and
  DasGupta 2001);
* means of any kind: the same, shifted so that the draws are centred at the estimate, since
  otherwise pseudo images in many small groups would pull a mean towards 1/2;
* a minimum over groups: its estimate is biased down where groups are nearly tied, and its draws
  once more. The lower end is the quantile; the upper end is the quantile, or the lower end
  reflected about the estimate if that is higher.

Percentile and bias-corrected intervals of the ordinary bootstrap were measured too, and cover the
worst group in as little as half of the cases: docs/explanation/intervals.md.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from embedcal.evaluate.strata import Strata, statistics
from embedcal.types import EmbedcalError, FloatArray

Interval = tuple[float, float]

DRAWS = 2000
MOST_DRAWS = 1_000_000
TAIL = 0.025
PSEUDO = 0.5  # weight of each pseudo image: Jeffreys' prior

MINIMA = ("worst_group", "worst_class")
MEANS = ("mean", "class_mean", "group_mean", "train_weighted")


@dataclass(frozen=True, kw_only=True)
class Intervals:
    """Low and high end of each accuracy, by the names of ``Metrics``; (NaN, NaN) without rows."""

    mean: Interval
    class_mean: Interval
    worst_class: Interval
    worst_group: Interval | None = None
    groups: tuple[Interval, ...] | None = None
    group_mean: Interval | None = None
    train_weighted: Interval | None = None


def bootstrap(
    correct: Bool[np.ndarray, "r n"], cells: Strata, draws: int = DRAWS, seed: int = 0
) -> Intervals:
    """95 % intervals of the mean over r runs of each accuracy.

    ``correct`` says which of the n images each run got right; ``cells`` are their labels. The
    same seed gives the same intervals, whatever the order of the rows.
    """
    if correct.shape[0] == 0 or correct.shape[1] != len(cells):
        raise EmbedcalError(
            f"expected one row a run and one column for each of the {len(cells)} labels, found "
            f"shape {correct.shape}: pass predictions of the split that the labels belong to"
        )
    if not isinstance(draws, int) or not 1 <= draws <= MOST_DRAWS:
        raise EmbedcalError(f"expected 1 to {MOST_DRAWS:,} draws, found {draws}: take {DRAWS:,}")
    estimate = _over_runs(statistics(cells.totals(correct), cells))
    drawn = _over_runs(statistics(resample(correct, cells, draws, seed), cells))
    # One pass over all statistics side by side: (draws, k) -> (2, k).
    columns = np.concatenate([drawn[name].reshape(draws, -1) for name in estimate], axis=1)
    cuts = np.cumsum([drawn[name][0].size for name in estimate])[:-1]
    quantiles = np.quantile(np.ascontiguousarray(columns.T), [TAIL, 1 - TAIL], axis=1)
    tails = np.split(quantiles, cuts, axis=1)
    ends = {
        name: _ends(name, estimate[name], np.asarray(drawn[name].mean(axis=0)), tail.reshape(2, -1))
        for name, tail in zip(estimate, tails, strict=True)
    }
    groups = ends.get("groups")
    return Intervals(
        groups=None if groups is None else tuple((lo, hi) for lo, hi in groups.T.tolist()),
        **{
            name: (float(ends[name][0, 0]), float(ends[name][1, 0]))
            for name in MINIMA + MEANS
            if name in ends
        },
    )


def resample(
    correct: Bool[np.ndarray, "r n"], cells: Strata, draws: int, seed: int
) -> Float[np.ndarray, "draws r C columns"]:
    """Hits of each cell in each draw, in the shape that ``statistics`` reads.

    Images that the same runs got right are exchangeable, so a draw needs one gamma variate for
    each pattern of right and wrong and not one for each image: with one run, two instead of
    thousands. The distribution is the same, since sums of Dirichlet weights are Dirichlet.
    """
    rng = np.random.default_rng(seed)
    runs = correct.shape[0]
    sizes = cells.sizes.reshape(-1)
    hits = np.zeros((draws, runs, sizes.size))
    never_always = np.stack([np.zeros(runs, bool), np.ones(runs, bool)])
    for cell in np.flatnonzero(sizes):
        images = correct[:, cells.cell == cell]
        rows, counts = patterns_of(np.concatenate([never_always.T, images], axis=1))  # (p, r)
        shape = counts.astype(float)
        shape[[0, -1]] -= 1 - PSEUDO  # the pseudo images are the first pattern and the last
        weights = rng.standard_gamma(shape, size=(draws, len(shape)))
        weights /= weights.sum(axis=1, keepdims=True)
        hits[:, :, cell] = (weights @ rows) * sizes[cell]
    return hits.reshape(draws, runs, *cells.sizes.shape)


def patterns_of(
    correct: Bool[np.ndarray, "r n"],
) -> tuple[Bool[np.ndarray, "p r"], Int[np.ndarray, " p"]]:
    """The different columns, in lexicographic order, and how often each occurs."""
    runs = len(correct)
    if runs > 50:  # more than a float64 counts exactly
        found, counts = np.unique(correct.T, axis=0, return_counts=True)
        return found, counts
    codes = 2.0 ** np.arange(runs)[::-1] @ correct  # sorting numbers is far faster than rows
    _, first, counts = np.unique(codes, return_index=True, return_counts=True)
    return correct[:, first].T, counts


def _over_runs(values: dict[str, FloatArray]) -> dict[str, FloatArray]:
    """The mean over runs of scalars (..., r) and of ``groups`` (..., r, G); no other vectors."""
    kept = {name: np.asarray(values[name].mean(-1)) for name in MINIMA + MEANS if name in values}
    if "groups" in values:
        kept["groups"] = values["groups"].mean(-2)
    return kept


def _ends(name: str, estimate: FloatArray, centre: FloatArray, tails: FloatArray) -> FloatArray:
    """Low and high (2, k) from the mean of the draws and their quantiles (2, k); k is 1 or G."""
    low, high = tails
    if name in MEANS:
        shift = estimate - centre
        low, high = low + shift, high + shift
    if name in MINIMA:
        high = np.maximum(high, 2 * estimate - low)
    # At 0 and at 1 the estimate lies outside the quantiles; an interval contains its estimate.
    ends: FloatArray = np.stack([np.minimum(low, estimate), np.maximum(high, estimate)])
    return ends.clip(0.0, 1.0)
