"""Each loss against a slow loop, its invariances, and finite differences."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from embedcal.losses import cross_entropy, group_means, group_weights


def rows(b: int, c: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(b, c, generator=generator, dtype=torch.float64)
    return logits, torch.randint(c, (b,), generator=generator)


@pytest.mark.parametrize("c", [2, 5])
@pytest.mark.parametrize("b", [1, 7])
def test_cross_entropy_is_logsumexp_minus_the_label(b: int, c: int) -> None:
    logits, y = rows(b, c, 0)
    expected = [math.log(sum(math.exp(v) for v in row)) - row[k] for row, k in zip(logits, y)]
    np.testing.assert_allclose(cross_entropy(logits, y), expected, rtol=1e-12)


@pytest.mark.parametrize("groups", [[0, 0, 1, 3, 3, 3], [2, 2, 2, 2, 2, 2], [0, 1, 2, 3, 0, 1]])
def test_group_means_are_loops_over_members(groups: list[int]) -> None:
    values = torch.tensor([1.0, 2.0, 4.0, 8.0, 16.0, 32.0], dtype=torch.float64)
    expected = []
    for g in range(4):
        members = [float(v) for v, k in zip(values, groups) if k == g]
        expected.append(sum(members) / len(members) if members else 0.0)
    np.testing.assert_allclose(group_means(values, torch.tensor(groups), 4), expected)


def test_group_means_gradient_by_finite_differences() -> None:
    values = torch.randn(9, dtype=torch.float64, requires_grad=True)
    g = torch.tensor([0, 1, 1, 3, 0, 3, 3, 3, 1])
    assert torch.autograd.gradcheck(lambda v: group_means(v, g, 4), (values,))


def test_group_weights_are_the_normalised_exponential_step() -> None:
    q = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)
    losses = torch.tensor([0.5, 2.0, 0.0, 1.0], dtype=torch.float64, requires_grad=True)
    raised = [a * math.exp(0.3 * b) for a, b in zip(q.tolist(), losses.tolist())]
    found = group_weights(q, losses, torch.tensor(0.3, dtype=torch.float64))
    np.testing.assert_allclose(found, np.array(raised) / sum(raised), rtol=1e-12)
    assert not found.requires_grad


def test_a_group_without_weight_never_gains_any() -> None:
    """WILDS starts q at zero for groups that do not occur in train."""
    q = torch.tensor([0.5, 0.5, 0.0])
    found = group_weights(q, torch.tensor([1.0, 2.0, 9.0]), torch.tensor(0.1))
    assert float(found[2]) == 0.0
    assert torch.isfinite(found).all()


def test_group_weights_do_not_overflow() -> None:
    q = torch.full((3,), 1 / 3)
    found = group_weights(q, torch.tensor([1e4, 0.0, 5.0]), torch.tensor(10.0))
    np.testing.assert_allclose(found, [1.0, 0.0, 0.0])
