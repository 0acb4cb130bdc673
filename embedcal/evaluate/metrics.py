"""Predictions of one split -> a frozen ``Metrics``. All are fractions, none a percentage.

"Adjusted accuracy" is deliberately no name here: WILDS calls the train-weighted mean so,
SubpopBench the unweighted mean over groups. They are ``train_weighted`` and ``group_mean``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from jaxtyping import Float, Int

from embedcal.evaluate.strata import Strata, statistics, strata
from embedcal.types import EmbedcalError, FloatArray, IntArray

ECE_BINS = 10


@dataclass(frozen=True, kw_only=True)
class Metrics:
    """What is known of one run on one split.

    Vectors are in the order of classes, of attribute values, or of groups g = y * A + a; NaN in
    them marks an entry without rows (in ``auroc`` one that holds a single class). Group metrics
    are None where there are no attributes, ``train_weighted`` also without training counts,
    ``ece`` and ``auroc`` also where predictions were given and not logits.
    """

    mean: float
    class_mean: float
    classes: tuple[float, ...]
    worst_class: float
    worst_group: float | None = None
    groups: tuple[float, ...] | None = None
    group_sizes: tuple[int, ...] | None = None
    group_mean: float | None = None
    train_weighted: float | None = None
    worst_group_of_class: tuple[float, ...] | None = None
    ece: float | None = None
    auroc: tuple[float, ...] | None = None
    worst_auroc: float | None = None


def evaluate(
    outputs: npt.NDArray[Any],
    y: npt.NDArray[Any],
    a: npt.NDArray[Any] | None,
    n_classes: int,
    n_attributes: int,
    train_group_counts: Sequence[int] | npt.NDArray[Any] | None = None,
) -> Metrics:
    """Metrics of logits (n, C), or of predicted classes (n,), on a split.

    ``y`` (n,) are its classes, ``a`` (n,) its attribute values or None; rows with a = -1
    (unknown) count in the mean and the class metrics and are left out of group metrics. Logits
    are judged by their argmax; of equal ones the first class wins. Predicted classes cost a
    fraction of logits, since calibration and ranking are left out: enough to choose an epoch.
    ``train_group_counts`` (C * A,) gives ``train_weighted``.

    EmbedcalError for labels out of range, shapes that do not fit, and logits that are not finite.
    """
    return evaluate_strata(outputs, strata(y, a, n_classes, n_attributes, train_group_counts))


def evaluate_strata(outputs: npt.NDArray[Any], cells: Strata) -> Metrics:
    """``evaluate`` for labels that are checked already: one ``Strata``, many epochs or runs."""
    found = np.asarray(outputs)
    logits = found.astype(np.float64) if found.ndim == 2 else None
    correct = predictions(found, cells) == cells.y
    values = statistics(cells.totals(correct), cells)
    tuples = {k: tuple(v.tolist()) for k, v in values.items() if v.ndim}
    scalars = {k: float(v) for k, v in values.items() if not v.ndim}
    fields: dict[str, Any] = scalars | tuples
    if cells.n_attributes:
        fields["group_sizes"] = tuple(cells.group_sizes.tolist())
    if logits is not None:
        fields["ece"] = ece(logits, cells.y)
        if cells.n_attributes:
            rows = [cells.a == value for value in range(cells.n_attributes)]
            area = [auroc(logits[some], cells.y[some]) for some in rows]
            fields["auroc"] = tuple(area)
            fields["worst_auroc"] = min((v for v in area if not np.isnan(v)), default=None)
    return Metrics(**fields)


def predictions(outputs: npt.NDArray[Any], cells: Strata) -> IntArray:
    """Logits (n, C) or predicted classes (n,) -> predicted classes (n,), checked against ``cells``.

    Of equal logits the first class wins. EmbedcalError for a shape that does not fit, a class
    that does not exist, and logits that are not finite.
    """
    found = np.asarray(outputs)
    n, c = len(cells), cells.n_classes
    if found.shape == (n, c):
        finite = np.isfinite(found).all(axis=1)
        if not finite.all():
            raise EmbedcalError(
                f"expected finite logits, found NaN or infinity in {int((~finite).sum())} of {n} "
                f"rows, the first in row {int(np.argmin(finite))}: the run diverged, try a smaller "
                "learning rate"
            )
        chosen: IntArray = found.argmax(axis=1)
        return chosen
    if found.shape == (n,) and np.issubdtype(found.dtype, np.integer):
        if found.min() < 0 or found.max() >= c:
            raise EmbedcalError(
                f"expected predictions from 0 to {c - 1}, found {found.min()} to {found.max()}: "
                "the head and the labels have different classes"
            )
        return found.astype(np.int64)
    raise EmbedcalError(
        f"expected logits of shape {(n, c)} or {n} predicted classes, found shape {found.shape} "
        f"of {found.dtype}: evaluate outputs and labels of the same split"
    )


def ece(logits: Float[np.ndarray, "n C"], y: Int[np.ndarray, " n"], bins: int = ECE_BINS) -> float:
    """Expected calibration error: the mean over bins, weighted by their rows, of |conf - freq|.

    Equal-width bins of [0, 1], closed below, the last on both sides. With two classes the
    confidence is p(y = 1) and the frequency that of y = 1; with more, the top probability and
    how often it is right (Naeini et al. 2015; the two conventions of SubpopBench).
    """
    weights = np.exp(logits - logits.max(axis=1, keepdims=True))
    p = weights / weights.sum(axis=1, keepdims=True)
    if p.shape[1] == 2:
        confidence, event = p[:, 1], y == 1
    else:
        confidence, event = p.max(axis=1), logits.argmax(axis=1) == y
    place = np.searchsorted(np.linspace(0.0, 1.0, bins + 1)[1:-1], confidence, side="right")
    gaps = np.bincount(place, weights=confidence - event, minlength=bins)
    return float(np.abs(gaps).sum() / len(y))


def auroc(logits: Float[np.ndarray, "n C"], y: Int[np.ndarray, " n"]) -> float:
    """Area under the ROC curve: of p(y = 1) with two classes, else the mean one-vs-rest area.

    The mean runs over the classes that have rows; NaN where only one class has any, or none.
    Rows are ranked by the log-odds of a class, which order them as its probability does but do
    not saturate.
    """
    scored = range(1, 2) if logits.shape[1] == 2 else range(logits.shape[1])
    areas = [rank_area(_log_odds(logits, c), y == c) for c in scored if 0 < (y == c).sum() < len(y)]
    return float(np.mean(areas)) if areas else float("nan")


def rank_area(score: Float[np.ndarray, " n"], positive: npt.NDArray[np.bool_]) -> float:
    """P(score of a positive > score of a negative), ties counting one half (Mann and Whitney)."""
    _, place, count = np.unique(score, return_inverse=True, return_counts=True)
    rank = (np.cumsum(count) - (count - 1) / 2)[place]  # (n,) mid-ranks from 1
    n_pos = int(positive.sum())
    n_neg = len(positive) - n_pos
    return float((rank[positive].sum() - n_pos * (n_pos + 1) / 2) / (n_pos * n_neg))


def _log_odds(logits: FloatArray, c: int) -> FloatArray:
    """log p_c / (1 - p_c) of each row: l_c - logsumexp of the others."""
    others = np.delete(logits, c, axis=1)
    top = others.max(axis=1)
    rest: FloatArray = top + np.log(np.exp(others - top[:, None]).sum(axis=1))
    return logits[:, c] - rest
