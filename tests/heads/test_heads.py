"""The linear and the projection head against their formulas, and prediction in batches."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from embedcal.heads import (
    AdapterHead,
    AttnPoolHead,
    ClipHead,
    Head,
    LinearHead,
    ProjectionHead,
    predict,
)
from embedcal.types import EmbedcalError, Projection


def unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


@pytest.mark.parametrize("scope", ["image", "image+text_proj"])
@pytest.mark.parametrize("bias", [True, False])
def test_projection_head_starts_as_the_formula_at_temperature_007(
    scope: str, bias: bool, model: Any
) -> None:
    weights = model.projection if bias else replace(model.projection, image_bias=None)
    head = ProjectionHead.start(weights, model.bank, scope=scope)
    x = model.x("pooled")
    f = unit(x.numpy() @ weights.image_weight.T + (weights.image_bias if bias else 0.0))
    w = unit(unit(model.bank.embedding).mean(1))
    np.testing.assert_allclose(head(x).detach(), f @ w.T / 0.07, rtol=2e-4, atol=1e-4)
    np.testing.assert_allclose(head.embed(x).detach(), f, rtol=1e-4, atol=1e-6)


TEXT = {"image": set(), "image+text_proj": {"text_weight"}}
POOL = {f"{n}_proj.{kind}" for n in "qkvc" for kind in ("weight", "bias")}


@pytest.mark.parametrize("scope", ["image", "image+text_proj"])
@pytest.mark.parametrize(
    ("cls", "image"),
    [
        (ProjectionHead, {"image_weight", "image_bias"}),
        (AttnPoolHead, {"positional_embedding"} | POOL),
    ],
)
def test_the_scope_decides_what_is_trained(
    cls: type[ProjectionHead] | type[AttnPoolHead], image: set[str], scope: str, model: Any
) -> None:
    head = cls.start(model.projection, model.bank, scope=scope)
    names = {name for name, parameter in head.named_parameters() if parameter.requires_grad}
    assert names == image | TEXT[scope] | {"logit_scale"}


def test_logits_are_scaled_cosines_whatever_the_length(head: Head, model: Any) -> None:
    """CLIP's heads and the adapter: forward = exp(s) nrm(project(x)) P^T = classify(embed(x))."""
    if not isinstance(head, ClipHead | AdapterHead):
        return
    head.eval()
    x = model.x(head.level)
    wanted = head.logit_scale.exp() * head.embed(x) @ head.prototypes().T
    torch.testing.assert_close(head(x), wanted, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(head.classify(head.embed(x)), wanted, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(head.classify(7 * head.project(x)), wanted, rtol=1e-5, atol=1e-5)
    length = torch.linalg.vector_norm(head.embed(x), dim=-1)
    torch.testing.assert_close(length, torch.ones(len(x)))


def test_a_linear_head_ignores_length_only_where_it_normalises() -> None:
    x = torch.randn(5, 4)
    weight, bias = torch.randn(3, 4), torch.randn(3)
    for normalise in (True, False):
        head = LinearHead(weight, bias, normalise=normalise, level="embedding")
        assert torch.allclose(head(x), head(3 * x), atol=1e-5) is normalise


class Stream:
    """Rows that are handed out as asked for; it remembers how many at once."""

    def __init__(self, x: torch.Tensor) -> None:
        self.x, self.taken = x, [0]

    @property
    def row_shape(self) -> tuple[int, ...]:
        return tuple(self.x.shape[1:])

    def split(self, size: int) -> Any:
        for part in torch.split(self.x, size):
            self.taken.append(len(part))
            yield part


@pytest.mark.parametrize("n", [0, 1, 11])
def test_predict_does_not_depend_on_its_batches_or_on_where_rows_lie(
    n: int, head: Head, model: Any
) -> None:
    x = model.x(head.level, n)
    whole = head.eval()(x)
    head.train()
    for batch_size in (None, 4, 11):
        stream = Stream(x)
        for rows in (x, stream):
            found = predict(head, rows, batch_size=batch_size)
            assert found.shape == (n, model.classes)
            torch.testing.assert_close(found, whole, rtol=1e-5, atol=1e-5)
            assert not found.requires_grad
        assert max(stream.taken) <= (batch_size or n)
    assert not head.training


def test_large_rows_come_few_at_once() -> None:
    """By default a batch holds 2^24 numbers at most, and at least one row."""

    class Count(LinearHead):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            sizes.append(len(x))
            return x.flatten(1)[:, :3]

    head = Count(torch.ones(3, 4), torch.ones(3), normalise=False, level="tokens")
    for shape, wanted in [
        ((20_000, 4), [8192, 8192, 3616]),
        ((5, 2**12, 2**11), [2, 2, 1]),
        ((2, 2**25), [1, 1]),
    ]:
        sizes: list[int] = []
        predict(head, torch.zeros(1).expand(shape))
        assert sizes == wanted


def test_the_attention_pool_head_needs_an_attention_pool(model: Any) -> None:
    vit = replace(model.projection, attnpool={}, attnpool_heads=0)
    with pytest.raises(EmbedcalError, match="use --head projection") as error:
        AttnPoolHead.start(vit, model.bank, scope="image")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("heads", [0, 3, 16])
def test_heads_that_do_not_divide_the_width_are_refused(heads: int, model: Any) -> None:
    odd: Projection = replace(model.projection, attnpool_heads=heads)
    with pytest.raises(EmbedcalError, match=f"divides the attention pool's width 8, found {heads}"):
        AttnPoolHead.start(odd, model.bank, scope="image")
