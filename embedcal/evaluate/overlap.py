"""How much an explanation map covers the object: IOU and AIOU.

Yang et al. 2023 (arXiv:2304.03916), eq. 8 and 9. AIOU is 1/2 where the maps of the true class and
of its strongest rival overlap the object equally.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from embedcal.evaluate.strata import Strata
from embedcal.types import EmbedcalError, FloatArray


@dataclass(frozen=True, kw_only=True)
class Overlap:
    """AIOU over a split: the mean over images, over each group, and of the worst group.

    ``groups`` is NaN for a group without images; both group values are None without attributes.
    """

    mean: float
    groups: tuple[float, ...] | None
    worst_group: float | None


def iou(
    maps: Float[np.ndarray, "*n h w"], region: Bool[np.ndarray, "*#n h w"]
) -> Float[np.ndarray, "*n"]:
    """Soft intersection over union: sum min(M, B) / sum max(M, B) (eq. 8); 0/0 is 0.

    ``maps`` in [0, 1] and the object's ``region`` on the same grid; dimensions in front broadcast.
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
    values = maps.astype(np.float64)
    return _ratio(
        np.minimum(values, region).sum((-2, -1)), np.maximum(values, region).sum((-2, -1))
    )


def aiou(
    maps: Float[np.ndarray, "n C h w"],
    region: Bool[np.ndarray, "n h w"],
    y: Int[np.ndarray, " n"],
) -> Float[np.ndarray, " n"]:
    """IOU(M_y, B) / (IOU(M_y, B) + max over y' != y of IOU(M_y', B)) (eq. 9); 0/0 is 0.

    ``maps`` has one map a class. EmbedcalError for a single class: there is no rival.
    """
    if maps.shape[1] < 2:
        raise EmbedcalError(
            f"expected maps of two classes or more, found {maps.shape[1]}: explain every class"
        )
    scores = iou(maps, region[:, None])  # (n, C)
    rows = np.arange(len(y))
    own = scores[rows, y]
    rivals = scores.copy()
    rivals[rows, y] = -np.inf
    return _ratio(own, own + rivals.max(axis=1))


def overlap(values: Float[np.ndarray, " n"], cells: Strata) -> Overlap:
    """The mean of one value an image, over all images and over each group of ``cells``."""
    mean = float(np.mean(values))
    if cells.n_attributes == 0:
        return Overlap(mean=mean, groups=None, worst_group=None)
    sizes = cells.group_sizes
    totals = cells.totals(values)[:, : cells.n_attributes].reshape(-1)
    groups = totals / np.where(sizes > 0, sizes, np.nan)
    return Overlap(
        mean=mean, groups=tuple(groups.tolist()), worst_group=float(groups[sizes > 0].min())
    )


def _ratio(top: FloatArray, bottom: FloatArray) -> FloatArray:
    """top / bottom, 0 where both are 0."""
    return top / np.where(bottom > 0, bottom, 1.0)
