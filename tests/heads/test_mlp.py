"""The hidden-layer head against its formula, its start, and its file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from embedcal.heads import HEADS, MlpHead, load_head, save_head
from embedcal.types import EmbedcalError

C, D, H = 3, 5, 7


def head(*, normalise: bool = True) -> MlpHead:
    generator = torch.Generator().manual_seed(0)
    made = MlpHead.start(D, C, generator, hidden=H, normalise=normalise)
    with torch.no_grad():
        made.first_bias.uniform_(-1, 1, generator=generator)
        made.last_bias.uniform_(-1, 1, generator=generator)
    return made


@pytest.mark.parametrize("normalise", [True, False])
def test_it_is_the_formula(normalise: bool) -> None:
    made = head(normalise=normalise)
    w1, b1, w2, b2 = (p.detach().numpy() for p in made.parameters())
    x = np.random.default_rng(0).normal(size=(9, D)).astype(np.float32)
    logits, embedded = made(torch.tensor(x)), made.embed(torch.tensor(x))
    for i in range(9):
        f = x[i] / np.linalg.norm(x[i]) if normalise else x[i]
        z = np.array([max(0.0, w1[k] @ f + b1[k]) for k in range(H)])
        np.testing.assert_allclose(logits[i].detach(), w2 @ z + b2, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(
            embedded[i].detach(), z / np.linalg.norm(z), rtol=1e-5, atol=1e-6
        )


def test_it_starts_without_biases_and_follows_the_generator() -> None:
    a, b, c = (MlpHead.start(D, C, torch.Generator().manual_seed(s), hidden=H) for s in (1, 1, 2))
    for (name, p), q, r in zip(a.named_parameters(), b.parameters(), c.parameters()):
        assert torch.equal(p, q)
        assert torch.equal(p, r) is name.endswith("bias")
        assert p.abs().max() <= (0 if name.endswith("bias") else p.shape[1] ** -0.5)
    with pytest.raises(EmbedcalError, match="at least one hidden unit"):
        MlpHead.start(D, C, torch.Generator(), hidden=0)


@pytest.mark.parametrize("normalise", [True, False])
def test_a_saved_one_comes_back_to_the_bit(normalise: bool, tmp_path: Path) -> None:
    assert HEADS["mlp"] is MlpHead
    made, x = head(normalise=normalise), torch.randn(6, D)
    save_head(made, tmp_path / "head.safetensors")
    again = load_head(tmp_path / "head.safetensors")
    assert torch.equal(made(x), again(x))
    assert again.level == "embedding"


@pytest.mark.parametrize(
    "change",
    [
        {"first_weight": torch.zeros(H + 1, D)},
        {"last_bias": torch.full((C,), float("nan"))},
        {"more": torch.zeros(1)},
    ],
)
def test_tensors_that_do_not_fit_are_refused(change: dict[str, torch.Tensor]) -> None:
    with pytest.raises(EmbedcalError, match="expected"):
        MlpHead.from_state({**head().state_dict(), **change}, {"normalise": True})
    with pytest.raises(EmbedcalError, match="expected"):
        MlpHead.from_state(head().state_dict(), {})
