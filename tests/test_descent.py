"""The update rule against torch's optimizer classes, to the bit, and what it does not import."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from embedcal.methods import find
from embedcal.train import Descent


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_steps_are_torchs(optimizer: str, momentum: float) -> None:
    """Three tensors, one of which never has a gradient, and one that has none at first.

    torch's fused SGD fails on the latter where there is momentum; there it always has one.
    """
    method = find("erm")(optimizer=optimizer, momentum=momentum, lr=0.05, weight_decay=0.01)
    generator = torch.Generator().manual_seed(0)
    shapes = [(7, 3), (5,), (2, 2)]
    ours = [torch.nn.Parameter(torch.randn(shape, generator=generator)) for shape in shapes]
    theirs = [torch.nn.Parameter(each.detach().clone()) for each in ours]
    options = {"lr": 0.05, "weight_decay": 0.01, "fused": True}
    update = (
        torch.optim.SGD(theirs, momentum=momentum, **options)
        if optimizer == "sgd"
        else torch.optim.AdamW(theirs, **options)
    )
    descent = Descent(method, ours)
    late = optimizer == "adamw" or momentum == 0
    for step in range(5):
        for place, (one, other) in enumerate(zip(ours, theirs)):
            has = place == 0 or (place == 1 and (step > 1 or not late))
            slope = torch.randn(one.shape, generator=generator)
            one.grad, other.grad = (slope, slope.clone()) if has else (None, None)
        descent.step()
        update.step()
        for one, other in zip(ours, theirs):
            assert torch.equal(one, other)
    assert torch.equal(ours[2], theirs[2])


def test_a_fit_leaves_the_compiler_alone(birds: object) -> None:
    """Its import takes seconds, in every process of a grid."""
    code = (
        "import sys, embedcal\n"
        f"with embedcal.open({str(birds)!r}) as cache:\n"
        "    embedcal.fit('erm', cache, epochs=1)\n"
        "assert 'torch._dynamo' not in sys.modules, 'torch._dynamo'\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
