"""The attention-pool head against open_clip's own module: forward, backward, and after training."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from open_clip.modified_resnet import AttentionPool2d
from torch.nn import functional as F

from embedcal.heads import AttnPoolHead

SIDE, CELLS = 2, 4
PRECISIONS = pytest.mark.parametrize(
    ("dtype", "bound"), [(torch.float64, 1e-10), (torch.float32, 1e-5)], ids=["64", "32"]
)


def pair(model: Any, dtype: torch.dtype, **options: str) -> tuple[AttnPoolHead, AttentionPool2d]:
    """The head, and open_clip's module with the same weights."""
    head = AttnPoolHead.start(model.projection, model.bank, scope="image", **options).to(dtype)
    module = AttentionPool2d(SIDE, model.width, 2, model.joint).to(dtype)
    named = dict(module.named_parameters())
    weights = {name: torch.tensor(a).to(dtype) for name, a in model.projection.attnpool.items()}
    assert weights.keys() == named.keys() <= dict(head.named_parameters()).keys()
    module.load_state_dict(weights)
    return head, module


def image(x: torch.Tensor) -> torch.Tensor:
    """Tokens (n, t, w), row-major -> the map (n, w, s, s) that the module eats."""
    return torch.stack([row.T.reshape(row.shape[1], SIDE, SIDE) for row in x])


def assert_close(found: torch.Tensor, wanted: torch.Tensor, bound: float, name: str = "") -> None:
    assert float((found - wanted).detach().abs().max() / wanted.detach().abs().max()) < bound, name


@PRECISIONS
def test_equal_to_open_clip_forward_and_backward(
    dtype: torch.dtype, bound: float, model: Any
) -> None:
    head, module = pair(model, dtype)
    x = model.x("tokens", dtype=dtype)
    found, wanted = head.project(x), module(image(x))
    assert_close(found, wanted, bound)
    direction = torch.randn_like(found)
    found.backward(direction)
    wanted.backward(direction)
    for name, parameter in module.named_parameters():
        own = head.get_parameter(name).grad
        assert own is not None, name
        if name == "k_proj.bias":  # zero by the mathematics; the module has rounding noise there
            assert torch.equal(own, torch.zeros_like(own))
            assert float(parameter.grad.abs().max() / module.k_proj.weight.grad.abs().max()) < bound
        else:
            assert_close(own, parameter.grad, bound, name)


@PRECISIONS
@pytest.mark.parametrize("prototype", ["normalised", "mean"])
@pytest.mark.parametrize("temperature", ["trainable", "fixed"])
def test_equal_to_open_clip_after_training_with_weight_decay(
    dtype: torch.dtype, bound: float, prototype: str, temperature: str, model: Any
) -> None:
    """Eight steps of SGD; the key bias, which has no gradient, decays on both sides."""
    head, module = pair(model, dtype, prototype=prototype, temperature=temperature)
    x, y = model.x("tokens", 24, dtype), torch.arange(24) % 3
    scale = torch.nn.Parameter(head.logit_scale.detach().clone())
    scale.requires_grad_(temperature != "fixed")
    text = head.prototypes()
    settings: dict[str, float] = {"lr": 0.01, "momentum": 0.9, "weight_decay": 0.2}
    ours = torch.optim.SGD(head.parameters(), **settings)
    theirs = torch.optim.SGD([*module.parameters(), scale], **settings)
    for rows in torch.split(torch.arange(24), 3):
        logits = scale.exp() * F.normalize(module(image(x[rows])), dim=-1) @ text.T
        for loss, update in [
            (F.cross_entropy(head(x[rows]), y[rows]), ours),
            (F.cross_entropy(logits, y[rows]), theirs),
        ]:
            update.zero_grad()
            loss.backward()
            update.step()
    start = model.projection.attnpool
    for name, parameter in module.named_parameters():
        assert float((parameter - torch.tensor(start[name])).detach().abs().max()) > 1e-2, name
        assert_close(head.get_parameter(name), parameter, bound, name)
    assert_close(head.logit_scale, scale, bound)


def test_rows_do_not_influence_each_other_and_cells_keep_their_places(model: Any) -> None:
    head, _ = pair(model, torch.float64)
    x = model.x("tokens", dtype=torch.float64)
    alone = torch.cat([head(row[None]) for row in x])
    torch.testing.assert_close(head(x), alone, rtol=1e-12, atol=1e-12)
    assert not torch.allclose(head(x), head(x.flip(1)))


def test_the_start_owns_its_weights(model: Any) -> None:
    """Training never writes into the cache's arrays, and tied weights are no trouble."""
    tied = dict(model.projection.attnpool)
    tied["k_proj.weight"] = tied["q_proj.weight"]
    before = tied["q_proj.weight"].copy()
    head = AttnPoolHead.start(replace(model.projection, attnpool=tied), model.bank, scope="image")
    torch.optim.SGD(head.parameters(), lr=1.0, weight_decay=1.0)
    with torch.no_grad():
        head.q_proj.weight.zero_()
    assert (tied["q_proj.weight"] == before).all()
    assert float(head.k_proj.weight.detach().abs().max()) > 0
