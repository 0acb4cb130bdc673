"""Centroids, similarity, targeted contrast, queue and matching against slow loops."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import permutations

import numpy as np
import pytest
import torch

from embedcal.errors import EmbedcalError
from embedcal.losses import (
    ema_centroids,
    enqueue,
    match_targets,
    similarity_loss,
    targeted_contrast,
)

World = dict[str, torch.Tensor]


def unit(v: np.ndarray) -> np.ndarray:
    return v / math.sqrt(v @ v)


@pytest.mark.parametrize("by", ["counted", "weights"])
def test_centroids_move_towards_the_mean_of_those_that_count(world: World, by: str) -> None:
    vectors, y, share = world["unit"].numpy(), world["y"].tolist(), world[by].double().tolist()
    expected = []
    for k, centroid in enumerate(world["centroids"].numpy()):
        members = [i for i in range(len(y)) if y[i] == k and share[i] > 0]
        if members:
            mean = sum(share[i] * vectors[i] for i in members) / sum(share[i] for i in members)
            centroid = unit(0.9 * centroid + 0.1 * unit(mean))
        expected.append(centroid)
    found = ema_centroids(world["centroids"], world["unit"], world["y"], world[by], 0.9)
    np.testing.assert_allclose(found, np.stack(expected), rtol=1e-10)


def test_a_class_that_nobody_counts_for_keeps_its_centroid_to_the_bit(world: World) -> None:
    nobody = torch.zeros(len(world["y"]), dtype=torch.bool)
    found = ema_centroids(world["centroids"], world["unit"], world["y"], nobody, 0.9)
    assert torch.equal(found, world["centroids"])


@pytest.mark.parametrize("weighted", [False, True])
def test_similarity_is_a_double_loop(world: World, weighted: bool) -> None:
    vectors, y = world["unit"].numpy(), world["y"].tolist()
    weight = world["weights"].tolist() if weighted else [1.0] * len(y)
    total = 0.0
    for i in range(len(y)):
        for j in range(len(y)):
            sign = -1 if y[i] == y[j] else 1
            total += sign * weight[i] * weight[j] * float(vectors[i] @ vectors[j])
    found = similarity_loss(
        world["unit"], world["y"], weights=world["weights"] if weighted else None
    )
    np.testing.assert_allclose(found, total / sum(weight) ** 2, rtol=1e-10, atol=1e-12)


def test_a_weight_of_three_is_an_item_three_times(world: World) -> None:
    times = torch.arange(len(world["y"])) % 3 + 1
    repeated = [world[k].repeat_interleave(times, 0) for k in ("unit", "y")]
    found = similarity_loss(world["unit"], world["y"], weights=times.double())
    np.testing.assert_allclose(found, similarity_loss(*repeated), rtol=1e-10)


def test_balance_makes_two_opposite_classes_of_any_size_reach_the_minimum() -> None:
    y = torch.tensor([0, 0, 0, 1])
    vectors = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])[y]
    balanced = 1 / torch.bincount(y)[y]
    assert similarity_loss(vectors, y, weights=balanced) == pytest.approx(-1)


def slow_targeted(w: World, tau: float, weight: float) -> float:
    queue, queue_y = w["queue"].numpy(), w["queue_y"].tolist()
    targets, match = w["targets"].numpy(), w["target_of_class"].tolist()
    terms = []
    for u, k in zip(w["unit"].numpy(), w["y"].tolist()):
        own = float(u @ u) / tau
        by_queue = [float(u @ v) / tau for v in queue]
        by_target = [float(u @ v) / tau for v in targets]
        total = math.log(sum(math.exp(s) for s in [own, *by_queue, *by_target]))
        pulled = [own - total] + [s - total for s, j in zip(by_queue, queue_y) if j == k]
        size = len(pulled) + 1  # itself, the queue's members, the target
        target = by_target[match[k]] - total
        terms.append(-sum(pulled) / size - weight * target / size - (own - total))
    return sum(terms) / len(terms)


@pytest.mark.parametrize(("tau", "weight"), [(0.07, 0.2), (0.5, 1.3)])
def test_targeted_contrast_is_a_loop(world: World, tau: float, weight: float) -> None:
    queue = (world["queue"], world["queue_y"], world["targets"], world["target_of_class"])
    found = targeted_contrast(world["unit"], world["y"], *queue, tau=tau, target_weight=weight)
    np.testing.assert_allclose(found, slow_targeted(world, tau, weight), rtol=1e-10)
    if (tau, weight) == (0.07, 0.2):
        assert targeted_contrast(world["unit"], world["y"], *queue) == found


def test_an_unfilled_queue_counts_in_every_denominator(world: World) -> None:
    unfilled = torch.full_like(world["queue_y"], -1)
    rest = (world["targets"], world["target_of_class"])
    with_queue = targeted_contrast(world["unit"], world["y"], world["queue"], unfilled, *rest)
    without = targeted_contrast(world["unit"], world["y"], world["queue"][:0], unfilled[:0], *rest)
    assert with_queue > without


@pytest.mark.parametrize("tensor", [False, True])
@pytest.mark.parametrize("size", [3, 5, 8])  # of a batch of 7: smaller, and larger
def test_the_queue_is_a_ring(make_world: Callable[..., World], size: int, tensor: bool) -> None:
    w = make_world(5, 7, False, 0)
    queue, queue_y = w["queue"][:size], w["queue_y"][:size]
    slow, slow_y, at = queue.tolist(), queue_y.tolist(), 2
    position = torch.tensor(2) if tensor else 2
    for batch in (w, make_world(5, 7, False, 1)):
        queue, queue_y, position = enqueue(queue, queue_y, batch["unit"], batch["y"], position)
        for vector, label in zip(batch["unit"].tolist(), batch["y"].tolist()):
            slow[at], slow_y[at] = vector, label
            at = (at + 1) % size
        assert queue.tolist() == slow
        assert queue_y.tolist() == slow_y
        assert position == at


def test_the_queue_handed_over_is_left_alone(world: World) -> None:
    before = world["queue"].clone(), world["queue_y"].clone()
    enqueue(world["queue"], world["queue_y"], world["unit"][:5], world["y"][:5], 6)
    assert torch.equal(world["queue"], before[0])
    assert torch.equal(world["queue_y"], before[1])


@pytest.mark.parametrize("more", [0, 1])
def test_matching_finds_the_highest_total(world: World, more: int) -> None:
    targets = torch.cat([world["targets"], -world["targets"][:more]])
    found = match_targets(world["centroids"], targets).tolist()
    centroids = [unit(v) for v in world["centroids"].numpy()]

    def total(choice: tuple[int, ...]) -> float:
        return sum(float(v @ targets[k].numpy()) for v, k in zip(centroids, choice))

    assert tuple(found) == max(permutations(range(len(targets)), len(centroids)), key=total)
    if not more:  # the Hungarian algorithm of the official code finds the same
        from scipy.optimize import linear_sum_assignment

        cosine = np.stack(centroids) @ targets.numpy().T
        assert found == linear_sum_assignment(-cosine)[1].tolist()


@pytest.mark.parametrize(("classes", "targets"), [(3, 2), (8, 8)])
def test_matching_that_cannot_be_is_one_line(classes: int, targets: int) -> None:
    with pytest.raises(EmbedcalError, match=f"found {targets} targets and {classes} classes"):
        match_targets(torch.eye(classes, 8), torch.eye(targets, 8))
