"""Which rows a step or a stage sees: positions drawn on the CPU, the same on every device."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from embedcal.types import IntArray


def batches(
    n: int, batch_size: int, generator: torch.Generator, labels: IntArray | None = None
) -> Iterator[Tensor]:
    """Positions (b,) below n of each batch of one epoch; the last may be short.

    Without labels every position comes once, shuffled. With labels (n,), n draws with
    replacement, every label equally often on average (weights 1 / count).
    """
    if labels is None:
        order = torch.randperm(n, generator=generator)
    else:
        _, position, counts = np.unique(labels, return_inverse=True, return_counts=True)
        weights = torch.from_numpy(1.0 / counts[position])
        order = torch.multinomial(weights, n, replacement=True, generator=generator)
    yield from torch.split(order, batch_size or n)


def fixed_part(n: int, fraction: float) -> tuple[IntArray, IntArray]:
    """Positions below n cut into a part of this fraction and the rest, the same for every seed.

    Both are sorted. A two-stage method fits its stage on one and itself on the other.
    """
    order = np.random.default_rng([21, n]).permutation(n)
    cut = round(fraction * n)
    return np.sort(order[:cut]), np.sort(order[cut:])
