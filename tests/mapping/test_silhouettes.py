"""Silhouettes against the definition in loops, scikit-learn, and derivatives by differences."""

from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn.metrics import silhouette_samples, silhouette_score

from embedcal.mapping import change, silhouette
from embedcal.types import EmbedcalError


def rows_by_loops(x: np.ndarray, y: np.ndarray, w: np.ndarray) -> np.ndarray:
    """s_i from the definition, where row j counts w_j times in every mean distance."""
    n = len(x)
    d = [[0.5 * sum((p - q) ** 2 for p, q in zip(x[i], x[j])) for j in range(n)] for i in range(n)]
    found = []
    for i in range(n):
        means = {}
        for label in set(y.tolist()):
            others = [j for j in range(n) if y[j] == label and j != i]
            if others:
                means[label] = sum(w[j] * d[i][j] for j in others) / sum(w[j] for j in others)
        b = min(mean for label, mean in means.items() if label != y[i])
        a = means.get(y[i])
        found.append(0.0 if a is None or max(a, b) == 0 else (b - a) / max(a, b))
    return np.array(found)


def mean_by_loops(x: np.ndarray, y: np.ndarray, w: np.ndarray) -> float:
    return float((w * rows_by_loops(x, y, w)).sum() / w.sum())


def world(seed: int, n: int, k: int, d: int = 5) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    y = np.concatenate([np.arange(k), rng.integers(0, k, n - k)])
    x = rng.normal(size=(n, d)) + rng.normal(size=(k, d))[y]
    return x / np.linalg.norm(x, axis=1, keepdims=True), y


CASES = [(0, 30, 2), (1, 24, 5), (2, 22, 20), (3, 7, 3)]


@pytest.mark.parametrize(("seed", "n", "k"), CASES)
def test_equals_the_definition_and_scikit_learn(seed: int, n: int, k: int) -> None:
    x, y = world(seed, n, k)
    found = silhouette(x, y, k)
    np.testing.assert_allclose(found.rows, rows_by_loops(x, y, np.ones(n)), atol=1e-12)
    np.testing.assert_allclose(found.rows, silhouette_samples(x, y, metric="cosine"), atol=1e-9)
    assert found.mean == pytest.approx(silhouette_score(x, y, metric="cosine"), abs=1e-9)
    for label, value in enumerate(found.values):
        assert value == pytest.approx(found.rows[y == label].mean(), abs=1e-12)
    assert -1 <= found.interval[0] <= found.mean <= found.interval[1] <= 1


def test_rows_of_any_length_count_by_squared_distance() -> None:
    x, y = world(4, 50, 3)
    x = 7 * x * np.linspace(0.1, 2, 50)[:, None] + 3
    want = silhouette_score(x, y, metric="sqeuclidean")
    assert silhouette(x, y, 3).mean == pytest.approx(want, abs=1e-9)


@pytest.mark.parametrize(("seed", "n", "k"), CASES)
def test_influence_is_the_derivative_by_the_weight_of_a_row(seed: int, n: int, k: int) -> None:
    x, y = world(seed, n, k)
    found, step = silhouette(x, y, k), 1e-5
    for j in range(n):
        more, less = np.ones(n), np.ones(n)
        more[j] += step
        less[j] -= step
        slope = (mean_by_loops(x, y, more) - mean_by_loops(x, y, less)) / (2 * step)
        assert found.influence[j] == pytest.approx(n * slope, abs=1e-5)
    assert found.influence.sum() == pytest.approx(0, abs=1e-9)


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    def drawn(rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        y = rng.integers(0, 3, n)
        x = rng.normal(size=(n, 4)) + 1.5 * np.eye(3, 4)[y]
        return x, x * (2, 1, 1, 1), y

    large = drawn(np.random.default_rng(99), 200_000)
    first, second = (silhouette(x, large[2], 3) for x in large[:2])
    held, changed, tries = 0, 0, 300
    for seed in range(tries):
        x, stretched, y = drawn(np.random.default_rng(seed), 150)
        one, two = silhouette(x, y, 3), silhouette(stretched, y, 3)
        held += one.interval[0] <= first.mean <= one.interval[1]
        low, high = change(one, two)[1]
        changed += low <= second.mean - first.mean <= high
    # 300 tries at 95 %: four standard deviations are 5 points
    assert 0.90 <= held / tries <= 0.99
    assert 0.90 <= changed / tries <= 0.99


def test_unknown_labels_and_labels_without_rows_stay_out() -> None:
    x, y = world(5, 40, 3)
    gapped = np.where(y == 2, 5, y)  # 2, 3 and 4 have no rows
    known = np.concatenate([gapped, np.full(4, -1)])
    found = silhouette(np.concatenate([x, np.eye(4, 5)]), known, 7)
    plain = silhouette(x, y, 3)
    assert found.mean == pytest.approx(plain.mean, abs=1e-12)
    assert len(found.rows) == 40
    assert [math.isnan(value) for value in found.values] == [0, 0, 1, 1, 1, 0, 1]


def test_equal_rows_are_at_no_distance() -> None:
    x = np.repeat(np.array([[1.0, 0, 0], [0, 1.0, 0]]), 6, axis=0)
    apart = silhouette(x.astype(np.float32), np.repeat([0, 1], 6), 2)
    assert apart.mean == 1
    assert apart.interval == pytest.approx((1, 1))
    same = silhouette(np.ones((8, 3)), np.arange(8) % 2, 2)
    assert same.mean == 0
    assert np.isfinite(same.influence).all()


def test_a_change_pairs_the_rows() -> None:
    x, y = world(6, 60, 2)
    before, after = silhouette(x, y, 2), silhouette(x * (3, 1, 1, 1, 1), y, 2)
    assert change(before, before) == (0, (0, 0))
    found, (low, high) = change(before, after)
    assert found == pytest.approx(after.mean - before.mean)
    apart = math.hypot(*(s.interval[1] - s.mean for s in (before, after)))
    assert high - found == pytest.approx(found - low)
    assert high - found < apart  # as it would be without pairs


def test_one_label_has_no_silhouette() -> None:
    with pytest.raises(EmbedcalError, match=r"^expected rows of two labels or more.*found 1: .*$"):
        silhouette(np.eye(3), np.array([1, 1, -1]), 2)
