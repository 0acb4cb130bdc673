"""Features to train on: one tensor on the device, or rows read from the file when asked for."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from embedcal.cache import FeatureCache
from embedcal.streaming import size, whole
from embedcal.types import EmbedcalError, FloatArray, IntArray, Level


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
class StoredRows:
    """Features of some rows, left in the file; indexing by positions (m,) reads those, as float32.

    ``by_blocks`` says that training shuffles them as ``embedcal.streaming`` does, since there are
    more of them than memory holds. Tokens are large enough to be drawn from anywhere. What they
    are read from is no part of the interface: a method that is handed these rows sees them alone.
    """

    _cache: FeatureCache
    level: Level
    _rows: IntArray  # (n,) positions in the cache
    by_blocks: bool = False

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self._rows), *self._cache.meta.shapes[self.level])

    @property
    def nbytes_whole(self) -> int:
        """Bytes that all of them would take in memory."""
        return whole(len(self), self.shape[1:])

    def __getitem__(self, index: Any) -> Any:
        some = isinstance(index, np.ndarray) and index.dtype == bool
        if some or isinstance(index, slice):
            return replace(self, _rows=self._rows[index])
        return self._cache.take(self.level, self._rows[index])

    def __iter__(self) -> Iterator[Any]:
        raise self._not_whole()

    def __array__(self, *_: Any, **__: Any) -> FloatArray:  # what NumPy asks for
        raise self._not_whole()

    def __dlpack__(self, *_: Any, **__: Any) -> Any:  # and torch, of which device first
        raise self._not_whole()

    def __dlpack_device__(self) -> Any:
        raise self._not_whole()

    def _not_whole(self) -> EmbedcalError:
        mend = "raise --memory, or take" if self.by_blocks else "take"
        return EmbedcalError(
            f"expected room for {size(self.nbytes_whole)} of {self.level} features, which are read "
            f"as one array here, found them left in the file: {mend} a method that reads batches, "
            "such as erm"
        )


@dataclass(frozen=True)
class Streamed:
    """Rows that stay in the file; memory holds no more than what is taken at once."""

    x: StoredRows
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


def features(x: FloatArray | StoredRows, device: str) -> Features:
    """What a split's ``x`` is, made ready for a device."""
    if isinstance(x, StoredRows):
        return Streamed(x, device)
    return Resident(shared(x).to(device))


def shared(x: FloatArray) -> Tensor:
    """Features as a float32 tensor over the same memory, which nobody writes to."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.as_tensor(x, dtype=torch.float32)
