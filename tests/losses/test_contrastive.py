"""Contrastive losses against slow loops over anchors, positives and negatives."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch

from embedcal.losses import (
    image_contrast,
    info_nce,
    language_contrast,
    paired,
    same_label,
    set_contrast,
)

World = dict[str, torch.Tensor]


def slow_sets(
    anchors: Sequence[np.ndarray],
    candidates: Sequence[np.ndarray],
    positives: list[list[int]],
    negatives: list[list[int]],
    tau: float,
) -> float:
    """The mean over anchors that have a positive of the mean over their positives."""
    terms = []
    for anchor, pulled, pushed in zip(anchors, positives, negatives):
        total = sum(math.exp(anchor @ candidates[k] / tau) for k in pulled + pushed)
        each = [-(anchor @ candidates[k] / tau - math.log(total)) for k in pulled]
        if each:
            terms.append(sum(each) / len(each))
    return sum(terms) / len(terms) if terms else 0.0


def slow_nce(positive: list[float], negative: list[float], all_positives: bool) -> float:
    pushed = sum(math.exp(s) for s in negative)
    pulled = sum(math.exp(s) for s in positive)
    each = [
        -math.log(math.exp(s) / ((pulled if all_positives else math.exp(s)) + pushed))
        for s in positive
    ]
    return sum(each) / len(each) if each else 0.0


def test_paired_is_the_mean_of_both_softmaxes(world: World) -> None:
    images, captions, scale = world["unit"].numpy(), world["captions"].numpy(), world["scale"]
    s = [[float(scale) * float(f @ u) for u in captions] for f in images]
    b, expected = len(s), []
    for i in range(b):
        row = math.log(sum(math.exp(s[i][j]) for j in range(b))) - s[i][i]
        column = math.log(sum(math.exp(s[j][i]) for j in range(b))) - s[i][i]
        expected.append(0.5 * (row + column))
    found = paired(world["unit"], world["captions"], scale)
    np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-12)


def test_paired_has_a_floor_where_a_class_shares_its_caption() -> None:
    """log 3 for three images of one class, log 1 for the one of another, far away."""
    unit = torch.eye(2, dtype=torch.float64)[[0, 0, 0, 1]]
    expected = [math.log(3)] * 3 + [0.0]
    np.testing.assert_allclose(paired(unit, unit, 1e3), expected, atol=1e-9)


def test_same_label_with_and_without_self() -> None:
    y = torch.tensor([0, 1, 0])
    assert same_label(y, torch.tensor([0, -1])).tolist() == [
        [True, False],
        [False] * 2,
        [True, False],
    ]
    assert same_label(y, y).int().tolist() == [[1, 0, 1], [0, 1, 0], [1, 0, 1]]
    assert same_label(y, y, include_self=False).int().tolist() == [[0, 0, 1], [0] * 3, [1, 0, 0]]


@pytest.mark.parametrize("include_self", [False, True])
@pytest.mark.parametrize("labels", ["y", "a", "g"])
def test_image_contrast_is_a_loop(world: World, labels: str, include_self: bool) -> None:
    unit, label, tau = world["unit"].numpy(), world[labels].tolist(), float(world["tau"])
    items = range(len(label))
    positives = [
        [j for j in items if label[j] == label[i] and (include_self or j != i)] for i in items
    ]
    negatives = [[j for j in items if label[j] != label[i]] for i in items]
    found = image_contrast(world["unit"], world[labels], tau, include_self=include_self)
    expected = slow_sets(unit, unit, positives, negatives, tau)
    np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("crossed", [False, True])
def test_language_contrast_is_a_loop_over_all_prompts(world: World, crossed: bool) -> None:
    text, attributes, tau = world["text"], world["attribute_text"], float(world["tau"])
    prompts = [(p, t) for p in range(text.shape[0]) for t in range(text.shape[1])]
    anchors = [text[p, t].numpy() for p, t in prompts]
    candidates = anchors + [v.numpy() for prompt in attributes for v in prompt]
    n, m = len(anchors), len(candidates)
    positives, negatives = [], []
    for p, t in prompts:
        positives.append([k for k, (q, u) in enumerate(prompts) if q == p and u != t])
        other = [k for k, (q, _) in enumerate(prompts) if q != p]
        negatives.append(list(range(n, m)) if crossed else other)
    found = language_contrast(text, tau, negatives=attributes if crossed else None)
    expected = slow_sets(anchors, candidates, positives, negatives, tau)
    np.testing.assert_allclose(found, expected, rtol=1e-10)


@pytest.mark.parametrize("crossed", [False, True])
def test_one_template_alone_has_no_positive(world: World, crossed: bool) -> None:
    text = world["text"][:, :1]
    assert language_contrast(text, 0.1, negatives=world["attribute_text"] if crossed else None) == 0


@pytest.mark.parametrize("all_positives", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_info_nce_is_a_loop_over_positives(world: World, masked: bool, all_positives: bool) -> None:
    names = ("positive_mask", "negative_mask")
    masks = {name: world[name] for name in names} if masked else {}
    found = info_nce(world["positive"], world["negative"], **masks, all_positives=all_positives)
    expected = []
    for i in range(len(found)):
        lists = []
        for side in ("positive", "negative"):
            keep = masks.get(f"{side}_mask", torch.ones_like(world[side], dtype=torch.bool))[i]
            lists.append([v for v, k in zip(world[side][i].tolist(), keep) if k])
        expected.append(slow_nce(*lists, all_positives))
    np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("all_positives", [False, True])
@pytest.mark.parametrize(("p", "q"), [(0, 2), (1, 0), (0, 0)])
def test_info_nce_of_empty_lists_is_zero(p: int, q: int, all_positives: bool) -> None:
    positive, negative = torch.ones(2, p, requires_grad=True), torch.ones(2, q, requires_grad=True)
    found = info_nce(positive, negative, all_positives=all_positives)
    assert found.tolist() == [0.0, 0.0]
    found.sum().backward()
    assert not any(side.grad.any() for side in (positive, negative) if side.grad is not None)


def test_padding_changes_nothing_not_even_when_it_is_infinite() -> None:
    positive, negative = torch.tensor([[1.0, 2.0]]), torch.tensor([[0.5]])
    expected = info_nce(positive, negative)
    wild = torch.tensor([[1.0, 2.0, math.inf, math.nan]], requires_grad=True)
    mask = torch.tensor([[True, True, False, False]])
    for found in (
        info_nce(wild, negative, positive_mask=mask),
        info_nce(positive, wild - 0.5, negative_mask=torch.tensor([[False, True, False, False]])),
    ):
        assert torch.isfinite(found).all()
        (gradient,) = torch.autograd.grad(found.sum(), wild)
        assert torch.isfinite(gradient).all()
        assert not gradient[0, 2:].any()
    torch.testing.assert_close(info_nce(wild, negative, positive_mask=mask), expected)


def test_one_positive_and_one_negative_is_softplus_however_large() -> None:
    """-log(e^p / (e^p + e^n)) = log(1 + e^(n - p)); in float32, where the plain quotient is NaN."""
    positive, negative = (
        torch.tensor([[200.0], [-200.0], [100.0]]),
        torch.tensor([[190.0], [0.0], [100.0]]),
    )
    expected = [math.log1p(math.exp(-10)), 200.0, math.log(2)]
    np.testing.assert_allclose(info_nce(positive, negative)[1:], expected[1:], rtol=1e-6)
    np.testing.assert_allclose(info_nce(positive, negative)[0], expected[0], rtol=1e-4)


def test_set_contrast_without_any_positive_is_zero_with_a_zero_gradient() -> None:
    similarity = torch.randn(3, 4, requires_grad=True)
    nobody = torch.zeros(3, 4, dtype=torch.bool)
    for negative in (nobody, ~nobody):
        loss = set_contrast(similarity, nobody, negative)
        assert loss == 0
        assert not torch.autograd.grad(loss, similarity)[0].any()
