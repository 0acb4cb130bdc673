"""Cross-entropy, group means and group weights against slow loops and closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from embedcal.losses import (
    adjusted,
    count_adjustment,
    cross_entropy,
    greedy_cvar,
    group_means,
    group_weights,
)

World = dict[str, torch.Tensor]
G = 4


def vector(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_cross_entropy_is_logsumexp_minus_the_label(world: World) -> None:
    rows = zip(world["logits"].tolist(), world["y"].tolist())
    expected = [math.log(sum(math.exp(v) for v in row)) - row[k] for row, k in rows]
    np.testing.assert_allclose(cross_entropy(world["logits"], world["y"]), expected, rtol=1e-12)


@pytest.mark.parametrize("groups", [[0, 0, 1, 3, 3, 3], [2, 2, 2, 2, 2, 2], [0, 1, 2, 3, 0, 1]])
def test_group_means_are_loops_over_members(groups: list[int]) -> None:
    values = vector(1, 2, 4, 8, 16, 32)
    expected = []
    for g in range(G):
        members = [float(v) for v, k in zip(values, groups) if k == g]
        expected.append(sum(members) / len(members) if members else 0.0)
    np.testing.assert_allclose(group_means(values, torch.tensor(groups), G), expected)


@pytest.mark.parametrize("normalise", [False, True])
def test_group_weights_are_the_normalised_exponential_step(normalise: bool) -> None:
    q, losses = vector(0.1, 0.2, 0.3, 0.4), vector(0.5, 2.0, 0.0, 1.0)
    total = 3.5 if normalise else 1.0
    raised = [a * math.exp(0.3 * b / total) for a, b in zip(q.tolist(), losses.tolist())]
    found = group_weights(q, losses, vector(0.3)[0], normalise=normalise)
    np.testing.assert_allclose(found, np.array(raised) / sum(raised), rtol=1e-12)


def test_losses_that_are_all_zero_leave_the_weights() -> None:
    q = vector(0.1, 0.2, 0.3, 0.4)
    np.testing.assert_allclose(group_weights(q, torch.zeros_like(q), 0.3, normalise=True), q)


def test_a_group_without_weight_never_gains_any() -> None:
    """WILDS starts q at zero for groups that do not occur in train."""
    found = group_weights(torch.tensor([0.5, 0.5, 0.0]), torch.tensor([1.0, 2.0, 9.0]), 0.1)
    assert float(found[2]) == 0.0
    assert torch.isfinite(found).all()


def test_group_weights_do_not_overflow() -> None:
    q = torch.full((3,), 1 / 3)
    found = group_weights(q, torch.tensor([1e4, 0.0, 5.0]), 10.0)
    np.testing.assert_allclose(found, [1.0, 0.0, 0.0])


@pytest.mark.parametrize(
    ("k", "added"),
    [
        (2.0, [2.0, 1.0, 0.0, 0.2]),
        (torch.tensor(2.0), [2.0, 1.0, 0.0, 0.2]),
        (vector(1, 2, 3, 4), [1.0, 1.0, 0.0, 0.4]),
        (vector(1, 0, 3, 4), [0.0, 0.0, 0.0, 0.0]),  # one is not positive, so none is added
        (0.0, [0.0, 0.0, 0.0, 0.0]),
        (-2.0, [0.0, 0.0, 0.0, 0.0]),
    ],
)
def test_the_adjustment_is_added_where_all_are_positive(
    k: float | torch.Tensor, added: list[float]
) -> None:
    """Group 2 has no example, so there is nothing to adjust."""
    losses = vector(0.5, 2.0, 0.0, 1.0)
    found = adjusted(losses, torch.tensor([1, 4, 0, 100]), k)
    np.testing.assert_allclose(found - losses, added, rtol=1e-12)


def test_the_plain_adjustment_keeps_its_sign() -> None:
    found = count_adjustment(vector(1, 4, 0, 100), vector(-1, 2, 3, 0))
    np.testing.assert_allclose(found, [-1.0, 1.0, 0.0, 0.0])


def slow_cvar(
    ema: list[float], fractions: list[float], adjustment: list[float], alpha: float, mv: float
) -> list[float]:
    """The worst groups take their fraction of alpha one after the other."""
    rank = [a + b for a, b in zip(ema, adjustment)]
    left, weights = alpha, [0.0] * len(ema)
    for g in sorted(range(len(ema)), key=lambda g: (-rank[g], g)):
        weights[g] = min(fractions[g], left) / alpha
        left = max(left - fractions[g], 0.0)
    return [mv * f + (1 - mv) * w for f, w in zip(fractions, weights)]


@pytest.mark.parametrize("mv", [0.0, 0.2])
@pytest.mark.parametrize("alpha", [0.2, 0.5, 1.0])
def test_greedy_cvar_over_batches_is_the_slow_loop(alpha: float, mv: float) -> None:
    generator = torch.Generator().manual_seed(3)
    fractions, adjustment = vector(0.05, 0.5, 0.25, 0.2), vector(0.4, -0.1, 0.0, 0.2)
    ema, seen = torch.zeros(G, dtype=torch.float64), torch.zeros(G, dtype=torch.bool)
    slow_ema: dict[int, float] = {}
    for step in range(6):
        losses = 2 * torch.rand(G, generator=generator, dtype=torch.float64)
        present = torch.rand(G, generator=generator) < 0.5
        present[3] = step > 3  # one group comes late
        losses = torch.where(present, losses, 0.0)
        weights, ema, seen = greedy_cvar(
            ema, seen, losses, present, fractions, adjustment, alpha=alpha, min_var_weight=mv
        )
        for g in range(G):
            if present[g]:
                value = float(losses[g])
                slow_ema[g] = 0.9 * slow_ema[g] + 0.1 * value if g in slow_ema else value
        expected_ema = [slow_ema.get(g, 0.0) for g in range(G)]
        expected = slow_cvar(expected_ema, fractions.tolist(), adjustment.tolist(), alpha, mv)
        np.testing.assert_allclose(ema, expected_ema, rtol=1e-12)
        np.testing.assert_allclose(weights, expected, rtol=1e-9, atol=1e-12)
        assert weights.sum().item() == pytest.approx(1)
        assert seen.tolist() == [g in slow_ema for g in range(G)]


def test_greedy_cvar_of_equal_groups_takes_the_first() -> None:
    same, yes = vector(1, 1, 1, 1), torch.ones(G, dtype=torch.bool)
    weights, _, _ = greedy_cvar(same, yes, same, yes, same / 4, 0 * same, alpha=0.4)
    np.testing.assert_allclose(weights, [0.625, 0.375, 0, 0])
