"""Logits of many rows in bounded memory."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Protocol

import torch
from torch import Tensor

from embedcal.heads.base import Head

ROWS = 8192
ELEMENTS = 2**24  # of one batch: 64 MiB of features, 167 images of a ResNet-50's tokens


class Rows(Protocol):
    """Features (n, ...) that are taken row by row, wherever they lie."""

    def __len__(self) -> int: ...

    def take(self, index: Tensor, /) -> Tensor:
        """Rows (b, ...) at positions ``index`` (b,), float32."""
        ...


@torch.no_grad()
def predict(head: Head, x: Tensor | Rows, *, batch_size: int | None = None) -> Tensor:
    """Logits (n, C) of features (n, ...), in batches that bound the memory; sets ``head.eval()``.

    By default a batch has 8192 rows, or as many as make 2^24 numbers where a row is large.
    """
    head.eval()
    if batch_size is None:
        row = x[:1] if isinstance(x, Tensor) else x.take(torch.arange(min(len(x), 1)))
        batch_size = max(1, min(ROWS, ELEMENTS // max(1, math.prod(row.shape[1:]))))
    return torch.cat([head(part) for part in _batches(head, x, batch_size)])


def _batches(head: Head, x: Tensor | Rows, size: int) -> Iterator[Tensor]:
    if isinstance(x, Tensor):
        yield from torch.split(x, size)
        return
    device = next(head.parameters()).device
    for index in torch.split(torch.arange(len(x)), size):
        yield x.take(index).to(device)
