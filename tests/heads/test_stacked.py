"""Three heads' weights as one stack: torch.func gives what a loop over the heads gives."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch.func import functional_call, grad, stack_module_state, vmap
from torch.nn import functional as F


@pytest.mark.parametrize(
    "which",
    [
        "linear",
        "mlp",
        "projection/image",
        "projection/image+text_proj",
        "attnpool/image",
        "attnpool/image+text_proj",
    ],
)
def test_a_stack_of_three_equals_a_loop(which: str, model: Any, make_head: Any) -> None:
    heads = [make_head(which, model, seed).double() for seed in (1, 2, 3)]
    level = heads[0].level
    x, y = model.x(level, 6, torch.float64), torch.arange(6) % 3
    base = copy.deepcopy(heads[0]).to("meta")
    parameters, buffers = stack_module_state(heads)

    def logits(p: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> Any:
        return functional_call(base, (p, b), (x,))

    def loss(p: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> Any:
        return F.cross_entropy(logits(p, b), y)

    found = vmap(logits)(parameters, buffers)
    gradients = vmap(grad(loss))(parameters, buffers)
    for k, head in enumerate(heads):
        wanted = head(x)
        torch.testing.assert_close(found[k], wanted, rtol=1e-10, atol=1e-10)
        F.cross_entropy(wanted, y).backward()
        for name, parameter in head.named_parameters():
            assert parameter.grad is not None
            torch.testing.assert_close(
                gradients[name][k], parameter.grad, rtol=1e-9, atol=1e-12, msg=name
            )
    assert not torch.allclose(found[0], found[1])
