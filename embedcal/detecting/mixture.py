"""A mixture over embedding, label and prediction: groups of images that fail in the same way.

Domino (Eyuboglu et al. 2022, arXiv:2203.14960, section 4.2): image i of slice s has an embedding
from N(mu_s, diag(sigma_s^2)), a label from p_s and a prediction from q_s, each independent given
the slice. Its share in slice s is proportional to

    pi_s N(z_i; mu_s, sigma_s^2) p_s(y_i)^gamma prod_c q_s(c)^(gamma yhat_ic),

with yhat the predicted probabilities. gamma weighs labels and predictions, of which there are two
numbers, against the many of an embedding. Fitted by expectation maximisation from k-means over all
three side by side. Deviations: embeddings are reduced by PCA to ``DIMENSIONS`` and scaled to a
total variance of 1 a dimension, so that gamma means the same for every encoder.

Letters in shapes: n images, d dimensions, C classes, k components.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from embedcal.types import FloatArray, IntArray

DIMENSIONS = 32
GAMMA = 10.0
STEPS = 100
ENOUGH = 1e-5  # gain of the mean log likelihood that no longer matters
LEAST = 1e-3  # of a variance, where an embedding's own is 1
COUNT = 0.1  # added to every count of labels and predictions


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """``share`` (n, k): how far each image belongs to each component; rows add up to 1.

    ``likelihood`` holds the mean log likelihood of each step, which never falls but by the counts
    that are added.
    """

    share: FloatArray
    likelihood: tuple[float, ...]


def mixture(x: FloatArray, y: IntArray, probabilities: FloatArray, k: int, seed: int = 0) -> Fitted:
    """Fit k components to embeddings (n, d), labels (n,) and predictions (n, C), k <= n."""
    from sklearn.cluster import KMeans
    from threadpoolctl import threadpool_limits

    n_classes = probabilities.shape[1]
    z = reduced(x)
    labels = np.eye(n_classes)[y]
    both = np.sqrt(GAMMA / 2) * np.concatenate([labels, probabilities], axis=1)
    with threadpool_limits(1):
        start = KMeans(n_clusters=k, n_init=4, random_state=seed)
        share = np.eye(k)[start.fit_predict(np.concatenate([z, both], axis=1))]
    seen: list[float] = []
    for _ in range(STEPS):
        logs = _log_joint(z, labels, probabilities, share)
        top = logs.max(1, keepdims=True)
        total = top + np.log(np.exp(logs - top).sum(1, keepdims=True))
        share = np.exp(logs - total)
        seen.append(float(total.mean()))
        if len(seen) > 1 and abs(seen[-1] - seen[-2]) < ENOUGH:
            break
    return Fitted(share=share, likelihood=tuple(seen))


def reduced(x: FloatArray) -> FloatArray:
    """The first principal components (n, min(d, n, 32)), scaled to a mean variance of 1."""
    centred = x.astype(np.float64) - x.mean(0)
    values, vectors = np.linalg.eigh(centred.T @ centred / len(x))
    kept = vectors[:, ::-1][:, : min(DIMENSIONS, *x.shape)]
    scale = np.sqrt(max(float(values[::-1][: kept.shape[1]].mean()), 1e-30))
    found: FloatArray = centred @ kept / scale
    return found


def _log_joint(
    z: FloatArray, labels: FloatArray, probabilities: FloatArray, share: FloatArray
) -> FloatArray:
    """The best parameters for these shares, and log joint densities (n, k) under them."""
    weight = share.sum(0) + 1e-9  # (k,)
    mean = share.T @ z / weight[:, None]  # (k, d)
    variance = np.maximum(share.T @ z**2 / weight[:, None] - mean**2, LEAST)
    p = _frequencies(share.T @ labels)
    q = _frequencies(share.T @ probabilities)
    distance = z**2 @ (1 / variance).T - 2 * z @ (mean / variance).T + (mean**2 / variance).sum(1)
    normal = -0.5 * (distance + np.log(2 * np.pi * variance).sum(1))
    found: FloatArray = (
        np.log(weight / weight.sum())
        + normal
        + GAMMA * (labels @ np.log(p).T + probabilities @ np.log(q).T)
    )
    return found


def _frequencies(counts: FloatArray) -> FloatArray:
    raised = counts + COUNT
    found: FloatArray = raised / raised.sum(1, keepdims=True)
    return found
