"""Heads against the formulas, and whole round trips through their files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from embedcal.heads import Head, LinearHead, ProjectionHead, load_head, predict, save_head
from embedcal.heads import prototypes as prototypes_of
from embedcal.types import EmbedcalError, Projection, TextBank

C, T, D, W, V = 3, 5, 4, 6, 7


def unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def projection(rng: np.random.Generator, *, bias: bool = True) -> Projection:
    draw = lambda *shape: rng.normal(size=shape).astype(np.float32)  # noqa: E731
    return Projection(
        image_weight=draw(D, W),
        image_bias=draw(D) if bias else None,
        text_weight=draw(D, V),
        logit_scale=4.6,
    )


def bank(rng: np.random.Generator, weights: Projection) -> TextBank:
    pooled = rng.normal(size=(C, T, V)).astype(np.float32)
    return TextBank(
        name="class",
        prompts=("a", "b", "c"),
        templates=tuple(f"{{}} {k}" for k in range(T)),
        pooled=pooled,
        embedding=pooled @ weights.text_weight.T,
    )


def test_prototypes_normalise_average_and_normalise_again() -> None:
    e = np.random.default_rng(0).normal(size=(C, T, D))
    expected = unit(np.stack([np.mean([unit(row) for row in e[c]], axis=0) for c in range(C)]))
    np.testing.assert_allclose(prototypes_of(torch.tensor(e)), expected, rtol=1e-12)


@pytest.mark.parametrize("scope", ["image", "image+text_proj"])
@pytest.mark.parametrize("bias", [True, False])
def test_projection_head_starts_as_the_formula_at_temperature_007(scope: str, bias: bool) -> None:
    rng = np.random.default_rng(1)
    weights = projection(rng, bias=bias)
    text = bank(rng, weights)
    head = ProjectionHead.start(weights, text, scope=scope)
    x = rng.normal(size=(9, W)).astype(np.float32)
    offset = weights.image_bias if bias else 0.0
    f = unit(x @ weights.image_weight.T + offset)
    w = unit(unit(text.embedding).mean(1))
    np.testing.assert_allclose(head(torch.tensor(x)).detach(), f @ w.T / 0.07, rtol=2e-4, atol=1e-4)
    np.testing.assert_allclose(head.embed(torch.tensor(x)).detach(), f, rtol=1e-4, atol=1e-6)


def test_the_scope_decides_what_is_trained() -> None:
    rng = np.random.default_rng(2)
    weights = projection(rng)
    text = bank(rng, weights)
    names = {
        scope: {n for n, p in ProjectionHead.start(weights, text, scope=scope).named_parameters()}
        for scope in ("image", "image+text_proj")
    }
    assert names["image"] == {"image_weight", "image_bias", "logit_scale"}
    assert names["image+text_proj"] == names["image"] | {"text_weight"}


def test_a_linear_head_ignores_length_only_where_it_normalises() -> None:
    x = torch.randn(5, D)
    weight, bias = torch.randn(C, D), torch.randn(C)
    for normalise in (True, False):
        head = LinearHead(weight, bias, normalise=normalise, level="embedding")
        assert torch.allclose(head(x), head(3 * x), atol=1e-5) is normalise


def test_predict_does_not_depend_on_its_batches() -> None:
    head = LinearHead(torch.randn(C, D), torch.randn(C), normalise=True, level="embedding")
    x = torch.randn(11, D)
    assert torch.allclose(predict(head, x, batch_size=4), predict(head, x), atol=1e-6)


def heads() -> list[Head]:
    rng = np.random.default_rng(3)
    weights = projection(rng)
    text = bank(rng, weights)
    return [
        LinearHead(torch.randn(C, W), torch.randn(C), normalise=False, level="pooled"),
        ProjectionHead.start(weights, text, scope="image"),
        ProjectionHead.start(weights, text, scope="image+text_proj"),
    ]


@pytest.mark.parametrize("head", heads(), ids=["linear", "image", "image+text_proj"])
def test_a_saved_head_comes_back_to_the_bit(head: Head, tmp_path: Path) -> None:
    x = torch.randn(7, W)
    save_head(head, tmp_path / "head.safetensors")
    again = load_head(tmp_path / "head.safetensors")
    assert torch.equal(head(x), again(x))
    assert again.level == head.level
    assert not list(tmp_path.glob("*.part"))


@pytest.mark.parametrize("content", [b"", b"not a head", b"\x80\x04cos\nsystem\n"])
def test_another_file_is_refused_in_one_line(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "head.safetensors"
    path.write_bytes(content)
    with pytest.raises(EmbedcalError, match="expected a head saved by embedcal") as error:
        load_head(path)
    assert "\n" not in str(error.value)


def test_safetensors_of_something_else_are_refused(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file({"weight": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(EmbedcalError, match="embedcal-head 1"):
        load_head(tmp_path / "other.safetensors")
