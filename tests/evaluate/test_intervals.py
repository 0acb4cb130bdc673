"""Intervals: against explicit weights image by image, closed forms, coverage, and edges."""

import math

import numpy as np
import pytest
from scipy.stats import beta

from embedcal.evaluate import bootstrap, evaluate, strata
from embedcal.evaluate.intervals import resample
from embedcal.evaluate.strata import statistics
from embedcal.types import EmbedcalError

COUNTS = (50, 4, 3, 20)


def labels(sizes):
    g = np.repeat(np.arange(len(sizes)), sizes)
    return g // 2, g % 2


def runs(accuracies, sizes, r, seed=0):
    """Correlated runs: (r, n)."""
    rng = np.random.default_rng(seed)
    p = np.repeat(accuracies, sizes)
    return (rng.random(len(p)) + 0.2 * rng.random((r, len(p)))) / 1.1 < p


def test_patterns_are_drawn_as_images_are():
    """Moments and quantiles of the hits against one exponential weight for each single image."""
    y, a = labels((30, 12, 9, 25))
    a[5] = -1
    cells = strata(y, a, 2, 2, COUNTS)
    correct = runs((0.8, 0.5, 0.7, 0.9), (30, 12, 9, 25), 3)
    draws = 30_000
    rng = np.random.default_rng(1)
    slow = np.zeros((draws, 3, 2, 3))
    for c in range(2):
        for v, column in ((0, 0), (1, 1), (-1, 2)):
            rows = np.flatnonzero((y == c) & (a == v))
            if len(rows) == 0:
                continue
            weight = rng.exponential(size=(draws, len(rows)))
            extra = rng.gamma(0.5, size=(draws, 2))  # always right, never right
            total = weight.sum(1) + extra.sum(1)
            for run in range(3):
                share = (weight @ correct[run, rows] + extra[:, 0]) / total
                slow[:, run, c, column] = share * len(rows)
    fast = resample(correct, cells, draws, seed=2)
    assert fast.shape == slow.shape
    left, right = fast.reshape(draws, -1), slow.reshape(draws, -1)
    sizes = np.tile(np.maximum(cells.sizes.reshape(-1), 1), 3)
    np.testing.assert_allclose(left.mean(0) / sizes, right.mean(0) / sizes, atol=0.01)
    np.testing.assert_allclose(np.cov((left / sizes).T), np.cov((right / sizes).T), atol=2e-3)
    for name in ("worst_group", "train_weighted", "mean"):
        one, two = (statistics(h, cells)[name].mean(-1) for h in (fast, slow))
        levels = [0.025, 0.5, 0.975]
        np.testing.assert_allclose(np.quantile(one, levels), np.quantile(two, levels), atol=0.01)


def test_a_group_alone_has_jeffreys_interval():
    sizes, hits = (40, 28, 133, 500), (33, 28, 60, 498)
    y, a = labels(sizes)
    correct = np.concatenate([np.arange(n) < k for n, k in zip(sizes, hits, strict=True)])
    found = bootstrap(correct[None], strata(y, a, 2, 2), draws=40_000)
    for (low, high), n, k in zip(found.groups, sizes, hits, strict=True):
        assert low == pytest.approx(beta.ppf(0.025, k + 0.5, n - k + 0.5), abs=0.004)
        wanted = 1.0 if k == n else beta.ppf(0.975, k + 0.5, n - k + 0.5)
        assert high == pytest.approx(wanted, abs=0.004)


def test_means_have_the_width_of_the_stratified_standard_error():
    sizes, p = (900, 400, 400, 800), (0.8, 0.7, 0.9, 0.6)
    y, a = labels(sizes)
    correct = np.concatenate([np.arange(n) < q * n for n, q in zip(sizes, p, strict=True)])
    found = bootstrap(correct[None], strata(y, a, 2, 2, COUNTS), draws=20_000)
    variance = np.array(p) * (1 - np.array(p)) / np.array(sizes)
    for name, weight in (
        ("mean", np.array(sizes)),
        ("group_mean", np.ones(4)),
        ("train_weighted", np.array(COUNTS)),
    ):
        w = weight / weight.sum()
        low, high = getattr(found, name)
        assert (high + low) / 2 == pytest.approx(w @ p, abs=0.002)
        assert high - low == pytest.approx(2 * 1.96 * math.sqrt(w**2 @ variance), rel=0.04)


