"""The text side: prototypes, text states through the current projection, temperatures."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from embedcal.heads import AttnPoolHead, ProjectionHead, prototypes, text_states
from embedcal.types import EmbedcalError

CLIP_HEADS = pytest.mark.parametrize("cls", [ProjectionHead, AttnPoolHead])
SCOPES = pytest.mark.parametrize("scope", ["image", "image+text_proj"])


def unit(x: np.ndarray) -> np.ndarray:
    return x / math.sqrt(sum(float(v) ** 2 for v in x))


def slow_prototypes(e: np.ndarray, prototype: str) -> np.ndarray:
    rows = []
    for templates in e:
        total = np.zeros(e.shape[-1])
        for embedding in templates:
            total = total + unit(embedding)
        rows.append(total / len(templates))
    return np.stack([unit(row) for row in rows] if prototype == "normalised" else rows)


@pytest.mark.parametrize("prototype", ["normalised", "mean"])
def test_prototypes_average_unit_templates(prototype: str) -> None:
    e = np.random.default_rng(0).normal(size=(3, 5, 4))
    found = prototypes(torch.tensor(e), prototype)
    np.testing.assert_allclose(found, slow_prototypes(e, prototype), rtol=1e-12)
    assert torch.equal(prototypes(torch.tensor(e)), prototypes(torch.tensor(e), "normalised"))
    lengths = torch.linalg.vector_norm(found, dim=-1)
    assert bool((lengths < 0.999).all()) is (prototype == "mean")


@CLIP_HEADS
@SCOPES
@pytest.mark.parametrize("prototype", ["normalised", "mean"])
def test_prototypes_follow_the_option_and_the_current_text_side(
    cls: Any, scope: str, prototype: str, model: Any
) -> None:
    head = cls.start(model.projection, model.bank, scope=scope, prototype=prototype)
    embedding = model.bank.embedding.astype(np.float64)
    if scope != "image":
        with torch.no_grad():
            head.text_weight.add_(torch.ones_like(head.text_weight))
        weight = head.text_weight.detach().numpy().astype(np.float64)
        embedding = np.array([[weight @ state for state in row] for row in model.bank.pooled])
    wanted = slow_prototypes(embedding, prototype)
    np.testing.assert_allclose(head.prototypes().detach(), wanted, rtol=1e-4, atol=1e-6)


@CLIP_HEADS
@SCOPES
def test_encode_gives_unit_embeddings_of_any_bank(cls: Any, scope: str, model: Any) -> None:
    """Another bank, with another number of prompts, through the weights as they are now."""
    head = cls.start(model.projection, model.bank, scope=scope)
    rng = np.random.default_rng(4)
    pooled = rng.normal(size=(2, 5, 7)).astype(np.float32)
    other = replace(
        model.bank, name="context", prompts=("x", "y"), pooled=pooled,
        embedding=pooled @ model.projection.text_weight.T,
    )  # fmt: skip
    weight = model.projection.text_weight.astype(np.float64)
    if scope != "image":
        with torch.no_grad():
            head.text_weight.mul_(-0.5).add_(0.25)
        weight = -0.5 * weight + 0.25
    wanted = np.array([[unit(weight @ state) for state in row] for row in pooled])
    found = head.encode(text_states(other, scope))
    np.testing.assert_allclose(found.detach(), wanted, rtol=1e-4, atol=1e-5)
    assert found.requires_grad is (scope != "image")


def test_the_gradient_through_encode_is_the_finite_difference(model: Any) -> None:
    head = ProjectionHead.start(model.projection, model.bank, scope="image+text_proj").double()
    states = text_states(model.bank, "image+text_proj").double()

    def encode(weight: torch.Tensor) -> torch.Tensor:
        call: Any = torch.func.functional_call
        return call(Encoder(head), {"head.text_weight": weight}, (states,))

    weight = head.text_weight.detach().clone().requires_grad_()
    assert torch.autograd.gradcheck(encode, (weight,))


class Encoder(torch.nn.Module):
    def __init__(self, head: ProjectionHead) -> None:
        super().__init__()
        self.head = head

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        return self.head.encode(states)


@CLIP_HEADS
@pytest.mark.parametrize(
    ("temperature", "own", "start", "trained"),
    [
        ("trainable", 3.25, math.log(1 / 0.07), True),
        ("trainable", None, math.log(1 / 0.07), True),
        ("pretrained", 3.25, 3.25, True),
        ("fixed", 3.25, 3.25, False),
        ("fixed", None, math.log(100), False),
    ],
)
def test_temperatures(
    cls: Any, temperature: str, own: float | None, start: float, trained: bool, model: Any
) -> None:
    weights = replace(model.projection, logit_scale=own)
    head = cls.start(weights, model.bank, scope="image", temperature=temperature)
    assert head.logit_scale.item() == pytest.approx(start, rel=1e-7)
    assert "logit_scale" in head.state_dict()
    loss = torch.nn.functional.cross_entropy(head(model.x(head.level)), torch.arange(7) % 3)
    update = torch.optim.SGD(head.parameters(), lr=0.1, weight_decay=0.1)
    loss.backward()
    update.step()
    assert (head.logit_scale.item() != pytest.approx(start, rel=1e-6)) is trained


def mistakes(model: Any) -> list[tuple[dict[str, Any], dict[str, Any], str]]:
    """What differs in the cache, what is asked for, and the answer's words."""
    return [
        ({}, {"scope": "text"}, "expected scope to be one of image, image.text_proj, found 'text'"),
        ({}, {"temperature": "warm"}, "trainable, pretrained, fixed, found 'warm'"),
        ({}, {"prototype": "median"}, "normalised, mean, found 'median'"),
        ({"logit_scale": None}, {"temperature": "pretrained"}, "use --temperature trainable"),
        ({"text_weight": None}, {"scope": "image+text_proj"}, "use --scope image"),
    ]


@CLIP_HEADS
@pytest.mark.parametrize("which", range(5))
def test_a_mistake_gets_one_line(cls: Any, which: int, model: Any) -> None:
    lacks, asked, words = mistakes(model)[which]
    with pytest.raises(EmbedcalError, match=words) as error:
        cls.start(replace(model.projection, **lacks), model.bank, **{"scope": "image", **asked})
    assert "\n" not in str(error.value)


def test_a_bank_without_states_has_none_to_give(model: Any) -> None:
    bank = replace(model.bank, pooled=None)
    assert torch.equal(text_states(bank, "image"), torch.tensor(bank.embedding))
    with pytest.raises(EmbedcalError, match="use --scope image"):
        text_states(bank, "image+text_proj")
