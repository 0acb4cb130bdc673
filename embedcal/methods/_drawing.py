"""What a step draws and sees: positions drawn on the CPU, the same on every device."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from embedcal.features import StoredRows
from embedcal.streaming import block_order
from embedcal.types import IntArray

MOST = 2**24  # weights that torch.multinomial takes


@dataclass(frozen=True, kw_only=True)
class Step:
    """What one step draws, on the CPU, so that a run draws the same on every device."""

    batch: Tensor  # (b,) positions in train
    more: Mapping[str, Tensor] = field(default_factory=dict)  # positions of further examples
    drawn: Mapping[str, Tensor] = field(default_factory=dict)  # any other draws, as they are


@dataclass(frozen=True, kw_only=True)
class Batch:
    """One step's examples as tensors on the device; ``g`` only if the method declares it.

    ``more`` and ``drawn`` have what else the method's ``steps`` drew, by the names that it gave.
    """

    x: Tensor  # (b, d)
    y: Tensor  # (b,)
    g: Tensor | None
    index: Tensor  # (b,) positions in the training split
    more: Mapping[str, Batch] = field(default_factory=dict)
    drawn: Mapping[str, Tensor] = field(default_factory=dict)


def batches(
    n: int,
    batch_size: int,
    generator: torch.Generator,
    labels: IntArray | None = None,
    x: object = None,
    rows: IntArray | None = None,
) -> Iterator[Tensor]:
    """Positions (b,) below n of each batch of one epoch; the last may be short.

    Without labels every position comes once, shuffled: by blocks (``embedcal.streaming``) where the
    features ``x`` are more than memory holds; ``rows`` (n,) are then the rows of ``x`` that the
    positions stand for, repeats included. With labels (n,), n draws with replacement, every label
    equally often on average (weights 1 / count).
    """
    if labels is None and isinstance(x, StoredRows) and x.by_blocks:
        order = block_order(n, generator, rows=rows)
    elif labels is None:
        order = torch.randperm(n, generator=generator)
    else:
        _, position, counts = np.unique(labels, return_inverse=True, return_counts=True)
        if n > MOST:
            order = _by_label(position, counts, generator)
        else:
            weights = torch.from_numpy(1.0 / counts[position])
            order = torch.multinomial(weights, n, replacement=True, generator=generator)
    yield from torch.split(order, batch_size or n)


def _by_label(position: IntArray, counts: IntArray, generator: torch.Generator) -> Tensor:
    """Draws (n,) with replacement: a label, each as likely, then any row of it."""
    rows = torch.from_numpy(np.argsort(position, kind="stable"))  # of each label one after another
    size = torch.from_numpy(counts)
    first = size.cumsum(0) - size
    label = torch.randint(len(size), (len(rows),), generator=generator)
    share = torch.rand(len(rows), generator=generator, dtype=torch.float64)
    return rows[first[label] + (share * size[label]).long()]


def fixed_part(n: int, fraction: float) -> tuple[IntArray, IntArray]:
    """Positions below n cut into a part of this fraction and the rest, the same for every seed.

    Both are sorted. A two-stage method fits its stage on one and itself on the other.
    """
    order = np.random.default_rng([21, n]).permutation(n)
    cut = round(fraction * n)
    return np.sort(order[:cut]), np.sort(order[cut:])


def cut_by_class(y: IntArray, share: float, rng: np.random.Generator) -> tuple[IntArray, IntArray]:
    """Positions of a random share of every class, and of the rest; both sorted.

    A class of two rows or more has one on either side, unless the share is 1.
    """
    inside = np.zeros(len(y), bool)
    for label in np.unique(y):
        rows = rng.permutation(np.flatnonzero(y == label))
        most = len(rows) if share == 1 else max(len(rows) - 1, 1)
        inside[rows[: min(max(round(share * len(rows)), 1), most)]] = True
    return np.flatnonzero(inside), np.flatnonzero(~inside)
