"""One step of torch's AdamW or SGD for K runs, each with a learning rate of its own.

The arithmetic is torch's fused one, which ``embedcal.train`` uses too. It takes many tensors at
once but one learning rate, so the runs of equal numbers are moved together.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.optim.adamw import adamw
from torch.optim.sgd import sgd

from embedcal.methods.base import Gradient
from embedcal.train import BETAS, EPSILON

CLIP_EPSILON = 1e-6  # beside the norm, as in torch.nn.utils.clip_grad_norm_

Moments = tuple[Tensor, ...]  # of one parameter: (first, second, steps) of adamw, (first,) of sgd


def start_moments(optimizer: str, parameter: Tensor) -> Moments:
    """What an update rule remembers of a parameter (K, ...) before the first step."""
    first = torch.zeros_like(parameter, requires_grad=False)
    if optimizer == "sgd":
        return (first,)
    return first, torch.zeros_like(first), torch.zeros(len(first), device=first.device)


@torch.no_grad()
def clip(gradients: Mapping[str, Tensor], norm: Tensor) -> dict[str, Tensor]:
    """Each run's gradients, (K, ...) each, scaled to a joint length of at most ``norm`` (K,)."""
    squares = [gradient.reshape(len(norm), -1).square().sum(1) for gradient in gradients.values()]
    length = torch.stack(squares).sum(0).sqrt()  # (K,)
    scale = (norm / (length + CLIP_EPSILON)).clamp(max=1.0)
    return {
        name: gradient * scale.view(-1, *[1] * (gradient.ndim - 1))
        for name, gradient in gradients.items()
    }


@torch.no_grad()
def update(
    methods: Sequence[Gradient],
    parameters: Mapping[str, Tensor],
    gradients: Mapping[str, Tensor],
    moments: Mapping[str, Moments],
) -> None:
    """Move the parameters, (K, ...) each, that have a gradient, and their moments, in place.

    ``methods`` says the numbers of each of the K runs; the update rule is the same for all.
    """
    alike: dict[tuple[float, ...], list[int]] = defaultdict(list)
    for k, method in enumerate(methods):
        alike[method.step_size, method.weight_decay, method.momentum].append(k)
    # Of every run its part of each tensor; the fused kernels need all of them in one layout.
    parts = [
        [tensor.detach().unbind() for tensor in (parameters[name], *moments[name])]
        for name in gradients
    ]
    slopes = [gradient.contiguous().unbind() for gradient in gradients.values()]
    for (lr, decay, momentum), rows in alike.items():
        moved, first, *others = (
            [p[i][k] for p in parts for k in rows] for i in range(len(parts[0]))
        )
        slope = [s[k] for s in slopes for k in rows]
        if methods[0].optimizer == "sgd":
            sgd(
                moved,
                slope,
                first,  # type: ignore[arg-type]
                fused=True,
                lr=lr,
                weight_decay=decay,
                momentum=momentum,
                dampening=0.0,
                nesterov=False,
                maximize=False,
            )
            continue
        second, steps = others
        adamw(
            moved,
            slope,
            first,
            second,
            [],
            steps,
            fused=True,
            lr=lr,
            weight_decay=decay,
            beta1=BETAS[0],
            beta2=BETAS[1],
            eps=EPSILON,
            amsgrad=False,
            maximize=False,
        )
