"""Differences of two methods: against weights image by image, closed forms, coverage, edges."""

import math

import numpy as np
import pytest
from scipy.stats import t

from embedcal.evaluate import strata
from embedcal.evaluate.paired import COMPARABLE, holm, paired
from embedcal.evaluate.strata import statistics
from embedcal.types import EmbedcalError

COUNTS = (50, 4, 3, 20)
SIZES = (300, 120, 60, 200)


def labels(sizes):
    g = np.repeat(np.arange(len(sizes)), sizes)
    return strata(g // 2, g % 2, 2, 2, COUNTS)


def runs(accuracies, r, *, hard, sizes=SIZES, seed=0, own=0.6):
    """Runs (r, n) that share the difficulty ``hard`` (n,) of the images."""
    rng = np.random.default_rng(seed)
    mixed = math.sqrt(1 - own**2) * hard + own * rng.standard_normal((r, len(hard)))
    return mixed < np.repeat([np.quantile(mixed, p) for p in accuracies], sizes)


@pytest.fixture(scope="module")
def two():
    hard = np.random.default_rng(9).standard_normal(sum(SIZES))
    a = runs((0.9, 0.8, 0.7, 0.95), 3, hard=hard, seed=1)
    return a, runs((0.9, 0.85, 0.8, 0.9), 2, hard=hard, seed=2)


@pytest.mark.parametrize("name", COMPARABLE)
def test_the_difference_is_that_of_the_means(two, name):
    a, b = two
    cells = labels(SIZES)
    found = paired(a, b, cells, name, draws=200)
    sides = [statistics(cells.totals(side), cells)[name].mean() for side in (a, b)]
    assert found.difference == pytest.approx(sides[0] - sides[1])
    assert found.interval[0] < found.difference < found.interval[1]
    assert found.runs == (3, 2)


@pytest.mark.parametrize("name", ["worst_group", "mean"])
def test_one_run_each_against_one_weight_for_each_image(name):
    """The images' part, written out: exponential weights, four pseudo images, centred cells."""
    sizes = (40, 15, 12, 30)
    hard = np.random.default_rng(3).standard_normal(sum(sizes))
    a = runs((0.9, 0.8, 0.6, 0.9), 1, hard=hard, sizes=sizes, seed=1)
    b = runs((0.8, 0.7, 0.8, 0.9), 1, hard=hard, sizes=sizes, seed=2)
    cells, draws = labels(sizes), 20_000
    rng = np.random.default_rng(4)
    drawn = np.zeros((2, draws, 4))
    for g in range(4):
        rows = np.flatnonzero(cells.cell // 3 * 2 + cells.cell % 3 == g)
        weight = rng.exponential(size=(draws, len(rows)))
        extra = rng.gamma(0.5, size=(draws, 4))  # both, only A, only B, neither
        total = weight.sum(1) + extra.sum(1)
        for side, (run, pseudo) in enumerate(((a, [0, 1]), (b, [0, 2]))):
            share = (weight @ run[0, rows] + extra[:, pseudo].sum(1)) / total
            drawn[side, :, g] = share - share.mean() + run[0, rows].mean()
    weights = np.array(sizes) / sum(sizes)
    side = drawn.min(-1) if name == "worst_group" else drawn @ weights
    d = side[0] - side[1]
    found = paired(a, b, cells, name, draws=draws, seed=5)
    low, high = np.quantile(d, [0.025, 0.975])
    wanted = min(low, 2 * found.difference - high), max(high, 2 * found.difference - low)
    np.testing.assert_allclose(found.interval, wanted, atol=0.008)
    assert found.probability == pytest.approx((d > 0).mean(), abs=0.02)


def test_without_images_at_stake_it_is_students_interval():
    """So many images that only seeds matter: Welch's setting with one side certain."""
    n = 40_000
    cells = strata(np.zeros(n, dtype=int), None, 1, 0)
    shares = np.array([0.60, 0.70, 0.66, 0.72, 0.62])
    a = np.arange(n) < (shares * n)[:, None]
    b = np.repeat(np.arange(n)[None] < 0.5 * n, 5, axis=0)
    found = paired(a, b, cells, "mean", draws=20_000)
    half = t.ppf(0.975, 4) * shares.std(ddof=1) / math.sqrt(5)
    assert found.difference == pytest.approx(shares.mean() - 0.5)
    assert found.interval == pytest.approx(
        (found.difference - half, found.difference + half), abs=0.01
    )


def test_seeds_that_differ_by_the_test_set_alone_add_little():
    """Runs without an effect of the seed: their spread is the images', which is counted already."""
    rng = np.random.default_rng(0)
    cells = strata(np.zeros(2000, dtype=int), None, 1, 0)
    widths = []
    for seed in range(30):
        a, b = rng.random((5, 2000)) < 0.8, rng.random((5, 2000)) < 0.8
        widths.append(np.ptp(paired(a, b, cells, "mean", draws=400, seed=seed).interval))
    exact = 2 * 1.96 * math.sqrt(2 * 0.8 * 0.2 / 2000 / 5)
    assert exact < np.mean(widths) < 1.5 * exact


def test_methods_that_err_on_the_same_images_are_told_apart_sooner():
    n = 800
    cells = strata(np.zeros(n, dtype=int), None, 1, 0)
    a, nested = np.arange(n)[None] < 600, np.arange(n)[None] < 580
    apart = (np.arange(n)[None] + 300) % n < 580
    same, other = (paired(a, b, cells, "mean", draws=2000) for b in (nested, apart))
    assert same.difference == other.difference == pytest.approx(20 / 800)
    assert same.p_value < 0.01
    assert other.p_value > 0.05
    assert np.ptp(same.interval) < np.ptp(other.interval) / 2


def test_one_disagreement_is_no_proof():
    """28 of 28 against 27: McNemar's test has p = 1. Plain Bayesian weights would be certain."""
    cells = strata(np.zeros(28, dtype=int), None, 1, 0)
    right = np.ones((1, 28), dtype=bool)
    found = paired(right, np.arange(28)[None] < 27, cells, "mean")
    assert found.p_value > 0.1
    assert found.interval[0] < 0 < found.interval[1]
    equal = paired(right, right, cells, "mean")
    assert equal.difference == 0
    assert equal.p_value > 0.9
    assert equal.interval[0] < 0 < equal.interval[1]


def test_swapping_the_methods_turns_the_sign(two):
    a, b = two[0], two[1][:1]
    cells = labels(SIZES)
    one, back = paired(a, b, cells, draws=8000), paired(b, a, cells, draws=8000, seed=1)
    assert one.difference == -back.difference
    assert one.interval == pytest.approx((-back.interval[1], -back.interval[0]), abs=0.02)
    assert one.probability == pytest.approx(1 - back.probability, abs=0.02)
    assert back.runs == (1, 3)


def test_the_seed_decides_and_row_order_does_not(two):
    a, b = two
    cells = labels(SIZES)
    order = np.random.default_rng(0).permutation(len(cells))
    y, at = cells.y[order], cells.a[order]
    moved = paired(a[:, order], b[:, order], strata(y, at, 2, 2, COUNTS), draws=300, seed=5)
    assert moved == paired(a, b, cells, draws=300, seed=5)
    assert moved != paired(a, b, cells, draws=300, seed=6)


def test_a_zero_outside_the_interval_and_a_small_p_value_go_together():
    hard = np.random.default_rng(0).standard_normal(sum(SIZES))
    cells = labels(SIZES)
    seen = set()
    for k in range(40):
        p = (0.95, 0.9, 0.7 + 0.004 * k, 0.95)
        a, b = runs((0.95, 0.9, 0.7, 0.95), 1, hard=hard, seed=1), runs(p, 1, hard=hard, seed=k)
        found = paired(a, b, cells, draws=1000, seed=k)
        outside = not found.interval[0] <= 0 <= found.interval[1]
        if abs(found.p_value - 0.05) > 0.005:
            assert outside == (found.p_value < 0.05)
            seen.add(outside)
    assert seen == {True, False}


def test_holm_against_the_definition():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx((0.03, 0.06, 0.06))
    assert holm([0.01, 0.02], comparisons=10) == pytest.approx((0.1, 0.18))
    assert holm([0.6, 0.9]) == (1.0, 1.0)
    assert holm([]) == ()
    rng = np.random.default_rng(0)
    p = rng.random(7) ** 4
    found = np.array(holm(p.tolist()))
    order = np.argsort(p)
    steps = [max((7 - j) * p[order[j]] for j in range(i + 1)) for i in range(7)]
    np.testing.assert_allclose(found[order], np.minimum(steps, 1))
    with pytest.raises(EmbedcalError, match="at least 2 comparisons, found 1"):
        holm([0.1, 0.2], comparisons=1)


@pytest.mark.parametrize(
    ("name", "attribute", "match"),
    [
        ("worst_gruop", True, "did you mean worst_group"),
        ("groups", True, "expected one of worst_group, "),
        ("worst_group", False, "attribute labels"),
    ],
)
def test_statistics_that_cannot_be_compared(name, attribute, match):
    y = np.array([0, 0, 1, 1])
    cells = strata(y, y if attribute else None, 2, 2 if attribute else 0)
    right = np.ones((1, 4), dtype=bool)
    with pytest.raises(EmbedcalError, match=match):
        paired(right, right, cells, name)
    with pytest.raises(EmbedcalError, match="one column for each of the 4 labels"):
        paired(right[:, :3], right[:, :3], cells, "mean")
    if attribute:
        with pytest.raises(EmbedcalError, match="training counts"):
            paired(right, right, cells, "train_weighted")


@pytest.mark.parametrize(
    ("p", "q", "seeds", "by_seed"),
    [
        ((0.99, 0.80, 0.60, 0.95), (0.95, 0.85, 0.70, 0.93), 1, 0.0),
        ((0.99, 0.80, 0.60, 0.95), (0.95, 0.85, 0.70, 0.93), 4, 0.2),
        ((0.9, 0.9, 0.9, 0.9), (0.9, 0.9, 0.9, 0.9), 3, 0.0),
    ],
)
def test_coverage(p, q, seeds, by_seed):
    """Of 120 test sets, at least 95 % less three standard errors (89 %) hold the truth.

    With 4 seeds of large effect the images alone would hold it in half of the cases.
    """
    from scipy.special import ndtr, ndtri

    rng = np.random.default_rng(1)
    sizes = (467, 466, 133, 133)
    cells = labels(sizes)
    noise = by_seed * rng.standard_normal((20_000, 4))
    true = [ndtr(ndtri(acc) + noise).min(1).mean() for acc in (p, q)]
    held = []
    for seed in range(120):
        shared, sides = rng.standard_normal(sum(sizes)), []
        for acc in (p, q):
            moved = ndtri(acc) + by_seed * rng.standard_normal((seeds, 4))
            mixed = (shared + rng.standard_normal((seeds, sum(sizes)))) / math.sqrt(2)
            sides.append(mixed < np.repeat(moved, sizes, axis=1))
        low, high = paired(*sides, cells, draws=300, seed=seed).interval
        held.append(low <= true[0] - true[1] <= high)
    assert np.mean(held) > 0.89
