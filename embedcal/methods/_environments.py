"""Environments inferred from a classifier's logits, and the worst of the cells that they make.

Shapes: n rows, C classes. Nothing here reads a group label.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from embedcal.methods._heldout import BETAS, EPSILON, log_softmax
from embedcal.types import FloatArray, IntArray

WAYS = ("closed", "adam", "errors")


def slopes(logits: FloatArray, y: IntArray) -> FloatArray:
    """g_i = d CE(s l_i, y_i) / ds at s = 1, so E_p[l_i] - l_iy, p the softmax of logits l (n, C).

    Creager et al., 2021 (arXiv:2010.07249). Adding a number to all logits of a row changes
    nothing, which is why they are taken from that of the class.
    """
    margins = logits - logits[np.arange(len(y)), y][:, None]
    found: FloatArray = (np.exp(log_softmax(logits)) * margins).sum(1)
    return found


def objective(q: FloatArray, g: FloatArray) -> float:
    """((mean q g)^2 + (mean (1 - q) g)^2) / 2, which the environments maximise: q, g (n,)."""
    return float(((q * g).mean() ** 2 + ((1 - q) * g).mean() ** 2) / 2)


def closed_split(g: FloatArray) -> IntArray:
    """Environments (n,) that maximise the objective over all splits: [g > 0].

    It is convex in q and depends on it through sum q g alone, so it is largest where that sum is:
    at all the positive g, or at all the negative ones, which is the same split.
    """
    return (g > 0).astype(np.int64)


def descended_split(g: FloatArray, rng: np.random.Generator, *, steps: int, lr: float) -> IntArray:
    """Environments (n,) as EIIL finds them: [sigmoid(w) > 1/2], w from N(0, 1) by Adam.

    Rows of small slope hardly move, so that it is a noisy version of the closed split; with few
    steps it is a random one.
    """
    w = rng.normal(size=len(g))
    first, second = np.zeros(len(g)), np.zeros(len(g))
    for step in range(1, steps + 1):
        q = 1 / (1 + np.exp(-w))
        slope = ((q * g).mean() - ((1 - q) * g).mean()) * g * q * (1 - q) / len(g)
        first = BETAS[0] * first + (1 - BETAS[0]) * slope
        second = BETAS[1] * second + (1 - BETAS[1]) * slope**2
        spread = np.sqrt(second / (1 - BETAS[1] ** step)) + EPSILON
        w = w + lr * first / (1 - BETAS[0] ** step) / spread
    found: IntArray = (w > 0).astype(np.int64)
    return found


def environments(
    logits: FloatArray,
    y: IntArray,
    way: str,
    rng: np.random.Generator,
    *,
    steps: int = 20_000,
    lr: float = 1e-3,
) -> IntArray:
    """An environment (n,), 0 or 1, of each row of logits (n, C); ``way`` is one of ``WAYS``.

    ``errors``: whether the classifier is wrong, which for two classes is the closed split but for
    exact ties.
    """
    if way == "errors":
        wrong: IntArray = (logits.argmax(1) != y).astype(np.int64)
        return wrong
    g = slopes(logits, y)
    if way == "closed":
        return closed_split(g)
    return descended_split(g, rng, steps=steps, lr=lr)


def cell_sizes(inferred: IntArray, y: IntArray, n_classes: int) -> IntArray:
    """Rows of either environment in each class: (C, 2) from environments and classes (n,)."""
    return np.bincount(2 * y + inferred, minlength=2 * n_classes).reshape(-1, 2)


def joined(inferred: IntArray, y: IntArray, small: npt.NDArray[np.bool_]) -> IntArray:
    """Environments (n,) with those of the small classes (C,) made one, so that they count whole."""
    return np.where(small[y], 0, inferred)


def worst_cell(right: IntArray, cells: IntArray) -> FloatArray:
    """The least share of ``right`` (..., n) over those cells (n,) that have rows: (...)."""
    shares = [right[..., cells == cell].mean(-1) for cell in np.unique(cells)]
    found: FloatArray = np.stack(shares).min(0)
    return found
