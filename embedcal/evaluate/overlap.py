"""How much an explanation map covers the object: IOU and AIOU, with intervals.

Yang et al. 2023 (arXiv:2304.03916), eq. 8 and 9. AIOU is 1/2 where the maps of the true class and
of its strongest rival overlap the object equally.

The intervals answer for the images, as those of accuracies do (see ``intervals``). AIOU is a
number for each image and not a hit or a miss, so the mean of a cell of class and attribute value
is drawn from the posterior of a normal mean under Jeffreys' prior: mean + s / sqrt(n) times
Student's t with n - 1 degrees of freedom. The mean over all images weighs the cells by their
sizes; a minimum over groups is biased down once more in its draws, so the upper end is the
quantile or the lower end reflected about the estimate, whichever is higher. A cell of one image
says nothing of its spread, and has the interval from 0 to 1.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from embedcal.evaluate.intervals import DRAWS, TAIL, Interval
from embedcal.evaluate.strata import Strata
from embedcal.types import EmbedcalError, FloatArray


@dataclass(frozen=True, kw_only=True)
class Overlap:
    """AIOU over a split: the mean over images, over each group, and of the worst group.

    ``groups`` is NaN for a group without images; the values of groups are None without attributes.
    ``images`` are those that the means are over. Intervals are of 95 %, (NaN, NaN) without images.
    """

    mean: float
    groups: tuple[float, ...] | None
    worst_group: float | None
    images: int
    mean_interval: Interval
    group_intervals: tuple[Interval, ...] | None = None
    worst_group_interval: Interval | None = None


def iou(
    maps: Float[np.ndarray, "*n h w"], region: Bool[np.ndarray, "*#n h w"]
) -> Float[np.ndarray, "*n"]:
    """Soft intersection over union: sum min(M, B) / sum max(M, B) (eq. 8); 0/0 is 0.

    ``maps`` in [0, 1] and the object's ``region`` on the same grid; dimensions in front broadcast.
    Since B is 0 or 1, min(M, B) = M B, and max(M, B) = M + B - M B.
    EmbedcalError for grids that differ and for maps outside [0, 1].
    """
    if maps.shape[-2:] != region.shape[-2:]:
        raise EmbedcalError(
            f"expected maps and regions on one grid, found {maps.shape[-2:]} and "
            f"{region.shape[-2:]}: resize the region as the image was preprocessed"
        )
    if maps.size and not (maps.min() >= 0 and maps.max() <= 1):  # also catches NaN
        raise EmbedcalError(
            "expected maps with values from 0 to 1, found values outside or NaN: normalise each "
            "map by its minimum and maximum"
        )
    # Line by line, then over the lines: float32 would lose digits in one long sum.
    both = np.einsum("...hw,...hw->...h", maps, region.astype(maps.dtype)).sum(-1, dtype=float)
    area = maps.sum(-1).sum(-1, dtype=float) + region.sum((-2, -1))
    return _ratio(both, area - both)


def aiou(
    maps: Float[np.ndarray, "n C h w"],
    region: Bool[np.ndarray, "n h w"],
    y: Int[np.ndarray, " n"],
) -> Float[np.ndarray, " n"]:
    """IOU(M_y, B) / (IOU(M_y, B) + max over y' != y of IOU(M_y', B)) (eq. 9); 0/0 is 0.

    ``maps`` has one map a class. EmbedcalError for a single class: there is no rival.
    """
    return adjusted(iou(maps, region[:, None]), y)


def adjusted(scores: Float[np.ndarray, "n C"], y: Int[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """AIOU from the IOU of each class's map (eq. 9); NaN where they are NaN."""
    if scores.shape[1] < 2:
        raise EmbedcalError(
            f"expected maps of two classes or more, found {scores.shape[1]}: explain every class"
        )
    rows = np.arange(len(y))
    own = scores[rows, y]
    rivals = scores.copy()
    rivals[rows, y] = -np.inf
    return _ratio(own, own + rivals.max(axis=1))


def overlap(
    values: Float[np.ndarray, " n"], cells: Strata, draws: int = DRAWS, seed: int = 0
) -> Overlap:
    """The mean of one value an image, over all images and over each group of ``cells``.

    Images whose value is NaN, since nobody knows the object, are left out. EmbedcalError where
    all are.
    """
    known = np.isfinite(values)
    if not known.any():
        raise EmbedcalError(
            "expected an object in the frame of at least one image, found none: give masks or "
            "boxes in pixels of the files"
        )
    sizes = np.bincount(cells.cell[known], minlength=cells.sizes.size).astype(float)
    shares = sizes / sizes.sum()
    means, errors = _moments(values[known], cells.cell[known], sizes)
    drawn = _drawn(means, errors, sizes, draws, seed)  # (draws, cells)
    there = sizes > 0
    mean = float(means[there] @ shares[there])
    found = Overlap(
        mean=mean,
        groups=None,
        worst_group=None,
        images=int(known.sum()),
        mean_interval=_ends(drawn[:, there] @ shares[there], mean),
    )
    a = cells.n_attributes
    grouped = np.zeros(cells.sizes.shape, bool)
    grouped[:, :a] = True
    inside = grouped.reshape(-1)  # without those of unknown attribute
    if not (inside & there).any():
        return found
    groups, of_groups = means[inside], drawn[:, inside]
    present = there[inside]
    worst = float(groups[present].min())
    low, high = _ends(of_groups[:, present].min(axis=1), worst)
    return Overlap(
        mean=found.mean,
        images=found.images,
        mean_interval=found.mean_interval,
        groups=tuple(groups.tolist()),
        group_intervals=tuple(
            _ends(column, value) for column, value in zip(of_groups.T, groups, strict=True)
        ),
        worst_group=worst,
        worst_group_interval=(low, min(1.0, max(high, 2 * worst - low))),
    )


def _moments(
    values: FloatArray, cell: Int[np.ndarray, " n"], sizes: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Mean and standard error of each cell; NaN where it has no image, or one."""
    with np.errstate(invalid="ignore", divide="ignore"):
        means = np.bincount(cell, values, len(sizes)) / sizes
        squares = np.bincount(cell, (values - means[cell]) ** 2, len(sizes))
        return means, np.sqrt(squares / (sizes - 1) / sizes)


def _drawn(
    means: FloatArray, errors: FloatArray, sizes: FloatArray, draws: int, seed: int
) -> FloatArray:
    """Means of the cells that other images might have given, (draws, cells)."""
    rng = np.random.default_rng(seed)
    out = np.full((draws, len(means)), np.nan)
    for cell in np.flatnonzero(sizes > 0):
        if sizes[cell] < 2:
            out[:, cell] = rng.uniform(size=draws)
        else:
            out[:, cell] = means[cell] + errors[cell] * rng.standard_t(sizes[cell] - 1, draws)
    return out.clip(0.0, 1.0)


def _ends(drawn: FloatArray, estimate: float) -> Interval:
    """The quantiles, and the estimate where it lies outside; (NaN, NaN) for NaN."""
    low, high = np.quantile(drawn, [TAIL, 1 - TAIL])
    if np.isnan(estimate):
        return float("nan"), float("nan")
    return min(float(low), estimate), max(float(high), estimate)


def _ratio(top: FloatArray, bottom: FloatArray) -> FloatArray:
    """top / bottom, 0 where both are 0."""
    return top / np.where(bottom > 0, bottom, 1.0)
