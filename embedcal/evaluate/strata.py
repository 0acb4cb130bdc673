"""The cells that a split falls into: one for each class and attribute value.

Every accuracy that embedcal prints is a function of one small table, the hits of each cell. So the
labels are checked and counted once, and the metrics of an epoch, of a run and of two thousand
resampled test sets all go through ``statistics``.

Letters in shapes: n rows, C classes, A attribute values, ``...`` any runs or draws in front.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from embedcal.types import EmbedcalError, FloatArray, IntArray


@dataclass(frozen=True, kw_only=True)
class Strata:
    """The true classes and attribute values of n rows, sorted into C x (A + 1) cells.

    ``cell`` (n,) is ``y * (A + 1) + a``; the last column, a = A, holds the rows whose attribute is
    unknown, which count for their class and belong to no group. ``n_attributes`` is 0 where there
    are no attributes, or where no row has a known one. ``sizes`` (C, A + 1) are the rows of each
    cell, ``train_group_counts`` (C, A) the training rows of each group, if they are known.
    """

    n_classes: int
    n_attributes: int
    cell: IntArray
    sizes: IntArray
    train_group_counts: IntArray | None

    def __len__(self) -> int:
        return len(self.cell)

    @property
    def y(self) -> IntArray:
        """The class of each row, (n,)."""
        return self.cell // (self.n_attributes + 1)

    @property
    def a(self) -> IntArray:
        """The attribute value of each row, (n,), -1 where it is unknown."""
        a = self.cell % (self.n_attributes + 1)
        return np.where(a == self.n_attributes, -1, a)

    @property
    def group_sizes(self) -> IntArray:
        """Rows of each group, (C * A,), in the order g = y * A + a."""
        return self.sizes[:, : self.n_attributes].reshape(-1)

    def totals(self, values: npt.NDArray[Any]) -> FloatArray:
        """The sum over each cell of one value a row: (n,) or (r, n) -> (..., C, A + 1)."""
        sums = np.zeros((*values.shape[:-1], *self.sizes.shape))
        flat = sums.reshape(-1, self.sizes.size)
        for out, row in zip(flat, np.atleast_2d(values), strict=True):
            out[:] = np.bincount(self.cell, weights=row, minlength=self.sizes.size)
        return sums


def strata(
    y: npt.NDArray[Any],
    a: npt.NDArray[Any] | None,
    n_classes: int,
    n_attributes: int,
    train_group_counts: Sequence[int] | npt.NDArray[Any] | None = None,
) -> Strata:
    """Check the labels of a split once and sort its rows into cells.

    ``y`` (n,) with 0 <= y < C; ``a`` (n,) with 0 <= a < A, or -1 where it is unknown, or None
    where the data set has no attribute; ``train_group_counts`` (C * A,) in the order of groups
    (ignored without attributes). EmbedcalError for anything else, and for an empty split.
    """
    classes = _labels(y, "class labels y", 0, n_classes)
    n = len(classes)
    if n == 0:
        raise EmbedcalError(
            "expected a split with rows to evaluate, found an empty one: check the split column"
        )
    attributes = np.full(n, -1) if a is None else _labels(a, "attribute values a", -1, n_attributes)
    if len(attributes) != n:
        raise EmbedcalError(
            f"expected one attribute value for each of the {n} class labels, found "
            f"{len(attributes)}: pass y and a of the same split"
        )
    known = attributes >= 0
    width = n_attributes if known.any() else 0
    cell = classes * (width + 1) + np.where(known, attributes, width)
    sizes = np.bincount(cell, minlength=n_classes * (width + 1)).reshape(n_classes, width + 1)
    return Strata(
        n_classes=n_classes,
        n_attributes=width,
        cell=cell,
        sizes=sizes,
        train_group_counts=_counts(train_group_counts, n_classes, width),
    )


def statistics(hits: FloatArray, cells: Strata) -> dict[str, FloatArray]:
    """Every accuracy that embedcal prints, from the hits of each cell, (..., C, A + 1).

    With acc_g the accuracy of group g: ``worst_group`` = min_g acc_g and ``group_mean`` = the mean
    over g, both over groups with rows (Sagawa et al. 2020, arXiv:1911.08731);
    ``train_weighted`` = sum_g n_g acc_g / sum_g n_g with n_g the counts in the training split,
    where a group without rows counts as 0 with its full weight, as in WILDS; ``mean`` over rows;
    ``classes`` the recalls, ``class_mean`` and ``worst_class`` over classes with rows;
    ``worst_group_of_class`` the minimum over the groups of each class. NaN marks an entry of a
    vector that has no rows. Group statistics are missing where there are no attributes.
    """
    class_sizes = cells.sizes.sum(-1)
    class_hits = hits.sum(-1)
    classes = class_hits / np.where(class_sizes > 0, class_sizes, np.nan)
    seen = classes[..., class_sizes > 0]
    found = {
        "mean": class_hits.sum(-1) / len(cells),
        "classes": classes,
        "class_mean": seen.mean(-1),
        "worst_class": seen.min(-1),
    }
    if cells.n_attributes > 0:
        found |= _group_statistics(hits, cells)
    return {name: np.asarray(value) for name, value in found.items()}


def _group_statistics(hits: FloatArray, cells: Strata) -> dict[str, FloatArray]:
    sizes = cells.sizes[:, : cells.n_attributes]
    table = hits[..., : cells.n_attributes] / np.where(sizes > 0, sizes, np.nan)
    groups = table.reshape(*table.shape[:-2], -1)
    present = groups[..., cells.group_sizes > 0]
    lowest = np.where(sizes > 0, table, np.inf).min(-1)
    found = {
        "groups": groups,
        "group_mean": present.mean(-1),
        "worst_group": present.min(-1),
        "worst_group_of_class": np.where(np.isinf(lowest), np.nan, lowest),
    }
    if cells.train_group_counts is not None:
        weights = cells.train_group_counts / cells.train_group_counts.sum()
        found["train_weighted"] = (np.where(sizes > 0, table, 0.0) * weights).sum((-2, -1))
    return found


def _labels(values: npt.NDArray[Any], what: str, lowest: int, end: int) -> IntArray:
    """``values`` as int64, checked to be whole numbers with lowest <= value < end."""
    found = np.asarray(values)
    if found.ndim != 1 or not (np.issubdtype(found.dtype, np.integer) or found.dtype == bool):
        raise EmbedcalError(
            f"expected {what} as one vector of whole numbers, found shape {found.shape} of "
            f"{found.dtype}: pass one label a row"
        )
    wrong = (found < lowest) | (found >= end)
    if wrong.any():
        row = int(np.argmax(wrong))
        raise EmbedcalError(
            f"expected {what} from {lowest} to {end - 1}, found {found[row]} in row {row}: "
            "correct the labels or the number of classes or values"
        )
    return found.astype(np.int64)


def _counts(
    counts: Sequence[int] | npt.NDArray[Any] | None, n_classes: int, n_attributes: int
) -> IntArray | None:
    if counts is None or n_attributes == 0:
        return None
    found = np.asarray(counts)
    if found.size != n_classes * n_attributes or not (found >= 0).all() or found.sum() == 0:
        raise EmbedcalError(
            f"expected {n_classes * n_attributes} training counts, none negative and not all "
            f"zero, found {found.tolist()}: count the training rows of every group y * A + a"
        )
    return found.reshape(n_classes, n_attributes)
