"""Two dimensions: PCA against scikit-learn, turning, decisions, and seeds."""

from __future__ import annotations

import importlib

import numpy as np
import pytest
from sklearn.decomposition import PCA

from embedcal.mapping.planes import METHODS, decision, pca, plane, turned
from embedcal.types import EmbedcalError

# umap-learn compiles itself when it is imported
BY = [pytest.param(by, marks=[pytest.mark.slow] if by == "umap" else []) for by in METHODS]


def blobs(n: int = 60, d: int = 8, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    label = np.arange(n) % 2
    x = rng.normal(size=(n, d)) * np.linspace(1, 0.3, d) + 6 * np.eye(1, d)[0] * label[:, None]
    return x.astype(np.float32), label


@pytest.mark.parametrize(("n", "d"), [(60, 8), (6, 20), (50, 2)])
def test_pca_is_scikit_learns(n: int, d: int) -> None:
    x = blobs(n, d)[0].astype(np.float64)
    model = PCA(2, svd_solver="full").fit(x)
    points, share = pca(x)
    np.testing.assert_allclose(np.abs(points), np.abs(model.transform(x)), atol=1e-9)
    assert share == pytest.approx(model.explained_variance_ratio_.sum())
    np.testing.assert_allclose(pca(-x)[0], -points, atol=1e-9)  # an axis keeps its direction


def test_pca_of_a_line_and_of_a_point() -> None:
    points, share = pca(np.arange(5.0)[:, None])
    np.testing.assert_allclose(points, np.stack([np.arange(5) - 2.0, np.zeros(5)], 1), atol=1e-12)
    assert share == 1
    assert (pca(np.ones((5, 3)))[0] == 0).all()


def test_turning_finds_a_turned_and_mirrored_copy_and_keeps_distances() -> None:
    like = blobs(20, 2)[0].astype(np.float64)
    angle = 0.7
    spin = np.array([[np.cos(angle), np.sin(angle)], [np.sin(angle), -np.cos(angle)]])  # mirrors
    found = turned(like @ spin + 5, like)
    np.testing.assert_allclose(found, like - like.mean(0), atol=1e-9)
    other = np.random.default_rng(1).normal(size=(20, 2))
    gaps = [np.linalg.norm(p[:, None] - p[None], axis=2) for p in (other, turned(other, like))]
    np.testing.assert_allclose(gaps[1], gaps[0], atol=1e-9)


def test_a_decision_lies_across_and_what_it_leaves_upwards() -> None:
    x = blobs()[0].astype(np.float64)
    weight = np.zeros(8)
    weight[2] = 1.5
    points = decision(x @ weight - 1, x)
    np.testing.assert_array_equal(points[:, 0], x @ weight - 1)
    assert np.corrcoef(points.T)[0, 1] == pytest.approx(0, abs=1e-9)
    assert abs(np.corrcoef(points[:, 1], x[:, 0])[0, 1]) > 0.95  # the largest variation
    along = decision(x[:, 0], x)[:, 1]  # now it is taken, and the next one is shown
    assert abs(np.corrcoef(along, x[:, 0])[0, 1]) < 1e-9
    assert np.isfinite(decision(np.zeros(60), x)).all()


@pytest.mark.parametrize("by", BY)
def test_seeds_decide_and_clusters_stay_apart(by: str) -> None:
    if by == "umap":
        pytest.importorskip("umap")
    x, label = blobs()
    points, share = plane(x, by, 3)
    assert points.shape == (60, 2)
    assert (share is None) == (by != "pca")
    np.testing.assert_array_equal(plane(x, by, 3)[0], points)
    if by == "umap":  # the others draw nothing
        assert not np.array_equal(plane(x, by, 4)[0], points)
    gaps = np.linalg.norm(points[:, None] - points[None], axis=2)
    np.fill_diagonal(gaps, np.inf)
    assert (label[gaps.argmin(1)] == label).mean() > 0.95


@pytest.mark.parametrize("by", BY)
def test_few_rows_and_equal_rows(by: str) -> None:
    if by == "umap":
        pytest.importorskip("umap")
    assert plane(blobs(4)[0], by, 0)[0].shape == (4, 2)
    if by != "umap":
        assert np.isfinite(plane(np.ones((12, 3), np.float32), by, 0)[0]).all()
    with pytest.raises(EmbedcalError, match="expected 4 rows or more to map, found 3: choose"):
        plane(blobs(3)[0], by, 0)


def test_umap_without_its_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr(importlib, "import_module", absent)
    with pytest.raises(EmbedcalError, match=r"found none: pip install 'embedcal\[umap\]'$"):
        plane(blobs()[0], "umap", 0)
