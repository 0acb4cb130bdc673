"""Features to train on: one tensor on the device, or rows read from the file when asked for."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from embedcal.cache import FeatureCache
from embedcal.types import FloatArray, IntArray


class Features(Protocol):
    """Rows of features; ``take`` and ``split`` give them as float32 on the device."""

    def __len__(self) -> int: ...

    @property
    def row_shape(self) -> tuple[int, ...]: ...

    def take(self, index: Tensor) -> Tensor: ...

    def split(self, size: int) -> Iterable[Tensor]: ...


@dataclass(frozen=True)
class Resident:
    """All rows in memory on one device."""

    x: Tensor  # (n, ...)

    def __len__(self) -> int:
        return len(self.x)

    @property
    def row_shape(self) -> tuple[int, ...]:
        return tuple(self.x.shape[1:])

    def split(self, size: int) -> Iterable[Tensor]:
        return torch.split(self.x, size)

    def take(self, index: Tensor) -> Tensor:
        return self.x.index_select(0, index.to(self.x.device))


@dataclass(frozen=True)
class StoredTokens:
    """The tokens of some rows, left in the file; indexing by positions (m,) reads those."""

    cache: FeatureCache
    rows: IntArray  # (n,) positions in the cache

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self.rows), *self.cache.meta.shapes["tokens"])

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice) or index.dtype == bool:
            return StoredTokens(self.cache, self.rows[index])
        return self.cache.tokens(self.rows[index])


@dataclass(frozen=True)
class Streamed:
    """Rows that stay in the file; memory holds no more than what is taken at once."""

    x: StoredTokens
    device: str

    def __len__(self) -> int:
        return len(self.x)

    @property
    def row_shape(self) -> tuple[int, ...]:
        return self.x.shape[1:]

    def split(self, size: int) -> Iterator[Tensor]:
        for index in torch.split(torch.arange(len(self.x)), size):
            yield self.take(index)

    def take(self, index: Tensor) -> Tensor:
        return torch.from_numpy(self.x[index.cpu().numpy()]).to(self.device)


def features(x: FloatArray | StoredTokens, device: str) -> Features:
    """What a split's ``x`` is, made ready for a device."""
    if isinstance(x, StoredTokens):
        return Streamed(x, device)
    with warnings.catch_warnings():
        # Features that other processes share cannot be written to; nobody does.
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return Resident(torch.as_tensor(x, dtype=torch.float32).to(device))
