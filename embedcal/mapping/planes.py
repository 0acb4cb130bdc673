"""Two dimensions out of many: PCA, t-SNE, UMAP, and the plane of a decision."""

from __future__ import annotations

import importlib
import warnings
from typing import Literal

import numpy as np
from jaxtyping import Float

from embedcal.types import EmbedcalError

By = Literal["pca", "tsne", "umap"]
METHODS: tuple[By, ...] = ("pca", "tsne", "umap")

PERPLEXITY = 30.0  # t-SNE's usual one
NEIGHBOURS = 15  # UMAP's usual ones
START = 1e-4  # deviation of t-SNE's first axis at the start, as van der Maaten has it
FEWEST = 4  # rows that UMAP's and t-SNE's neighbours can be told among


def plane(
    x: Float[np.ndarray, "m d"], by: By, seed: int
) -> tuple[Float[np.ndarray, "m 2"], float | None]:
    """Points of rows ``x``, and for PCA the share of the variance that they keep (else None).

    One thread, and ``seed`` decides what UMAP draws (PCA and t-SNE draw nothing): equal input
    gives equal points on one machine. Raises EmbedcalError for too few rows, and for UMAP
    without the package.
    """
    if len(x) < FEWEST:
        raise EmbedcalError(
            f"expected {FEWEST} rows or more to map, found {len(x)}: choose another split, or more "
            "points"
        )
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1):
        if by == "pca":
            return pca(x)
        return (_tsne(x) if by == "tsne" else _umap(x, seed)), None


def pca(x: Float[np.ndarray, "m d"]) -> tuple[Float[np.ndarray, "m 2"], float]:
    """Scores (m, 2) on the first two principal axes of ``x``, and their share of its variance.

    An axis has no direction of its own: the largest of its weights is made positive.
    """
    from scipy.linalg import eigh

    z = x.astype(np.float64) - x.mean(0, dtype=np.float64)
    if z.shape[1] == 1:
        z = np.pad(z, ((0, 0), (0, 1)))
    d = z.shape[1]
    values, axes = eigh(z.T @ z, subset_by_index=[d - 2, d - 1])
    axes = axes[:, ::-1]
    axes = axes * np.sign(axes[np.abs(axes).argmax(0), [0, 1]])
    total = float((z * z).sum())
    return z @ axes, min(1.0, float(values.sum()) / total) if total > 0 else 1.0


def decision(
    margin: Float[np.ndarray, " m"], frozen: Float[np.ndarray, "m d"]
) -> Float[np.ndarray, "m 2"]:
    """The plane (m, 2) of a linear decision between two classes.

    Across: the margin itself, 0 is the border. Up: the first principal component of what is left
    of the frozen embeddings once their regression on the margin is taken out, so the largest
    variation that the decision does not follow.
    """
    z = frozen.astype(np.float64) - frozen.mean(0, dtype=np.float64)
    m = margin - margin.mean()
    square = float(m @ m)
    if square > 0:
        z -= np.outer(m, m @ z) / square
    return np.stack([margin, pca(z)[0][:, 0]], axis=1)


def turned(
    points: Float[np.ndarray, "m 2"], like: Float[np.ndarray, "m 2"]
) -> Float[np.ndarray, "m 2"]:
    """Points centred, then turned or mirrored to lie as near to ``like`` as they can.

    Orthogonal Procrustes (Schönemann 1966), without scaling: no distance changes.
    """
    centred = points - points.mean(0)
    u, _, vt = np.linalg.svd(centred.T @ (like - like.mean(0)))
    found: Float[np.ndarray, "m 2"] = centred @ (u @ vt)
    return found


def _tsne(x: Float[np.ndarray, "m d"]) -> Float[np.ndarray, "m 2"]:
    """van der Maaten and Hinton (2008) from a start by PCA, after which nothing is random.

    Its affinities come from squared distances, which for unit rows are twice the cosine ones.
    """
    from sklearn.manifold import TSNE

    start = pca(x)[0]
    deviation = float(start[:, 0].std())
    model = TSNE(
        n_components=2,
        perplexity=min(PERPLEXITY, (len(x) - 1) / 3),
        init=(start / deviation * START if deviation else start).astype(np.float32),
        n_jobs=1,
    )
    found: Float[np.ndarray, "m 2"] = model.fit_transform(x.astype(np.float32)).astype(np.float64)
    return found


def _umap(x: Float[np.ndarray, "m d"], seed: int) -> Float[np.ndarray, "m 2"]:
    """McInnes, Healy and Melville (2018, arXiv:1802.03426), by umap-learn with its defaults."""
    try:
        umap = importlib.import_module("umap")
    except ImportError:
        raise EmbedcalError(
            "expected the package umap-learn for a map by UMAP, found none: "
            "pip install 'embedcal[umap]'"
        ) from None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its own, of its own dependencies
        model = umap.UMAP(
            n_components=2,
            n_neighbors=min(NEIGHBOURS, len(x) - 1),
            random_state=seed,
            n_jobs=1,
        )
        found: Float[np.ndarray, "m 2"] = np.asarray(
            model.fit_transform(x.astype(np.float32)), np.float64
        )
    return found
