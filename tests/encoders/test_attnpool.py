"""The reassociated attention pool against open_clip's module, and against its formula in NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from open_clip.modified_resnet import AttentionPool2d

from embedcal.encoders.attnpool import PARAMETERS, attention_pool


def module(side: int, width: int, heads: int, dtype: torch.dtype) -> AttentionPool2d:
    torch.manual_seed(0)
    pool = AttentionPool2d(side, width, heads, width // 2).to(dtype)
    for parameter in pool.parameters():
        if parameter.ndim == 1:  # biases are small after default initialisation
            torch.nn.init.normal_(parameter)
    return pool


def relative(found: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((found - wanted).abs().max() / wanted.abs().max())


def forward_and_gradients(
    pool: AttentionPool2d, cells: torch.Tensor, *, ours: bool
) -> tuple[torch.Tensor, torch.Tensor, dict[str, torch.Tensor | None]]:
    pool.zero_grad()
    x = cells.clone().requires_grad_()
    if ours:
        tokens = x.flatten(2).transpose(1, 2)
        out = pool.c_proj(attention_pool(tokens, dict(pool.named_parameters()), pool.num_heads))
    else:
        out = pool(x)
    weight = torch.arange(out.numel(), dtype=out.dtype).view_as(out).sin()
    (out * weight).sum().backward()
    assert x.grad is not None
    return out.detach(), x.grad, {name: p.grad for name, p in pool.named_parameters()}


@pytest.mark.parametrize(
    ("side", "width", "heads", "batch"), [(7, 256, 4, 5), (2, 64, 8, 1), (9, 128, 2, 3)]
)
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
def test_equal_to_open_clip_forward_and_backward(
    side: int, width: int, heads: int, batch: int, dtype: torch.dtype, bound: float
) -> None:
    pool = module(side, width, heads, dtype)
    cells = torch.randn(batch, width, side, side, dtype=dtype)
    out, dx, grads = forward_and_gradients(pool, cells, ours=True)
    wanted_out, wanted_dx, wanted = forward_and_gradients(pool, cells, ours=False)
    assert relative(out, wanted_out) < bound
    assert relative(dx, wanted_dx) < bound
    for name, grad in grads.items():
        assert grad is not None, name
        if name != "k_proj.bias":  # there the module has rounding noise around zero
            assert relative(grad, wanted[name]) < bound, name


def test_gradient_of_the_key_bias_is_zeros_and_not_none() -> None:
    pool = module(3, 32, 4, torch.float32)
    _, _, grads = forward_and_gradients(pool, torch.randn(2, 32, 3, 3), ours=True)
    grad = grads["k_proj.bias"]
    assert grad is not None
    assert torch.equal(grad, torch.zeros(32))


def test_formula_in_numpy() -> None:
    pool = module(2, 8, 2, torch.float64)
    tokens = torch.randn(1, 4, 8, dtype=torch.float64)
    p = {name: v.detach().numpy() for name, v in pool.named_parameters()}
    x = tokens[0].numpy()
    z = np.vstack([x.mean(0), x]) + p["positional_embedding"]
    q = p["q_proj.weight"] @ z[0] + p["q_proj.bias"]
    out = []
    for head in range(2):
        own = slice(4 * head, 4 * head + 4)
        keys = z @ p["k_proj.weight"][own].T + p["k_proj.bias"][own]
        values = z @ p["v_proj.weight"][own].T + p["v_proj.bias"][own]
        score = np.exp(keys @ q[own] / 2.0)  # sqrt(8 / 2) = 2
        out.append(score / score.sum() @ values)
    found = attention_pool(tokens, {k: torch.from_numpy(v) for k, v in p.items()}, 2)
    np.testing.assert_allclose(found[0].numpy(), np.concatenate(out), rtol=1e-12)


def test_rows_do_not_influence_each_other() -> None:
    pool = dict(module(3, 64, 4, torch.float64).named_parameters())
    tokens = torch.randn(4, 9, 64, dtype=torch.float64)
    together = attention_pool(tokens, pool, 4)
    alone = torch.cat([attention_pool(row[None], pool, 4) for row in tokens])
    torch.testing.assert_close(together, alone, rtol=1e-12, atol=1e-12)


def test_parameters_are_open_clips_names() -> None:
    names = {name for name, _ in module(2, 8, 2, torch.float32).named_parameters()}
    assert set(PARAMETERS) == {name for name in names if not name.startswith("c_proj")}
