"""RN50's attention pool against open_clip's own module: the pool alone, and a whole step."""

from __future__ import annotations

from collections.abc import Callable
from statistics import median

import torch
from measure import Reading, Row, interleaved, quotients
from open_clip.modified_resnet import AttentionPool2d
from torch import Tensor, nn
from torch.nn import functional as F

from embedcal.encoders.attnpool import attention_pool
from embedcal.heads import AttnPoolHead
from embedcal.types import Projection, TextBank

SIDE, WIDTH, HEADS, JOINT = 7, 2048, 32, 1024
CLASSES, TEMPLATES = 2, 80


def measure(*, quick: bool) -> list[Row]:
    """Batch 128; gradients of all weights, none of the cached tokens."""
    batch = 32 if quick else 128
    torch.manual_seed(0)
    # As a cache holds them: the last map's cells, channels last.
    tokens = torch.randn(batch, SIDE * SIDE, WIDTH)
    repetitions = 2 if quick else 3
    return [_pool(tokens, repetitions), _step(tokens, repetitions)]


def _pool(tokens: Tensor, repetitions: int) -> Row:
    """Forward and backward of the pool alone."""
    module = AttentionPool2d(SIDE, WIDTH, HEADS, JOINT)
    image = _image(tokens)
    direction = torch.randn(len(tokens), JOINT)

    def ours() -> Tensor:
        pooled = attention_pool(tokens, dict(module.named_parameters()), HEADS)
        return F.linear(pooled, module.c_proj.weight, module.c_proj.bias)

    def run(forward: Callable[[], Tensor]) -> None:
        module.zero_grad(set_to_none=True)
        forward().backward(direction)

    with torch.no_grad():
        difference = float((ours() - module(image)).abs().max() / module(image).abs().max())
    assert difference < 1e-4, difference
    seconds = interleaved(
        {"ours": lambda: run(ours), "module": lambda: run(lambda: module(image))},
        repetitions=repetitions,
    )
    return _row(
        "attention pool, forward and backward",
        what=("attention_pool", "open_clip's module"),
        batch=len(tokens),
        seconds=seconds,
        note=f"outputs differ by {difference:.0e} of the largest",
        target=8.0,
    )


def _step(tokens: Tensor, repetitions: int) -> Row:
    """Forward, cross-entropy, backward and SGD: what training repeats over each batch."""
    module = AttentionPool2d(SIDE, WIDTH, HEADS, JOINT)
    pool = {name: p.detach().numpy() for name, p in module.named_parameters()}
    projection = Projection(image_weight=pool["c_proj.weight"], attnpool=pool, attnpool_heads=HEADS)
    bank = TextBank(
        name="class",
        prompts=tuple(map(str, range(CLASSES))),
        templates=tuple(map(str, range(TEMPLATES))),
        embedding=torch.randn(CLASSES, TEMPLATES, JOINT).numpy(),
    )
    head = AttnPoolHead.start(projection, bank, scope="image")
    image, y = _image(tokens), torch.arange(len(tokens)) % CLASSES
    scale = nn.Parameter(head.logit_scale.detach().clone())
    text = head.prototypes()

    def plain() -> Tensor:
        return scale.exp() * F.normalize(module(image), dim=-1) @ text.T

    with torch.no_grad():
        difference = float((head(tokens) - plain()).abs().max() / plain().abs().max())
    assert difference < 1e-4, difference
    seconds = interleaved(
        {
            "ours": _training(lambda: head(tokens), list(head.parameters()), y, fused=True),
            "module": _training(plain, [*module.parameters(), scale], y, fused=False),
        },
        repetitions=repetitions,
    )
    return _row(
        "attention-pool head, one training step",
        what=("AttnPoolHead", "open_clip's module"),
        batch=len(tokens),
        seconds=seconds,
        note="forward, cross-entropy, backward, SGD with momentum",
    )


def _training(
    logits: Callable[[], Tensor], parameters: list[nn.Parameter], y: Tensor, *, fused: bool
) -> Callable[[], None]:
    """One step; ``fused`` is how embedcal's training asks for SGD, else torch's default is used."""
    update = torch.optim.SGD(parameters, lr=1e-4, momentum=0.9, weight_decay=1e-5, fused=fused)

    def step() -> None:
        loss = F.cross_entropy(logits(), y)
        update.zero_grad(set_to_none=True)
        loss.backward()
        update.step()

    return step


def _image(tokens: Tensor) -> Tensor:
    """Cells (b, t, w) as open_clip's module takes them, (b, w, s, s)."""
    return tokens.transpose(1, 2).unflatten(2, (SIDE, SIDE)).contiguous()


def _row(
    name: str,
    *,
    what: tuple[str, str],
    batch: int,
    seconds: dict[str, tuple[float, ...]],
    note: str,
    target: float | None = None,
) -> Row:
    rate = {side: batch / median(values) for side, values in seconds.items()}
    return Row(
        name=f"{name}, batch {batch}",
        ours=Reading(what=what[0], value=rate["ours"], unit="images/s"),
        baseline=Reading(what=what[1], value=rate["module"], unit="images/s"),
        ratio=quotients(seconds["module"], seconds["ours"]),
        target=target,
        note=note,
    )