def test_means_over_many_small_groups_stay_centred():
    """Pseudo images would pull the mean of 24 groups with 27 of 28 right by 1.6 points."""
    group = np.repeat(np.arange(24), 28)
    correct = np.arange(24 * 28) % 28 > 0
    found = bootstrap(correct[None], strata(group // 12, group % 12, 2, 12, range(1, 25)))
    for low, high in (found.group_mean, found.train_weighted, found.mean, found.class_mean):
        assert (low + high) / 2 == pytest.approx(27 / 28, abs=0.003)


def test_runs_share_the_images():
    """Equal runs are as uncertain as one; runs that fail on different images are less so."""
    sizes = (400, 400, 400, 400)
    y, a = labels(sizes)
    cells = strata(y, a, 2, 2, COUNTS)
    one = runs((0.6, 0.8, 0.8, 0.8), sizes, 1)
    width = np.ptp(bootstrap(one, cells).mean)
    assert np.ptp(bootstrap(np.repeat(one, 4, axis=0), cells).mean) == pytest.approx(width)
    rng = np.random.default_rng(0)
    apart = rng.random((4, 1600)) < one.mean()
    assert np.ptp(bootstrap(apart, cells).mean) == pytest.approx(width / 2, rel=0.15)


@pytest.mark.parametrize("r", [1, 3])
def test_each_interval_holds_its_estimate(r):
    rng = np.random.default_rng(0)
    for _ in range(20):
        sizes = rng.integers(1, 30, 4)
        y, a = labels(sizes)
        correct = runs(rng.choice([0.0, 0.3, 0.9, 1.2], 4), sizes, r)
        cells = strata(y, a, 2, 2, COUNTS)
        found = bootstrap(correct, cells, draws=200)
        each = [evaluate(np.where(c, y, 1 - y), y, a, 2, 2, COUNTS) for c in correct]
        for name in ("mean", "class_mean", "worst_class", "worst_group", "train_weighted"):
            low, high = getattr(found, name)
            assert 0 <= low <= np.mean([getattr(m, name) for m in each]) + 1e-12
            assert np.mean([getattr(m, name) for m in each]) - 1e-12 <= high <= 1
        for g, (low, high) in enumerate(found.groups):
            assert low - 1e-12 <= np.mean([m.groups[g] for m in each]) <= high + 1e-12


def test_everything_right_is_still_uncertain():
    """The smallest group decides: no error in 28 images says little about the 29th."""
    y, a = labels((500, 28, 28, 500))
    found = bootstrap(np.ones((1, 1056), dtype=bool), strata(y, a, 2, 2, COUNTS))
    assert found.worst_group[1] == 1.0
    assert 0.85 < found.worst_group[0] < 0.95
    assert found.mean[0] < found.mean[1] == 1.0
    wrong = bootstrap(np.zeros((1, 1056), dtype=bool), strata(y, a, 2, 2, COUNTS))
    assert wrong.worst_group[0] == 0.0
    assert 0 < wrong.worst_group[1] < 0.05


def test_empty_groups_and_no_attributes():
    y, a = np.array([0] * 30 + [1] * 30), np.array([0] * 30 + [1] * 30)
    correct = np.arange(60)[None] % 3 > 0
    found = bootstrap(correct, strata(y, a, 2, 2))
    assert all(map(math.isnan, found.groups[1] + found.groups[2]))
    assert found.train_weighted is None
    assert not any(map(math.isnan, found.worst_group + found.group_mean))
    none = bootstrap(correct, strata(y, None, 2, 0))
    assert none.groups is none.worst_group is none.group_mean is none.train_weighted is None
    assert none.worst_class[0] < none.worst_class[1]


def test_the_seed_decides_and_row_order_does_not():
    sizes = (60, 30, 20, 50)
    y, a = labels(sizes)
    correct = runs((0.8, 0.6, 0.7, 0.9), sizes, 3)
    one = bootstrap(correct, strata(y, a, 2, 2, COUNTS), seed=5)
    order = np.random.default_rng(0).permutation(160)
    assert one == bootstrap(correct[:, order], strata(y[order], a[order], 2, 2, COUNTS), seed=5)
    assert one != bootstrap(correct, strata(y, a, 2, 2, COUNTS), seed=6)


@pytest.mark.parametrize("shape", [(0, 4), (2, 3)])
def test_shapes_that_do_not_fit(shape):
    with pytest.raises(EmbedcalError, match="one column for each of the 4 labels"):
        bootstrap(np.ones(shape, dtype=bool), strata(np.array([0, 0, 1, 1]), None, 2, 0))


@pytest.mark.parametrize(
    ("sizes", "p"),
    [
        ((467, 466, 133, 133), (0.99, 0.80, 0.60, 0.95)),
        ((467, 466, 133, 133), (0.9, 0.9, 0.9, 0.9)),
        ((500, 28, 28, 500), (0.9, 0.5, 0.02, 0.95)),
    ],
)
def test_coverage(sizes, p):
    """Of 200 test sets, at least 95 % less three standard errors (90.4 %) hold the truth.

    The percentile bootstrap fails this in the second case (half) and the last (two fifths).
    """
    rng = np.random.default_rng(1)
    y, a = labels(sizes)
    cells = strata(y, a, 2, 2, COUNTS)
    weights = np.array(COUNTS) / sum(COUNTS)
    worst, weighted = [], []
    for seed in range(200):
        correct = rng.random((1, len(y))) < np.repeat(p, sizes)
        found = bootstrap(correct, cells, draws=300, seed=seed)
        worst.append(found.worst_group[0] <= min(p) <= found.worst_group[1])
        low, high = found.train_weighted
        weighted.append(low <= weights @ p <= high)
    assert np.mean(worst) > 0.904
    assert np.mean(weighted) > 0.904
