"""Calibration errors, NLL and Brier score against loops over rows and bins; their intervals."""

from __future__ import annotations

import math

import numpy as np
import pytest

from embedcal.evaluate import Strata, strata
from embedcal.predicting.scores import (
    BINS,
    MEASURES,
    Judged,
    classwise,
    equal_mass,
    equal_width,
    scores,
)
from embedcal.predicting.temperature import softmax
from embedcal.types import EmbedcalError

NAMES = ("0 | 0", "0 | 1", "1 | 0", "1 | 1", "2 | 0", "2 | 1")


def data(seed: int = 0, n: int = 400, unknown: bool = True) -> tuple[np.ndarray, Strata]:
    rng = np.random.default_rng(seed)
    y, a = rng.integers(0, 3, n), rng.integers(0, 2, n)
    z = 3 * np.eye(3)[y] + 2 * rng.normal(size=(n, 3))
    a = np.where(rng.random(n) < 0.1, -1, a) if unknown else a
    return z, strata(y, a, 3, 2)


def slow_ece(p: np.ndarray, y: np.ndarray) -> float:
    """Guo et al. 2017, equation 3, bin by bin and row by row."""
    total = 0.0
    for m in range(BINS):
        sure, right, count = 0.0, 0, 0
        for row, label in zip(p, y):
            if m / BINS < row.max() <= (m + 1) / BINS:
                sure, count = sure + row.max(), count + 1
                right += int(row.argmax() == label)
        if count:
            total += count / len(y) * abs(right / count - sure / count)
    return total


@pytest.mark.parametrize("temperature", [0.4, 2.5])
def test_every_measure_of_every_group_against_loops(temperature: float) -> None:
    z, cells = data()
    found = scores(z, cells, temperature, NAMES, draws=20)
    assert [each.name for each in found] == ["all", *NAMES]
    group = np.where(cells.a >= 0, cells.y * 2 + cells.a, -1)
    for g, each in enumerate(found, -1):
        rows = np.arange(len(z)) if g < 0 else np.flatnonzero(group == g)
        y = cells.y[rows]
        assert each.n == len(rows)
        assert each.accuracy == pytest.approx((z[rows].argmax(1) == y).mean())
        for t, side, place in ((1.0, each.before, 0), (temperature, each.after, 1)):
            p = softmax(z[rows], t)
            assert side["ece"].value == pytest.approx(slow_ece(p, y), abs=1e-12)
            lost = [-math.log(row[label]) for row, label in zip(p, y)]
            assert side["nll"].value == pytest.approx(np.mean(lost))
            square = [
                sum((v - (c == label)) ** 2 for c, v in enumerate(row)) for row, label in zip(p, y)
            ]
            assert side["brier"].value == pytest.approx(np.mean(square))
            assert each.confidence[place] == pytest.approx(p.max(1).mean())
            one = [slow_ece_of_class(p[:, c], y == c) for c in range(3)]
            assert each.classwise[place] == pytest.approx(np.mean(one), abs=1e-12)
        for name in MEASURES:
            assert each.change[name].value == pytest.approx(
                each.after[name].value - each.before[name].value, abs=1e-12
            )


def slow_ece_of_class(p: np.ndarray, event: np.ndarray) -> float:
    total = 0.0
    for m in range(BINS):
        rows = [i for i, v in enumerate(p) if m / BINS < v <= (m + 1) / BINS or (m == 0 and v == 0)]
        if rows:
            total += abs(p[rows].mean() - event[rows].mean()) * len(rows) / len(p)
    return total


def test_equal_mass_is_by_rank_and_ties_stay_together() -> None:
    rng = np.random.default_rng(1)
    confidence = rng.permutation(np.linspace(0.51, 0.99, 300))
    place = equal_mass(confidence)
    np.testing.assert_array_equal(np.bincount(place), np.full(BINS, 20))
    chunks = np.array_split(np.argsort(confidence), BINS)
    assert [set(place[chunk]) for chunk in chunks] == [{m} for m in range(BINS)]
    y = (rng.random(300) > confidence).astype(np.int64)  # 0 is predicted
    z = np.log(np.stack([confidence, 1 - confidence], 1))
    slow = sum(abs((confidence[c] - (y[c] == 0)).sum()) for c in chunks) / 300
    every = scores(z, strata(y, None, 2, 0), 1.0, ("0", "1"), draws=2)[0]
    assert every.before["ece_equal_mass"].value == pytest.approx(slow, abs=1e-9)
    tied = np.repeat([0.5, 0.7, 0.9], [3, 290, 7])
    assert len(set(zip(tied, equal_mass(tied)))) == 3


