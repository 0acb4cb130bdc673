"""delta, mutual information, intervals and p-values, against loops and by simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embedcal.detecting.effects import (
    benjamini_hochberg,
    chi_squared_p,
    effects,
    leading,
    mutual_information,
    newcombe,
    ranked,
    rivals,
)
from embedcal.errors import EmbedcalError

NAMES = ("water", "land", "rare")


def world(seed: int = 0, n: int = 240, n_classes: int = 3):
    rng = np.random.default_rng(seed)
    y = rng.integers(n_classes, size=n)
    logits = rng.normal(size=(n, n_classes)) + 1.2 * np.eye(n_classes)[y]
    present = (rng.random((n, 3)) < [0.5, 0.3, 0.02]).astype(np.int8)
    present[rng.random((n, 3)) < 0.1] = -1
    return logits, y, present


def test_effects_are_what_loops_count():
    logits, y, present = world()
    found = {(e.label, e.attribute): e for e in effects(logits, y, present, NAMES, min_detect=5)}
    for label in range(3):
        for j, name in enumerate(NAMES):
            sides = {1: [], 0: []}
            for i in range(len(y)):
                if y[i] == label and present[i, j] >= 0:
                    sides[int(present[i, j])].append(i)
            if min(map(len, sides.values())) < 5:
                assert (label, name) not in found
                continue
            e = found.pop((label, name))
            right = {
                side: [logits[i].argmax() == label for i in rows] for side, rows in sides.items()
            }
            assert (e.n_with, e.n_without) == (len(sides[1]), len(sides[0]))
            assert e.accuracy_with == pytest.approx(np.mean(right[1]))
            assert e.accuracy_without == pytest.approx(np.mean(right[0]))
            assert e.delta == pytest.approx(np.mean(right[1]) - np.mean(right[0]))
            total, bits = len(right[0]) + len(right[1]), 0.0
            for side in (0, 1):
                for hit in (False, True):
                    p = sum(r == hit for r in right[side]) / total
                    a, b = (
                        len(right[side]) / total,
                        sum(r == hit for s in right.values() for r in s) / total,
                    )
                    bits += p * math.log(p / (a * b)) if p else 0
            assert e.mutual_information == pytest.approx(bits, abs=1e-12)
            lower = sides[1] if e.delta < 0 else sides[0]
            wrong = [int(logits[i].argmax()) for i in lower if logits[i].argmax() != label]
            counts = [wrong.count(c) for c in range(3)]
            assert wrong
            assert counts[e.confused] == max(counts)
    assert not found


def test_confused_class_is_the_answer_where_wrong_and_the_runner_up_where_right():
    logits = np.array([[3.0, 1, 2], [1, 3, 2], [0, 2, 3]])
    assert rivals(logits, np.array([0, 0, 0])).tolist() == [2, 1, 2]
    # One error against many runners-up: the error is told.
    many = np.tile([[3.0, 1, 2]], (12, 1))
    many[0] = [1, 3, 2]
    present = np.zeros((24, 1), np.int8)
    present[12:] = 1
    right = np.tile([[3.0, 1, 2]], (12, 1))
    (e,) = effects(np.concatenate([many, right]), np.zeros(24, int), present, ["sun"])
    assert e.confused == 1
    assert e.delta == pytest.approx(1 / 12)
    (e,) = effects(np.concatenate([right, right]), np.zeros(24, int), present, ["sun"])
    assert e.confused == 2
    assert e.p == 1
    assert e.delta == 0
    assert e.mutual_information == 0


def test_ranking_by_delta_and_by_information_and_the_leading_few():
    logits, y, present = world(3)
    found = effects(logits, y, present, NAMES, min_detect=5)
    assert [e.delta for e in ranked(found)] == sorted((e.delta for e in found), reverse=True)
    information = [e.mutual_information for e in ranked(found, "mi")]
    assert information == sorted(information, reverse=True)
    few = leading(found, "mi", per_class=1)
    assert [e.delta for e in few] == sorted((e.delta for e in few), reverse=True)
    assert sorted(e.label for e in few) == [0, 1, 2]
    for e in few:
        best = max(o.mutual_information for o in found if o.label == e.label)
        assert e.mutual_information == best
    with pytest.raises(EmbedcalError, match="expected a ranking among delta, mi"):
        ranked(found, "size")  # type: ignore[arg-type]


def test_newcombe_as_published_and_at_the_ends():
    # Newcombe 1998, table II: 56/70 against 48/80, and 9/10 against 3/10, by method 10.
    low, high = newcombe([56, 9, 10], [70, 10, 10], [48, 3, 0], [80, 10, 10])
    assert low == pytest.approx([0.0524, 0.1705, 0.6075], abs=1e-4)
    assert high == pytest.approx([0.3339, 0.8090, 1.0], abs=1e-4)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 60), st.integers(1, 60), st.data())
def test_intervals_contain_the_estimate_and_mirror(n1, n0, data):
    h1, h0 = data.draw(st.integers(0, n1)), data.draw(st.integers(0, n0))
    low, high = newcombe([h1], [n1], [h0], [n0])
    delta = h1 / n1 - h0 / n0
    assert -1 <= low[0] <= delta + 1e-12
    assert delta - 1e-12 <= high[0] <= 1
    back_low, back_high = newcombe([h0], [n0], [h1], [n1])
    assert (back_low[0], back_high[0]) == pytest.approx((-high[0], -low[0]))
    forth, back = chi_squared_p([h1], [n1], [h0], [n0]), chi_squared_p([h0], [n0], [h1], [n1])
    assert forth == pytest.approx(back)
    assert 0 <= forth[0] <= 1
    assert mutual_information([h1], [n1], [h0], [n0])[0] >= 0


@pytest.mark.parametrize(
    ("n1", "n0", "p1", "p0"),
    [(10, 10, 0.9, 0.5), (10, 90, 0.8, 0.8), (30, 200, 0.95, 0.6), (50, 50, 0.95, 0.8)],
)
def test_interval_covers_the_truth_in_19_of_20_worlds(n1, n0, p1, p0):
    rng = np.random.default_rng(0)
    h1, h0 = rng.binomial(n1, p1, 20_000), rng.binomial(n0, p0, 20_000)
    low, high = newcombe(h1, n1, h0, n0)
    covered = float(((low <= p1 - p0) & (p1 - p0 <= high)).mean())
    assert 0.94 <= covered <= 0.985, covered


@pytest.mark.parametrize(
    ("n1", "n0", "p"), [(10, 10, 0.7), (10, 90, 0.9), (40, 400, 0.95), (100, 100, 0.5)]
)
def test_p_values_keep_their_level(n1, n0, p):
    rng = np.random.default_rng(1)
    found = chi_squared_p(rng.binomial(n1, p, 20_000), n1, rng.binomial(n0, p, 20_000), n0)
    assert 0.025 <= float((found < 0.05).mean()) <= 0.062


def test_adjusted_p_values_by_hand_and_by_definition():
    p = [0.01, 0.04, 0.03, 0.005]
    assert benjamini_hochberg(p) == pytest.approx([0.02, 0.04, 0.04, 0.02])
    rng = np.random.default_rng(2)
    p = rng.random(50) ** 2
    for i, value in enumerate(benjamini_hochberg(p)):
        assert value == pytest.approx(min(1, min(q * 50 / (p <= q).sum() for q in p if q >= p[i])))


def test_false_leads_stay_below_the_bound_even_where_attributes_exclude_each_other():
    """Of 40 attributes 4 matter; another 18 are the opposites of those that do not."""
    rng = np.random.default_rng(4)
    shares, hits = [], 0
    for _ in range(100):
        n = 600
        free = rng.random((n, 18)) < 0.5
        true = rng.random((n, 4)) < 0.5
        present = np.concatenate([true, free, ~free], axis=1).astype(np.int8)
        right = rng.random(n) < 0.35 + 0.13 * true.sum(1)
        logits = np.stack([right, ~right], axis=1).astype(float)
        found = effects(logits, np.zeros(n, int), present, [f"{j:02d}" for j in range(40)])
        said = [int(e.attribute) for e in found if e.p_adjusted < 0.05]
        shares.append(sum(j >= 4 for j in said) / max(1, len(said)))
        hits += sum(j < 4 for j in said)
    assert np.mean(shares) < 0.05 * 1.3
    assert hits > 100 * 4 * 0.3  # and it finds something


def test_shapes_that_do_not_fit_are_refused():
    logits, y, present = world()
    with pytest.raises(EmbedcalError, match="of the same images"):
        effects(logits, y[:-1], present, NAMES)
    with pytest.raises(EmbedcalError, match="at least 1 image"):
        effects(logits, y, present, NAMES, min_detect=0)
    assert effects(logits, y, present, NAMES, min_detect=10_000) == ()


def test_a_side_with_too_few_images_tells_nothing():
    present = np.ones((60, 2), np.int8)
    present[:9, 0] = 0
    present[:10, 1] = 0
    logits = np.eye(2)[np.arange(60) % 2]
    found = effects(logits, np.zeros(60, int), present, ["nine", "ten"])
    assert [e.attribute for e in found] == ["ten"]
