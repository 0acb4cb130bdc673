"""The temperature against closed forms, a slow search, and data that have no answer."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embedcal.predicting.temperature import BOUND, fit_temperature, nll, softmax
from embedcal.types import EmbedcalError


def noisy(seed: int, n: int = 200, classes: int = 3) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    y = rng.integers(0, classes, n)
    return 4 * (np.eye(classes)[y] + rng.normal(size=(n, classes))), y


@pytest.mark.parametrize(("gap", "right"), [(3.0, 0.7), (0.2, 0.9), (40.0, 0.55)])
def test_one_gap_has_a_closed_form(gap: float, right: float) -> None:
    """sigmoid(gap / T) is the share of rows that are right."""
    n = 1000
    z = np.tile([gap, 0.0], (n, 1))
    y = (np.arange(n) >= right * n).astype(np.int64)
    found = fit_temperature(z, y)
    assert found.where == "inside"
    assert found.value == pytest.approx(gap / math.log(right / (1 - right)), rel=1e-9)


@pytest.mark.parametrize("seed", range(4))
def test_no_other_temperature_is_better(seed: int) -> None:
    z, y = noisy(seed)
    found = fit_temperature(z, y)

    def slow(t: float) -> float:
        total = 0.0
        for row, label in zip(z, y):
            total -= math.log(math.exp(row[label] / t) / sum(math.exp(v / t) for v in row))
        return total / len(y)

    best = slow(found.value)
    grid = np.exp(np.linspace(-3, 3, 121))
    assert best <= min(slow(t) for t in grid)
    assert best == pytest.approx(nll(z, y, found.value).mean(), rel=1e-12)
    for near in (0.999, 1.001):
        assert slow(found.value * near) > best


@given(st.floats(0.01, 20), st.integers(0, 5))
@settings(max_examples=20, deadline=None)
def test_it_scales_with_the_logits_and_ignores_what_softmax_ignores(c: float, seed: int) -> None:
    z, y = noisy(seed)
    base = fit_temperature(z, y).value
    assert fit_temperature(c * z, y).value == pytest.approx(c * base, rel=1e-6)
    assert fit_temperature(z + 7.0, y).value == pytest.approx(base, rel=1e-9)
    assert fit_temperature(z[::-1], y[::-1]).value == pytest.approx(base, rel=1e-9)
    assert (softmax(c * z, base).argmax(1) == z.argmax(1)).all()


def test_data_without_an_answer_say_so() -> None:
    z, y = noisy(0)
    apart = fit_temperature(10 * np.eye(3)[y], y)
    assert (apart.value, apart.where) == (1 / BOUND, "lowest")
    # Wrong in every row: equal probabilities are the best of a bad job.
    wrong = fit_temperature(-10 * np.eye(3)[y], y)
    assert (wrong.value, wrong.where) == (BOUND, "highest")
    flat = fit_temperature(np.full_like(z, 3.0), y)
    assert (flat.value, flat.where) == (1.0, "flat")


def test_logits_that_cannot_be_used_are_one_line() -> None:
    z, y = noisy(0)
    for bad in (np.where(z > 5, np.nan, z), np.where(z > 5, np.inf, z)):
        with pytest.raises(EmbedcalError, match="found NaN or infinity: fit the run again"):
            fit_temperature(bad, y)
    with pytest.raises(EmbedcalError, match="found no rows"):
        fit_temperature(z[:0], y[:0])


def test_large_logits_neither_overflow_nor_lose_the_loss() -> None:
    z, y = np.array([[1e5, 0.0], [0.0, 1e5]]), np.array([1, 1])
    np.testing.assert_array_equal(softmax(z), np.eye(2))
    np.testing.assert_allclose(nll(z, y, 1.0), [1e5, 0.0])
    np.testing.assert_allclose(nll(z, y, 1e5), [math.log(1 + math.e), math.log(1 + 1 / math.e)])
