"""Where "present" begins on the scores of an attribute, without a label of the attribute.

Scores of images with an attribute and without it are taken for two normal distributions. Two
things move them that have nothing to do with the attribute, and the model has both: images of one
class lie higher than those of another (a water bird looks like water), and the attribute may be
frequent in one class and rare in another (that is what makes it spurious). For image i of class c,

    s_i = m_c + delta z_i + noise,    z_i ~ Bernoulli(share_c),    noise ~ N(0, v)

with one gap delta >= 0 and one variance v for all classes, a shift m_c and a share of each class,
fitted by expectation maximisation, for all attributes at once. One pooled mixture, or one threshold
at the mean or at a quantile, agrees less with the true places of birds. An attribute that does not
fall in two is cut in two all the same: ``separation``, delta / sqrt(v), tells.

The cut is the middle, m_c + delta / 2, whatever the shares. Those of another split differ, and
on birds of validation and test the most probable side agrees less with the truth than the middle.

Letters in shapes: n images, K attributes, C classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from embedcal.types import FloatArray, IntArray

STEPS = 50  # two heaps are parted within ten; one heap may creep for hundreds, to no end
ENOUGH = 1e-3  # of one standard deviation: steps of the gap that no longer matter
BORROWED = 10  # images by which the share of a small class leans towards that of all
BLOCK = 2**16  # scores worked on at once: half a MiB, so that a core's own cache holds them


@dataclass(frozen=True, kw_only=True)
class Cuts:
    """``threshold`` (C, K): an attribute is present where its score lies above; float64.

    ``separation`` (K,) is the gap between the two means in standard deviations.
    """

    threshold: FloatArray
    separation: FloatArray

    def margin(self, scores: FloatArray, y: IntArray) -> FloatArray:
        """How far scores (n, K) of images of classes y (n,) lie above their cut, (n, K)."""
        margin: FloatArray = scores - self.threshold[y]
        return margin


def cuts(scores: FloatArray, y: IntArray, n_classes: int) -> Cuts:
    """Fit the mixtures to ``scores`` (n, K) of images of classes ``y`` (n,).

    A class without an image gets the mean of the other classes' cuts.
    """
    width = max(1, BLOCK // max(1, len(scores)))
    parts = [
        _fit(np.asarray(scores[:, start : start + width], np.float64), y, n_classes)
        for start in range(0, scores.shape[1], width)
    ]
    return Cuts(
        threshold=np.concatenate([part.threshold for part in parts], axis=1),
        separation=np.concatenate([part.separation for part in parts]),
    )


def _fit(scores: FloatArray, y: IntArray, n_classes: int) -> Cuts:
    # In every step the shifts follow from gap and shares in closed form, so that the steps are
    # about residuals r from class means: gap = sum z r / sum_c n_c share_c (1 - share_c).
    n, sizes = len(y), np.bincount(y, minlength=n_classes).astype(np.float64)[:, None]
    seen = np.maximum(sizes, 1)
    means = _by_class(scores, y, n_classes) / seen
    r = scores - means[y]
    spread = np.maximum(r.std(0), 1e-12)
    z = 1 / (1 + np.exp(-4 * r / spread))
    gap, variance = np.zeros(scores.shape[1]), np.ones(scores.shape[1])
    moving = np.ones(scores.shape[1], bool)  # each attribute ends by itself, whoever is beside it
    for _ in range(STEPS):
        z_now, r_now = z[:, moving], r[:, moving]
        inside = _by_class(z_now, y, n_classes)  # expected images with it, (C, moving)
        share = inside / seen
        room = (inside * (1 - share)).sum(0)
        new = np.maximum((z_now * r_now).sum(0) / np.maximum(room, 1e-12), 1e-12)
        rest = r_now + (new * share)[y]  # from the mean of those without
        left = (rest**2).sum(0) - 2 * new * (z_now * rest).sum(0) + new**2 * z_now.sum(0)
        variance[moving] = np.maximum(left / n, 1e-6 * spread[moving] ** 2)
        pooled = (z_now.sum(0) + 1) / (n + 2)  # never 0 or 1
        known = (inside + BORROWED * pooled) / (sizes + BORROWED)
        odds = np.log(known / (1 - known))[y] + new * (2 * rest - new) / (2 * variance[moving])
        z[:, moving] = 1 / (1 + np.exp(-odds.clip(-50, 50)))
        before, gap[moving] = gap[moving], new
        moving[moving] = np.abs(new - before) > ENOUGH * spread[moving]
        if not moving.any():
            break
    share = _by_class(z, y, n_classes) / seen
    middle = means - gap * share + gap / 2
    present = sizes[:, 0] > 0
    middle[~present] = middle[present].mean(0)
    return Cuts(threshold=middle, separation=gap / np.sqrt(variance))


def _by_class(values: FloatArray, y: IntArray, n_classes: int) -> FloatArray:
    """Sums (C, K) of values (n, K) over the images of each class."""
    from scipy.sparse import csr_array

    n = len(y)
    sums: FloatArray = csr_array((np.ones(n), (y, np.arange(n))), shape=(n_classes, n)) @ values
    return sums