def test_bins_are_closed_above_as_guo_has_them() -> None:
    np.testing.assert_array_equal(
        equal_width(np.array([0.0, 1 / 15, 1 / 15 + 1e-9, 0.5, 14 / 15, 1.0])), [0, 0, 1, 7, 13, 14]
    )
    assert classwise(np.eye(3), np.arange(3)) == 0.0


def test_intervals_hold_their_estimate_and_shrink_with_rows() -> None:
    width = {}
    for n in (100, 1600):
        z, cells = data(n=n)
        (every, *_) = scores(z, cells, 2.0, NAMES, draws=300)
        for side in (every.before, every.after, every.change):
            for name in MEASURES:
                assert side[name].low <= side[name].value <= side[name].high
        assert every.before["ece"].low >= 0
        width[n] = every.before["nll"].high - every.before["nll"].low
    assert 2.8 < width[100] / width[1600] < 5.7  # a factor of 4 in theory


def test_an_interval_of_a_mean_is_as_wide_as_theory_says() -> None:
    z, cells = data(n=900, unknown=False)
    odd = cells.cell % 2 == 1  # groups that are all wrong: sizes of groups are held fixed
    z[odd] = -5 * np.eye(3)[cells.y[odd]]
    every = scores(z, cells, 1.0, NAMES, draws=1500)[0]
    lost = Judged(z, cells, 1.0).sums["nll"]
    group = cells.cell
    within = sum(lost[group == g].var() * (group == g).sum() for g in np.unique(group))
    theory = 2 * 1.96 * math.sqrt(within) / len(lost)
    assert every.before["nll"].high - every.before["nll"].low == pytest.approx(theory, rel=0.12)
    # The same rows on both sides: what changes together does not widen a change.
    assert every.change["nll"].low == every.change["nll"].high == 0


def test_the_same_seed_gives_the_same_and_one_temperature_changes_nothing() -> None:
    z, cells = data()
    assert scores(z, cells, 1.7, NAMES, draws=30) == scores(z, cells, 1.7, NAMES, draws=30)
    assert scores(z, cells, 1.7, NAMES, draws=30, seed=1) != scores(z, cells, 1.7, NAMES, draws=30)
    same = scores(z, cells, 1.0, NAMES, draws=30)
    assert all(each.before == each.after for each in same)


def test_by_chance_is_what_a_calibrated_head_shows() -> None:
    rng = np.random.default_rng(3)
    z = rng.normal(size=(500, 3)) * 2
    p = softmax(z)
    errors, chances = [], []
    for _ in range(30):
        y = np.array([rng.choice(3, p=row) for row in p])
        every = scores(z, strata(y, None, 3, 0), 1.0, ("0", "1", "2"), draws=2)[0]
        errors.append(every.before["ece"].value)
        chances.append(every.chance[0])
    assert np.mean(errors) == pytest.approx(np.mean(chances), rel=0.12)


def test_groups_without_rows_are_left_out_and_classes_stand_in_for_groups() -> None:
    z, cells = data()
    rows = ~((cells.y == 1) & (cells.a == 0))
    part = strata(cells.y[rows], cells.a[rows], 3, 2)
    assert [each.name for each in scores(z[rows], part, 1.0, NAMES, draws=2)] == [
        "all",
        *(name for name in NAMES if name != "1 | 0"),
    ]
    found = scores(z, strata(cells.y, None, 3, 0), 1.0, ("a", "b", "c"), draws=2)
    assert [each.name for each in found] == ["all", "a", "b", "c"]
    assert [each.n for each in found[1:]] == np.bincount(cells.y).tolist()


def test_without_draws_there_are_values_and_no_intervals() -> None:
    z, cells = data()
    for bare, full in zip(scores(z, cells, 2.0, NAMES, draws=0), scores(z, cells, 2.0, NAMES)):
        for side in ("before", "after", "change"):
            for name, score in getattr(bare, side).items():
                assert score.value == getattr(full, side)[name].value
                assert math.isnan(score.low)
                assert math.isnan(score.high)
        assert bare.chance == full.chance
    with pytest.raises(EmbedcalError, match="expected 0 to 1,000,000 draws, found -1"):
        scores(z, cells, 2.0, NAMES, draws=-1)
