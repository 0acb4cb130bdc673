"""Slices of a data set, by clusters of its features too, and draws from them.

Correct-n-Contrast (arXiv:2203.01517) and contrastive adapters (arXiv:2207.07180) are described
with predictions h; the codes' defaults cluster a two-dimensional UMAP of the features instead, and
name the clusters so that as many examples as possible carry the name of their class.
"""

from __future__ import annotations

import importlib
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from embedcal.types import EmbedcalError, FloatArray, IntArray

STARTS = 10  # of the clustering; the best is kept


def rows_where(mask: Tensor) -> Tensor:
    """Positions (m,) where ``mask`` (n,) is true."""
    return torch.nonzero(mask)[:, 0]


def draw(pool: Tensor, k: int, generator: torch.Generator) -> Tensor:
    """k entries (k,) of a pool at random: distinct where it has as many, else with repeats."""
    if k <= len(pool):
        return pool[torch.randperm(len(pool), generator=generator)[:k]]
    return pool[torch.randint(len(pool), (k,), generator=generator)]


def umap_slices(
    features: Tensor,
    y: IntArray,
    n_classes: int,
    method: Literal["gmm", "kmeans"],
    generator: torch.Generator,
) -> IntArray:
    """A slice h (n,) of each row of ``features`` (n, d), named by the classes ``y`` (n,).

    Raises EmbedcalError without the optional package umap-learn.
    """
    seed = int(torch.randint(2**31 - 1, (), generator=generator))
    points = embed_in_plane(features.numpy(), seed)
    return name_clusters(cluster(points, n_classes, method, seed), y, n_classes)


def embed_in_plane(features: FloatArray, seed: int) -> FloatArray:
    """UMAP of features (n, d) in two dimensions (n, 2), with its own defaults."""
    try:
        umap = importlib.import_module("umap")
    except ImportError:
        raise EmbedcalError(
            "expected the package umap-learn for slices by UMAP, found none: "
            "pip install 'embedcal[umap]'"
        ) from None
    points: FloatArray = umap.UMAP(n_components=2, random_state=seed, n_jobs=1).fit_transform(
        features
    )
    return points


def cluster(points: FloatArray, k: int, method: Literal["gmm", "kmeans"], seed: int) -> IntArray:
    """The component of a Gaussian mixture, or the cluster of k-means, of each point (n,)."""
    from sklearn.cluster import KMeans
    from sklearn.mixture import GaussianMixture
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1):
        if method == "gmm":
            model = GaussianMixture(n_components=k, n_init=STARTS, random_state=seed)
        else:
            model = KMeans(n_clusters=k, n_init=STARTS, random_state=seed)
        found: IntArray = np.asarray(model.fit_predict(points))
    return found


def name_clusters(clusters: IntArray, y: IntArray, n_classes: int) -> IntArray:
    """Clusters (n,) renamed to the classes ``y`` (n,) by the permutation that agrees most often."""
    from scipy.optimize import linear_sum_assignment

    together = np.zeros((n_classes, n_classes), dtype=np.int64)
    np.add.at(together, (clusters, y), 1)
    _, name = linear_sum_assignment(together, maximize=True)
    return np.asarray(name)[clusters]
