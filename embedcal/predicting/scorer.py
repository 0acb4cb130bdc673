"""Pixels to logits, and to the nearest training rows: the cache's encoder, then the run's head."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from embedcal.cache import FeatureCache
from embedcal.cache.cropping import Prepare, cropping
from embedcal.types import EmbedcalError, FloatArray, IntArray

if TYPE_CHECKING:
    from torch import Tensor

    from embedcal.encoders.base import Encoder
    from embedcal.heads import Head

ELEMENTS = 2**24  # numbers of training features in memory at once, before the head


@dataclass(frozen=True, kw_only=True)
class Neighbour:
    """A training row of the cache: its position, id, path and class, and its cosine."""

    row: int
    id: str
    path: str
    class_name: str
    similarity: float


@dataclass(frozen=True)
class Scorer:
    """A head over an encoder, on a device of torch's.

    Features pass through the type that the cache stores them in, since the head was fitted to
    those: tokens are float16 by default.
    """

    cache: FeatureCache
    head: Head
    encoder: Encoder
    device: str

    @property
    def prepare(self) -> Prepare:
        """A picture -> pixels (h, w, 3), after the cache's crop."""
        return cropping(self.encoder.prepare, self.cache.meta.preprocessing.get("center_crop"))

    def features(self, pixels: npt.NDArray[np.uint8]) -> FloatArray:
        """Pixels (b, h, w, 3) -> features (b, ...) at the head's level, as the cache rounds."""
        level = self.head.level
        found = np.asarray(self.encoder.images(pixels, (level,))[level], np.float32)
        with np.errstate(over="ignore"):
            stored = found.astype(self.cache.meta.levels[level])
        return stored.astype(np.float32)

    def logits(self, features: FloatArray) -> npt.NDArray[np.float64]:
        """Features (b, ...) -> logits (b, C)."""
        from embedcal.heads import predict

        found = predict(self.head, self._tensor(features))
        return found.cpu().numpy().astype(np.float64)

    def nearest(self, features: FloatArray, k: int) -> list[tuple[Neighbour, ...]]:
        """For each of b images the k nearest training rows, in the head's own embedding."""
        import torch

        from embedcal.neighbours import nearest

        with torch.no_grad():
            queries = self.head.embed(self._tensor(features))
        found = nearest(queries, self._pool, k, device=self.device)
        return [
            tuple(
                self._neighbour(int(self.rows[at]), float(cosine))
                for at, cosine in zip(places, cosines, strict=True)
                if at >= 0
            )
            for places, cosines in zip(found.positions, found.similarity, strict=True)
        ]

    def _neighbour(self, row: int, similarity: float) -> Neighbour:
        samples = self.cache.samples
        return Neighbour(
            row=row,
            id=samples.ids[row],
            path=samples.paths[row],
            class_name=self.cache.meta.classes[samples.y[row]],
            similarity=similarity,
        )

    @cached_property
    def rows(self) -> IntArray:
        """Positions (n,) of the training rows that have features."""
        rows = self.cache.encoded_rows("train")
        if not len(rows):
            raise EmbedcalError(
                f"expected training rows for --neighbours in {self.cache.meta.path.name}, found "
                "none: leave --neighbours out"
            )
        return rows

    @cached_property
    def _pool(self) -> Tensor:
        """Unit embeddings (n, d) of the training rows; made once, and kept on the device."""
        import torch

        with torch.no_grad():
            return torch.cat([self.head.embed(self._tensor(block)) for block in self._blocks()])

    def _blocks(self) -> Iterator[FloatArray]:
        level = self.head.level
        step = max(1, ELEMENTS // math.prod(self.cache.meta.shapes[level]))
        for start in range(0, len(self.rows), step):
            yield self.cache.take(level, self.rows[start : start + step])

    def _tensor(self, features: FloatArray) -> Tensor:
        import torch

        return torch.from_numpy(np.ascontiguousarray(features, np.float32)).to(self.device)
