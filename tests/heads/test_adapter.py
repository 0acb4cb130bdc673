"""The adapter against a loop in NumPy, in training and in evaluation."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from embedcal.heads import AdapterHead, predict
from embedcal.types import EmbedcalError

HIDDEN = 6
RESIDUALS = pytest.mark.parametrize("residual", [0.0, 1.0])


def adapter(model: Any, residual: float = 0.0) -> AdapterHead:
    generator = torch.Generator().manual_seed(3)
    head = AdapterHead.start(model.bank, generator, hidden=HIDDEN, residual=residual).double()
    with torch.no_grad():
        for parameter in (head.norm_weight, head.norm_bias):
            parameter += 0.3 * torch.randn(HIDDEN, generator=generator)
    return head


class Slow:
    """The same network as loops over rows and units, with its own running statistics."""

    def __init__(self, head: AdapterHead) -> None:
        self.p = {name: tensor.numpy().copy() for name, tensor in head.state_dict().items()}
        self.residual = head.residual

    def logits(self, x: np.ndarray, *, training: bool) -> np.ndarray:
        p = self.p
        n = len(x)
        hidden = np.array([[float(np.dot(w, row)) for w in p["first_weight"]] for row in x])
        active = np.zeros_like(hidden)
        for j in range(hidden.shape[1]):
            column = [hidden[i, j] for i in range(n)]
            mean, var = p["running_mean"][j], p["running_var"][j]
            if training:
                mean = sum(column) / n
                var = sum((v - mean) ** 2 for v in column) / n
                p["running_mean"][j] = 0.9 * p["running_mean"][j] + 0.1 * mean
                p["running_var"][j] = 0.9 * p["running_var"][j] + 0.1 * var * n / (n - 1)
            for i in range(n):
                z = (hidden[i, j] - mean) / math.sqrt(var + 1e-5)
                active[i, j] = max(0.0, p["norm_weight"][j] * z + p["norm_bias"][j])
        out = []
        for i in range(n):
            z = p["last_weight"] @ active[i] + p["last_bias"] + self.residual * x[i]
            out.append([100 * t @ z / math.sqrt(z @ z) for t in p["text"]])
        return np.array(out)


@RESIDUALS
def test_equal_to_the_loop_in_training_and_then_in_evaluation(residual: float, model: Any) -> None:
    head = adapter(model, residual)
    slow = Slow(head)
    x = 5 * model.x("embedding", 40, torch.float64)
    for rows in (slice(0, 9), slice(9, 20), slice(20, 22)):
        wanted = slow.logits(x[rows].numpy(), training=True)
        np.testing.assert_allclose(head.train()(x[rows]).detach(), wanted, rtol=1e-6, atol=1e-5)
    for name in ("running_mean", "running_var"):
        np.testing.assert_allclose(head.get_buffer(name), slow.p[name], rtol=1e-10)
    wanted = slow.logits(x.numpy(), training=False)
    np.testing.assert_allclose(predict(head, x), wanted, rtol=1e-6, atol=1e-5)
    np.testing.assert_allclose(predict(head, x[3:4]), wanted[3:4], rtol=1e-6, atol=1e-5)


def test_the_three_steps_make_the_whole(model: Any) -> None:
    """A loss may share ``hidden`` among batches, each with its own statistics."""
    head = adapter(model)
    x = model.x("embedding", 12, torch.float64)
    hidden = head.hidden(x)
    assert hidden.shape == (12, HIDDEN)
    for rows in (torch.arange(5), torch.tensor([4, 7, 9, 11, 0, 1])):
        whole = head.project(x[rows])
        parts = head.output(head.activate(hidden[rows]))
        torch.testing.assert_close(parts, whole, rtol=1e-12, atol=1e-12)


def test_lengths_matter_before_the_adapter_and_not_after(model: Any) -> None:
    head = adapter(model).eval()
    x = model.x("embedding", 9, torch.float64)
    assert not torch.allclose(head(x), head(torch.nn.functional.normalize(x, dim=-1)))
    z = head.project(x)
    torch.testing.assert_close(head.classify(z), head.classify(3 * z))


def test_one_row_in_training_uses_the_running_statistics(model: Any) -> None:
    """A last batch may have one row, which has no variance."""
    head = adapter(model)
    x = model.x("embedding", 9, torch.float64)
    head(x)
    before = head.get_buffer("running_var").clone()
    alone = head(x[:1])
    assert torch.equal(head.get_buffer("running_var"), before)
    torch.testing.assert_close(alone, head.eval()(x[:1]))


@pytest.mark.parametrize("training", [True, False])
def test_gradients_are_finite_differences(training: bool, model: Any) -> None:
    head = adapter(model, 0.5).train(training)
    x = model.x("embedding", 5, torch.float64).requires_grad_()
    names = [name for name, _ in head.named_parameters()]
    assert names == ["first_weight", "norm_weight", "norm_bias", "last_weight", "last_bias"]

    def logits(x: torch.Tensor, *weights: torch.Tensor) -> torch.Tensor:
        buffers = {name: buffer.clone() for name, buffer in head.named_buffers()}
        given = dict(zip(names, weights)) | buffers
        return torch.func.functional_call(head, given, (x,)) / 100

    weights = [p.detach().clone().requires_grad_() for p in head.parameters()]
    assert torch.autograd.gradcheck(logits, (x, *weights))


def test_the_start_is_torchs_default_and_follows_the_seed(model: Any) -> None:
    def start(seed: int) -> AdapterHead:
        return AdapterHead.start(model.bank, torch.Generator().manual_seed(seed), hidden=500)

    head = start(0)
    for tensor, inputs in [
        (head.first_weight, model.joint), (head.last_weight, 500), (head.last_bias, 500),
    ]:  # fmt: skip
        top = float(tensor.detach().abs().max()) * inputs**0.5
        assert (0.5 if tensor.ndim == 1 else 0.97) < top <= 1
    assert torch.equal(head.last_weight, start(0).last_weight)
    assert not torch.equal(head.last_weight, start(1).last_weight)
    with pytest.raises(EmbedcalError, match="at least one hidden unit, found 0"):
        AdapterHead.start(model.bank, torch.Generator(), hidden=0)
