"""Logits of many rows in bounded memory."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Protocol

import torch
from torch import Tensor

from embedcal.heads.base import Head

ROWS = 8192
ELEMENTS = 2**24  # of one batch: 64 MiB of features, 167 images of a ResNet-50's tokens


class Rows(Protocol):
    """Features (n, ...) that are gone through part by part, wherever they lie."""

    @property
    def row_shape(self) -> tuple[int, ...]:
        """The shape of one row."""
        ...

    def split(self, size: int, /) -> Iterable[Tensor]:
        """All rows in order, ``size`` at a time (the last part may be short), float32."""
        ...


@torch.no_grad()
def predict(head: Head, x: Tensor | Rows, *, batch_size: int | None = None) -> Tensor:
    """Logits (n, C) of features (n, ...), in batches that bound the memory; sets ``head.eval()``.

    By default a batch has 8192 rows, or as many as make 2^24 numbers where a row is large.
    """
    head.eval()
    if batch_size is None:
        row = tuple(x.shape[1:]) if isinstance(x, Tensor) else x.row_shape
        batch_size = max(1, min(ROWS, ELEMENTS // max(1, math.prod(row))))
    parts = x.split(batch_size)
    return torch.cat([head(part) for part in parts])
