"""RN50's attention pool, forward and backward, against open_clip's own module."""

from __future__ import annotations

from statistics import median

import torch
from measure import Reading, Row, interleaved, quotients
from open_clip.modified_resnet import AttentionPool2d
from torch.nn import functional as F

from embedcal.encoders.attnpool import attention_pool

SIDE, WIDTH, HEADS, JOINT = 7, 2048, 32, 1024


def measure(*, quick: bool) -> list[Row]:
    """One training step's pass: batch 128, gradients of all weights, none of the cached tokens."""
    batch = 32 if quick else 128
    torch.manual_seed(0)
    module = AttentionPool2d(SIDE, WIDTH, HEADS, JOINT)
    # As a cache holds them: the last map's cells, channels last.
    tokens = torch.randn(batch, SIDE * SIDE, WIDTH)
    image = tokens.transpose(1, 2).unflatten(2, (SIDE, SIDE)).contiguous()
    direction = torch.randn(batch, JOINT)

    def ours() -> torch.Tensor:
        pooled = attention_pool(tokens, dict(module.named_parameters()), HEADS)
        return F.linear(pooled, module.c_proj.weight, module.c_proj.bias)

    def step(forward: object) -> None:
        module.zero_grad(set_to_none=True)
        out = ours() if forward is ours else module(image)
        out.backward(direction)

    with torch.no_grad():
        difference = float((ours() - module(image)).abs().max() / module(image).abs().max())
    assert difference < 1e-4, difference
    seconds = interleaved(
        {"ours": lambda: step(ours), "module": lambda: step(module)},
        repetitions=2 if quick else 3,
    )
    rate = {name: batch / median(values) for name, values in seconds.items()}
    return [
        Row(
            name=f"attention pool, forward and backward, batch {batch}",
            ours=Reading(what="attention_pool", value=rate["ours"], unit="images/s"),
            baseline=Reading(what="open_clip's module", value=rate["module"], unit="images/s"),
            ratio=quotients(seconds["module"], seconds["ours"]),
            target=8.0,
            note=f"outputs differ by {difference:.0e} of the largest",
        )
    ]
