"""How much a class's accuracy hangs on an attribute, for every attribute and class at once.

For class c and attribute j, over the images of class c in one split,

    delta = accuracy of images with j - accuracy of images without j

(Yang et al. 2023, arXiv:2304.03916, section 4.1), and the mutual information of presence and
error in nats, by which the official code picks candidates. What is added here:

* an interval: Newcombe's hybrid score interval for a difference of two proportions (Newcombe
  1998, method 10). It is built from Wilson's, so it stays within -1 and 1, contains the estimate,
  and has a width where an accuracy is 0 or 1, all of which Wald's lacks. The resampling of
  ``embedcal.evaluate`` gives nearly the same ends for a pair of groups; this is a formula, and
  there may be hundreds of thousands of pairs. The tests simulate how often it holds the truth.
* a p-value for delta = 0: the "N - 1" chi-squared test (Pearson 1947; Campbell 2007). It rejects a
  little too often where the smaller side can expect less than half an error.
* p-values adjusted for being many: Benjamini and Hochberg 1995. What is looked for is a list for a
  person to judge, so the share of false leads in it is what should be bounded. Holm's bound, on
  there being any false lead at all, would cost most of the power over hundreds of attributes. The
  proof asks for independence or positive dependence; attributes that exclude each other, as land
  and water, are outside it, and in simulation the bound holds for them too.

Letters in shapes: n images, K attributes, C classes, k pairs of attribute and class.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from embedcal.datasets.printable import printable
from embedcal.types import EmbedcalError, FloatArray, IntArray

By = Literal["delta", "mi"]
BY = ("delta", "mi")
MIN_DETECT = 10  # images with the attribute, as in the official code; here without it as well
Z = 1.959963984540054  # 97.5 % point of the normal distribution

Flags = npt.NDArray[np.bool_]
Presences = npt.NDArray[np.int8]  # 1 present, 0 absent, -1 unknown


@dataclass(frozen=True, kw_only=True)
class Effect:
    """One attribute and one class. Accuracies are fractions; ``mutual_information`` is in nats.

    ``confused`` is the class that images of the side with the lower accuracy are taken for.
    ``p_adjusted`` counts all pairs that were tested together.
    """

    attribute: str
    label: int
    n_with: int
    n_without: int
    accuracy_with: float
    accuracy_without: float
    delta: float
    interval: tuple[float, float]
    p: float
    p_adjusted: float
    mutual_information: float
    confused: int


def effects(
    logits: FloatArray,
    y: IntArray,
    present: Presences,
    names: Sequence[str],
    *,
    min_detect: int = MIN_DETECT,
) -> tuple[Effect, ...]:
    """Every pair of attribute and class with enough images, in the order of classes, then names.

    ``logits`` (n, C), ``y`` (n,), ``present`` (n, K) with -1 where it is not known. A pair counts
    when at least ``min_detect`` images of the class have the attribute, and as many have not: the
    official code asks it of the first alone, and so meets accuracies over one image. Which pairs
    count depends on presence, not on errors, so leaving the others out keeps p-values honest.
    """
    if not (len(logits) == len(y) == len(present)) or present.shape[1:] != (len(names),):
        raise EmbedcalError(
            f"expected logits, labels and presence of the same images, found {logits.shape}, "
            f"{y.shape} and {present.shape} for {len(names)} attributes: pass those of one split"
        )
    if min_detect < 1:
        raise EmbedcalError(
            f"expected at least 1 image with an attribute, found {min_detect}: take {MIN_DETECT}"
        )
    correct, rival = logits.argmax(1) == y, rivals(logits, y)
    columns: list[tuple[Any, ...]] = []
    for label in range(logits.shape[1]):
        of = y == label
        counts, confused = _of_class(correct[of], rival[of], present[of], logits.shape[1])
        kept = np.flatnonzero((counts[:, 0] >= min_detect) & (counts[:, 1] >= min_detect))
        columns += [(label, j, *counts[j], confused[j]) for j in kept]
    if not columns:
        return ()
    table = np.array(columns)
    label, j, n1, n0, h1, h0, confused = table.T
    low, high = newcombe(h1, n1, h0, n0)
    p = chi_squared_p(h1, n1, h0, n0)
    adjusted, information = benjamini_hochberg(p), mutual_information(h1, n1, h0, n0)
    return tuple(
        Effect(
            attribute=names[j[i]],
            label=int(label[i]),
            n_with=int(n1[i]),
            n_without=int(n0[i]),
            accuracy_with=float(h1[i] / n1[i]),
            accuracy_without=float(h0[i] / n0[i]),
            delta=float(h1[i] / n1[i] - h0[i] / n0[i]),
            interval=(float(low[i]), float(high[i])),
            p=float(p[i]),
            p_adjusted=float(adjusted[i]),
            mutual_information=float(information[i]),
            confused=int(confused[i]),
        )
        for i in range(len(table))
    )


def check_ranking(by: str) -> None:
    """EmbedcalError for what ``ranked`` does not know."""
    if by not in BY:
        raise EmbedcalError(
            f"expected a ranking among {', '.join(BY)}, found '{printable(by)}': take delta, the "
            "accuracy with the attribute less that without it"
        )


def ranked(found: Sequence[Effect], by: By = "delta") -> tuple[Effect, ...]:
    """Largest delta, or largest mutual information, first; ties keep their order.

    delta has a sign, and a spurious attribute is one that helps: what hurts comes last. Mutual
    information has none.
    """
    check_ranking(by)
    key = {"delta": lambda e: -e.delta, "mi": lambda e: -e.mutual_information}[by]
    return tuple(sorted(found, key=key))


def leading(found: Sequence[Effect], by: By = "delta", per_class: int = 5) -> tuple[Effect, ...]:
    """The first few of each class by ``by``, pooled, largest delta first: what a person looks at.

    By delta this is the ranking of Yang et al. 2023; by mutual information, that of their code.
    """
    taken: dict[int, list[Effect]] = {}
    for effect in ranked(found, by):
        taken.setdefault(effect.label, []).append(effect)
    return ranked([effect for of in taken.values() for effect in of[:per_class]])


def rivals(logits: FloatArray, y: IntArray) -> IntArray:
    """The best class beside the true one (n,): where right the runner-up, where wrong the answer.

    The official code takes the second-highest logit throughout, which is most often the true class
    itself where the answer is wrong.
    """
    others = np.array(logits, np.float64)
    others[np.arange(len(y)), y] = -np.inf
    found: IntArray = others.argmax(1)
    return found


def _of_class(
    correct: Flags, rival: IntArray, present: Presences, n_classes: int
) -> tuple[IntArray, IntArray]:
    """Counts (K, 4): images with and without, hits with and without; confused classes (K,).

    Of the side with the lower accuracy, the class that its errors are most often taken for;
    runners-up of its hits decide where errors are tied or there are none. Errors come first
    because a runner-up may be far behind, and hits would outvote the errors that are to be told.
    """
    sides = [(present == value).astype(np.int64) for value in (1, 0)]
    sizes = [side.sum(0) for side in sides]
    hits = [correct.astype(np.int64) @ side for side in sides]
    with np.errstate(invalid="ignore", divide="ignore"):
        lower_with = hits[0] * sizes[1] < hits[1] * sizes[0]
    lower = np.where(lower_with, sides[0], sides[1])  # (m, K)
    # One error outweighs the runners-up of all hits.
    weight = np.where(correct, 1, len(correct) + 1)
    votes = np.zeros((n_classes, present.shape[1]), np.int64)
    for other in np.unique(rival):
        votes[other] = (weight * (rival == other)) @ lower
    return np.stack([*sizes, *hits], axis=1), votes.argmax(0)


def newcombe(
    h1: npt.ArrayLike, n1: npt.ArrayLike, h0: npt.ArrayLike, n0: npt.ArrayLike
) -> tuple[FloatArray, FloatArray]:
    """95 % interval (k,), (k,) of h1 / n1 - h0 / n0: hits among n images on either side, n > 0.

    With (l, u) Wilson's score interval of each p: delta - sqrt((p1 - l1)^2 + (u0 - p0)^2) and
    delta + sqrt((u1 - p1)^2 + (p0 - l0)^2) (Newcombe 1998, method 10).
    """
    (p1, l1, u1), (p0, l0, u0) = _wilson(h1, n1), _wilson(h0, n0)
    low: FloatArray = p1 - p0 - np.hypot(p1 - l1, u0 - p0)
    high: FloatArray = p1 - p0 + np.hypot(u1 - p1, p0 - l0)
    return low.clip(-1, 1), high.clip(-1, 1)


def _wilson(h: npt.ArrayLike, n: npt.ArrayLike) -> tuple[FloatArray, FloatArray, FloatArray]:
    hits, size = np.asarray(h, float), np.asarray(n, float)
    p = hits / size
    centre = (p + Z**2 / (2 * size)) / (1 + Z**2 / size)
    half = Z * np.sqrt(p * (1 - p) / size + Z**2 / (4 * size**2)) / (1 + Z**2 / size)
    # Rounding must not put an end on the wrong side of p.
    return p, np.minimum(centre - half, p), np.maximum(centre + half, p)


def chi_squared_p(
    h1: npt.ArrayLike, n1: npt.ArrayLike, h0: npt.ArrayLike, n0: npt.ArrayLike
) -> FloatArray:
    """Two-sided p-values (k,) of equal accuracies by (N - 1) phi^2; 1 where all or none are right.

    phi^2 = (h1 m0 - h0 m1)^2 / (n1 n0 H M), with m the misses, H and M all hits and misses.
    """
    from scipy.special import erfc

    a, n, c, m = (np.asarray(v, float) for v in (h1, n1, h0, n0))
    hits, misses = a + c, n + m - a - c
    margins = n * m * hits * misses
    cross = (a * (m - c) - c * (n - a)) ** 2
    statistic = (n + m - 1) * np.divide(cross, margins, out=np.zeros_like(cross), where=margins > 0)
    p: FloatArray = erfc(np.sqrt(statistic / 2))
    return p


def mutual_information(
    h1: npt.ArrayLike, n1: npt.ArrayLike, h0: npt.ArrayLike, n0: npt.ArrayLike
) -> FloatArray:
    """Mutual information (k,) of presence and error within a class, in nats, never below 0."""
    a, n, c, m = (np.asarray(v, float) for v in (h1, n1, h0, n0))
    total = n + m
    cells = np.stack([a, n - a, c, m - c])
    expected = np.stack([n, n, m, m]) * np.stack([a + c, total - a - c] * 2) / total
    ratio = np.divide(cells, expected, out=np.ones_like(cells), where=cells > 0)
    found: FloatArray = (cells / total * np.log(ratio)).sum(0)
    return found.clip(0)


def benjamini_hochberg(p: npt.ArrayLike) -> FloatArray:
    """p-values (k,) adjusted for the false discovery rate: min over q >= p of k q / rank(q)."""
    values = np.asarray(p, float)
    order = np.argsort(values, kind="stable")[::-1]
    ranks = np.arange(len(values), 0, -1)
    adjusted = np.empty_like(values)
    adjusted[order] = np.minimum.accumulate(values[order] * len(values) / ranks).clip(0, 1)
    return adjusted
