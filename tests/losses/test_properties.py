"""What every loss must do: map over stacks, differentiate, and not care for order or names."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import embedcal.losses as L

World = dict[str, Tensor]
Case = Callable[[World], Any]


def adjustment(w: World) -> Tensor:
    return L.count_adjustment(w["counts"].double(), w["scale"])


def greedy(w: World) -> Any:
    state = (w["ema"], w["seen"], w["losses"], w["present"])
    return L.greedy_cvar(*state, w["fractions"], adjustment(w), alpha=0.3, min_var_weight=0.1)


def squares(w: World) -> tuple[Tensor, Tensor, Tensor]:
    """Similarities of the batch with itself, its positives without itself, its negatives."""
    same = L.same_label(w["y"], w["y"], include_self=False)
    return w["unit"] @ w["unit"].T / w["tau"], same, ~L.same_label(w["y"], w["y"])


def masked(w: World, **options: bool) -> Tensor:
    masks = {"positive_mask": w["positive_mask"], "negative_mask": w["negative_mask"]}
    return L.info_nce(w["positive"], w["negative"], **masks, **options)


def targeted(w: World) -> Tensor:
    queue = (w["queue"], w["queue_y"], w["targets"], w["target_of_class"])
    return L.targeted_contrast(w["unit"], w["y"], *queue, w["tau"], 0.3)


# One value for each item of the batch.
ITEM: dict[str, Case] = {
    "cross_entropy": lambda w: L.cross_entropy(w["logits"], w["y"]),
    "paired": lambda w: L.paired(w["unit"], w["captions"], w["scale"]),
    "info_nce": lambda w: L.info_nce(w["positive"], w["negative"]),
    "info_nce_masked": masked,
    "info_nce_all": lambda w: masked(w, all_positives=True),
    "official_image": lambda w: L.official_image(
        w["unit"], w["y"], w["pos"], w["neg"], fixed=False
    ),
    "fixed_image": lambda w: L.official_image(w["unit"], w["y"], w["pos"], w["neg"], fixed=True),
    "official_language": lambda w: L.official_language(
        w["text"], w["y"], w["pos"], w["neg"], fixed=False
    ),
    "fixed_language": lambda w: L.official_language(
        w["text"], w["y"], w["pos"], w["neg"], fixed=True
    ),
    "official_spurious_language": lambda w: L.official_spurious_language(
        w["text"], w["attribute_text"], w["y"], w["neg"], fixed=False
    ),
    "fixed_spurious_language": lambda w: L.official_spurious_language(
        w["text"], w["attribute_text"], w["y"], w["neg"], fixed=True
    ),
    "official_diagonal": lambda w: L.official_spurious_language(
        w["text"], w["k_context"], w["y"], w["neg"], fixed=False, diagonal=True
    ),
    "fixed_diagonal": lambda w: L.official_spurious_language(
        w["text"], w["k_context"], w["y"], w["neg"], fixed=True, diagonal=True
    ),
    "official_tracker": lambda w: L.official_tracker(w["text"], w["y"], w["neg"]),
    "official_spurious_vision": lambda w: L.official_spurious_vision(
        w["unit"], w["context"], w["a"], w["scale"]
    ),
    "official_domain": lambda w: L.official_domain(
        w["k_context"], w["ka"], w["pos"], w["neg"], n_classes=len(w["text"]), fixed=False
    ),
    "fixed_domain": lambda w: L.official_domain(
        w["context"], w["a"], w["pos"], w["neg"], n_classes=len(w["text"]), fixed=True
    ),
    "official_cross": lambda w: L.official_cross(
        w["unit"], w["text"], w["y"], w["pos"], w["neg"], fixed=False
    ),
    "fixed_cross": lambda w: L.official_cross(
        w["unit"], w["text"], w["y"], w["pos"], w["neg"], fixed=True
    ),
    "official_spurious_cross": lambda w: L.official_spurious_cross(
        w["unit"], w["attribute_text"], w["neg"]
    ),
}
# One value for the whole batch.
BATCH: dict[str, Case] = {
    "set_contrast": lambda w: L.set_contrast(*squares(w)),
    "image_contrast": lambda w: L.image_contrast(w["unit"], w["y"], w["tau"]),
    "image_contrast_self": lambda w: L.image_contrast(
        w["unit"], w["g"], w["tau"], include_self=True
    ),
    "language_contrast": lambda w: L.language_contrast(w["text"], w["tau"]),
    "language_contrast_crossed": lambda w: L.language_contrast(
        w["text"], w["tau"], negatives=w["attribute_text"]
    ),
    "similarity_loss": lambda w: L.similarity_loss(w["unit"], w["y"]),
    "similarity_loss_weighted": lambda w: L.similarity_loss(
        w["unit"], w["y"], weights=w["weights"]
    ),
    "targeted_contrast": targeted,
}
# One value for each class or group, or several results.
OTHER: dict[str, Case] = {
    "group_means": lambda w: L.group_means(w["values"], w["y"], len(w["text"])),
    "group_weights": lambda w: L.group_weights(w["q"], w["losses"], w["tau"]),
    "group_weights_normalised": lambda w: L.group_weights(
        w["q"], w["losses"], w["tau"], normalise=True
    ),
    "adjusted": lambda w: L.adjusted(w["losses"], w["counts"], w["scale"]),
    "greedy_cvar": greedy,
    "same_label": lambda w: L.same_label(w["y"], w["queue_y"]),
    "ema_centroids": lambda w: L.ema_centroids(
        w["centroids"], w["unit"], w["y"], w["counted"], w["tau"] / 2
    ),
    "ema_centroids_weighted": lambda w: L.ema_centroids(
        w["centroids"], w["unit"], w["y"], w["weights"], 0.9
    ),
    "enqueue": lambda w: L.enqueue(w["queue"], w["queue_y"], w["unit"], w["y"], w["counts"][0]),
    "match_targets": lambda w: L.match_targets(w["centroids"], w["targets"]),
}
CASES = ITEM | BATCH | OTHER
ROWS = [
    "unit", "captions", "y", "a", "g", "ka", "logits", "values", "weights", "counted",
    "positive", "negative", "positive_mask", "negative_mask",
]  # fmt: skip
CONSTANT = ["group_weights", "group_weights_normalised", "greedy_cvar", "ema_centroids",
            "ema_centroids_weighted", "enqueue", "match_targets"]  # fmt: skip
LEARNED = [
    "unit", "captions", "logits", "values", "text", "attribute_text", "context", "k_context",
    "positive", "negative", "losses",
]  # fmt: skip


def test_every_public_function_is_here() -> None:
    used = " ".join(
        name for case in [*CASES.values(), adjustment, greedy, squares, masked, targeted]
        for name in case.__code__.co_names
    ).split()  # fmt: skip
    assert set(L.__all__) - set(used) == {"similarity_block"}  # inside official_image and others


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_a_stack_is_a_loop(case: Case, worlds: list[World]) -> None:
    stacked = {name: torch.stack([w[name] for w in worlds]) for name in worlds[0]}
    found = torch.func.vmap(case)(stacked)
    expected = [case(w) for w in worlds]
    if not isinstance(found, tuple):
        found, expected = (found,), [(e,) for e in expected]
    for k, part in enumerate(found):
        torch.testing.assert_close(part, torch.stack([e[k] for e in expected]))


DIFFERENTIABLE = [name for name in CASES if name not in [*CONSTANT, "same_label"]]


@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_gradients_of_a_stack_are_a_loop(name: str, worlds: list[World]) -> None:
    def loss(learned: World, rest: World) -> Tensor:
        total: Tensor = CASES[name](rest | learned).sum()
        return total

    stacked = {key: torch.stack([w[key] for w in worlds]) for key in worlds[0]}
    learned = {key: stacked[key] for key in LEARNED}
    found = torch.func.vmap(torch.func.grad(loss))(learned, stacked)
    for k, w in enumerate(worlds):
        expected = torch.func.grad(loss)({key: w[key] for key in LEARNED}, w)
        torch.testing.assert_close({key: found[key][k] for key in found}, expected)


@pytest.mark.parametrize("case", DIFFERENTIABLE)
def test_gradient_by_finite_differences(case: str, world: World) -> None:
    """In worlds of one item, with absent classes, with anchors that have no positive."""
    tensors = {name: world[name].clone().requires_grad_() for name in LEARNED}
    total = CASES[case](world | tensors).sum()
    grads = torch.autograd.grad(total, tuple(tensors.values()), allow_unused=True)
    used = [name for name, grad in zip(LEARNED, grads) if grad is not None]
    assert used
    assert torch.autograd.gradcheck(
        lambda *new: CASES[case](world | dict(zip(used, new))), tuple(tensors[n] for n in used)
    )


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_gradients_are_finite_in_float32(case: Case, world: World) -> None:
    """Also where there is nothing to compare with, and at a temperature of 0.01."""
    small = {k: v.float() if v.is_floating_point() else v for k, v in world.items()}
    small |= {"tau": torch.tensor(0.01), "scale": torch.tensor(100.0)}
    for name in LEARNED:
        small[name] = small[name].requires_grad_()
    with torch.autograd.set_detect_anomaly(True):  # no NaN on the way either
        found = case(small)
        found = found if isinstance(found, tuple) else (found,)
        assert all(torch.isfinite(part).all() for part in found)
        total = sum(part.sum() for part in found if part.requires_grad)
        if isinstance(total, Tensor):
            total.backward()
    grads = [small[name].grad for name in LEARNED]
    assert all(torch.isfinite(grad).all() for grad in grads if grad is not None)


@pytest.mark.parametrize("name", CONSTANT)
def test_weights_and_states_carry_no_gradient(name: str, world: World) -> None:
    learned = {n: world[n].clone().requires_grad_() for n in ["unit", "losses", "q", "ema"]}
    found = CASES[name](world | learned | {"centroids": world["centroids"].requires_grad_()})
    assert not any(part.requires_grad for part in (found if isinstance(found, tuple) else (found,)))


@pytest.mark.parametrize("name", [n for n in CASES if n not in ("same_label", "enqueue")])
def test_the_order_of_rows_does_not_matter(name: str, world: World) -> None:
    order = torch.randperm(len(world["y"]), generator=torch.Generator().manual_seed(4))
    found = CASES[name](world | {row: world[row][order] for row in ROWS})
    expected = CASES[name](world)
    torch.testing.assert_close(found, expected[order] if name in ITEM else expected)


RENAMED = [
    "paired", "fixed_image", "fixed_language", "fixed_spurious_language", "fixed_diagonal",
    "fixed_cross", "set_contrast", "image_contrast", "language_contrast", "similarity_loss",
    "language_contrast_crossed", "targeted_contrast", "official_image", "official_spurious_cross",
]  # fmt: skip


@pytest.mark.parametrize("name", RENAMED)
def test_the_numbers_of_classes_do_not_matter(name: str, world: World) -> None:
    renamed = rename(world)
    np.testing.assert_allclose(CASES[name](renamed), CASES[name](world), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", ["official_language", "official_spurious_language"])
def test_the_official_language_terms_do_depend_on_the_numbers(name: str, world: World) -> None:
    """They read the class number as a template's, so this is how the mistake shows."""
    assert not np.allclose(CASES[name](rename(world)), CASES[name](world))


def rename(w: World) -> World:
    c = len(w["text"])
    new = (torch.arange(c) + 1) % c  # class k is now called new[k]
    old = torch.argsort(new)
    queue_y = torch.where(w["queue_y"] < 0, -1, new[w["queue_y"].clamp(min=0)])
    by_class = {n: w[n][old] for n in ["text", "k_context", "target_of_class", "centroids"]}
    return w | by_class | {"y": new[w["y"]], "queue_y": queue_y}


@pytest.mark.parametrize("name", ["group_weights", "group_weights_normalised", "adjusted",
                                  "greedy_cvar"])  # fmt: skip
def test_the_numbers_of_groups_do_not_matter(name: str, world: World) -> None:
    order = torch.arange(len(world["losses"])).flip(0)
    by_group = ["losses", "q", "ema", "seen", "present", "fractions", "counts"]
    found = CASES[name](world | {n: world[n][order] for n in by_group})
    expected = CASES[name](world)
    pairs = zip(found, expected) if isinstance(found, tuple) else [(found, expected)]
    for a, b in pairs:
        torch.testing.assert_close(a, b[order])
