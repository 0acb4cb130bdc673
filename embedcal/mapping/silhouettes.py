"""Silhouettes: how much nearer rows lie to their own label's rows than to the next label's.

Rousseeuw (1987): s_i = (b_i - a_i) / max(a_i, b_i), where a_i is the mean distance of row i to the
other rows of its label, and b_i the smallest mean distance to the rows of another label. A row
that is alone in its label has s_i = 0. 1: well apart; 0: mixed; below 0: nearer to others.

The distance is d_ij = |x_i - x_j|^2 / 2, which for unit vectors is the cosine distance
1 - x_i . x_j. It is linear in what belongs to row j (x_j and |x_j|^2), so a mean distance to a
label follows from that label's mean row: all pairs count, exactly, at n * k * d multiplications
for k labels and never n * n. No subsample is needed at any size.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float, Int

from embedcal.types import EmbedcalError

Interval = tuple[float, float]

NORMAL = 1.959963984540054  # 97.5 % quantile of the standard normal
NOTHING = 1e-13  # of the mean squared length: a distance that is rounding alone


@dataclass(frozen=True, kw_only=True)
class Silhouette:
    """``mean`` over rows, and over the rows of each label in ``values`` (k,), NaN without rows.

    ``rows`` (n,) are the s_i of the rows with a label. ``influence`` (n,) is n times the derivative
    of ``mean`` by the weight of each row; its mean is 0.
    """

    mean: float
    values: tuple[float, ...]
    rows: Float[np.ndarray, " n"] = field(repr=False)
    influence: Float[np.ndarray, " n"] = field(repr=False)

    @property
    def interval(self) -> Interval:
        """95 %: what another sample of as many rows might have given, from ``influence``.

        The infinitesimal jackknife (Jaeckel 1972; Efron 1982, chapter 6): the variance of the mean
        is sum_i I_i^2 / n^2. It counts that a row moves the means that others are compared with.
        """
        return _interval(self.mean, self.influence, 1.0)


def change(before: Silhouette, after: Silhouette) -> tuple[float, Interval]:
    """``after`` less ``before`` for the same rows under the same labels, with its 95 % interval.

    The rows are paired: what makes a row easy in both does not widen the interval.
    """
    assert len(before.influence) == len(after.influence)
    found = after.mean - before.mean
    return found, _interval(found, after.influence - before.influence, 2.0)


def _interval(value: float, influence: Float[np.ndarray, " n"], bound: float) -> Interval:
    reach = NORMAL * math.sqrt(float(influence @ influence)) / len(influence)
    return max(-bound, value - reach), min(bound, value + reach)


def silhouette(
    x: Float[np.ndarray, "n d"], labels: Int[np.ndarray, " n"], n_labels: int
) -> Silhouette:
    """The silhouette of rows ``x`` under ``labels`` in 0..k-1; rows of label -1 are left out.

    On unit rows it equals scikit-learn's ``silhouette_score(x, labels, metric="cosine")``. Raises
    EmbedcalError where fewer than two labels have rows.
    """
    known = labels >= 0
    y = labels[known]
    sizes = np.bincount(y, minlength=n_labels)
    if (sizes > 0).sum() < 2:
        raise EmbedcalError(
            f"expected rows of two labels or more for a silhouette, found {int((sizes > 0).sum())}"
            ": choose another split or attribute"
        )
    z = x[known].astype(np.float64)
    z -= z.mean(0)  # distances stay, and less is lost to rounding
    half = (z * z).sum(1) / 2  # |z_i|^2 / 2
    own = np.eye(n_labels)[y]  # (n, k)
    with np.errstate(invalid="ignore", divide="ignore"):
        distance = half[:, None] + (own.T @ half) / sizes - z @ (own.T @ z / sizes[:, None]).T
    distance[distance <= NOTHING * half.mean()] = 0.0
    distance[:, sizes == 0] = np.inf

    places, counts = np.arange(len(y)), sizes[y]
    a = distance[places, y] * counts / np.maximum(counts - 1, 1)  # the row itself is no other
    distance[places, y] = np.inf
    nearest = distance.argmin(1)
    b = distance[places, nearest]
    usual = (counts > 1) & (np.maximum(a, b) > 0)
    rows = np.where(usual, (b - a) / np.where(usual, np.maximum(a, b), 1.0), 0.0)
    mean = float(rows.mean())

    # The derivative of the mean by the weight of row j: its own s_j, and what it does to the a_i
    # of its label and to the b_i of the rows that its label is nearest to.
    by_a, by_b = _derivatives(a, b, usual)
    alpha, beta = by_a / np.maximum(counts - 1, 1), by_b / sizes[nearest]
    to_own, to_next = own * alpha[:, None], np.eye(n_labels)[nearest] * beta[:, None]
    both = to_own + to_next  # (n, k)
    constant = to_own.T @ (half - a) + to_next.T @ (half - b)  # (k,)
    pull = constant[y] + half * both.sum(0)[y] - (z * (both.T @ z)[y]).sum(1)
    pull += alpha * a  # a row is no part of its own a
    return Silhouette(
        mean=mean,
        values=tuple(float(rows[y == k].mean()) if sizes[k] else math.nan for k in range(n_labels)),
        rows=rows,
        influence=rows - mean + pull,
    )


def _derivatives(
    a: Float[np.ndarray, " n"], b: Float[np.ndarray, " n"], usual: np.ndarray
) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """Derivatives (n,) of (b - a) / max(a, b) by a and by b; 0 where a row is not ``usual``."""
    top = np.where(usual, np.maximum(a, b), 1.0)
    near = a < b  # there s = 1 - a / b, else b / a - 1
    by_a = np.where(near, -1.0, -b / top) / top
    by_b = np.where(near, a / top, 1.0) / top
    return np.where(usual, by_a, 0.0), np.where(usual, by_b, 0.0)
