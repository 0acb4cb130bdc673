"""The rows of a cache that go out: features in blocks, labels as columns or as arrays."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from embedcal.cache import FeatureCache
from embedcal.cache.gathering import stored_rows
from embedcal.datasets.printable import printable
from embedcal.interchange.description import describe
from embedcal.interchange.labels import NAMED
from embedcal.interchange.predictions import Predictions
from embedcal.types import SPLITS, EmbedcalError, IntArray, Level, Split

Columns = dict[str, tuple[str, Sequence[Any]]]  # header -> kind and a value a row


@dataclass(frozen=True, kw_only=True)
class Rows:
    """The encoded rows of some splits, in the cache's order, at one level."""

    cache: FeatureCache
    level: Level
    splits: tuple[Split, ...]
    normalise: bool = False
    predictions: Predictions | None = None

    def __len__(self) -> int:
        return len(self.positions)

    @cached_property
    def positions(self) -> IntArray:
        """Where the rows stand in the cache, (m,); those that could not be read stay behind."""
        return self.cache.encoded_rows(self.splits)

    @property
    def width(self) -> int:
        return self.cache.meta.shapes[self.level][0]

    @property
    def dtype(self) -> np.dtype[Any]:
        """The stored type; float32 where rows are normalised on the way."""
        stored = np.dtype(self.cache.meta.levels[self.level])
        return np.dtype(np.float32) if self.normalise else stored

    @property
    def description(self) -> str:
        """Names and prompts as JSON (``embedcal.interchange.description``)."""
        return describe(
            self.cache, self.level, normalised=self.normalise, text=self.level == "embedding"
        )

    def blocks(
        self, size: int, start: int = 0, stop: int | None = None
    ) -> Iterator[tuple[int, npt.NDArray[Any]]]:
        """Features (b, d) of at most so many rows at once, each with its first row's number."""
        path = f"/images/{self.level}"
        end = len(self) if stop is None else stop
        for first in range(start, end, size):
            rows = self.positions[first : min(first + size, end)]
            block = stored_rows(self.cache.stored, path, rows)
            if not np.isfinite(block).all():
                raise EmbedcalError(
                    f"expected finite features, found NaN or infinity in {self.cache.meta.path}: "
                    "make the cache again"
                )
            yield first, _unit(block) if self.normalise else block

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Labels (m,) as codes, by name; predictions -1 and NaN where a run has none."""
        samples, rows = self.cache.samples, self.positions
        arrays: dict[str, npt.NDArray[Any]] = {"y": samples.y[rows], "split": samples.split[rows]}
        self._refuse((*arrays, "features", "id", "path", "embedcal", "prediction", "confidence"))
        arrays |= {name: labels[rows] for name, labels in samples.attributes.items()}
        if self.predictions is not None:
            arrays["prediction"] = self.predictions.classes[rows]
            arrays["confidence"] = self.predictions.confidence[rows]
        return arrays

    def banks(self) -> dict[str, npt.NDArray[Any]]:
        """Text features (P, T, d) by the name ``text/BANK/embedding``; only beside embeddings."""
        cache = self.cache
        if self.level != "embedding":
            return {}
        return {f"text/{bank}/embedding": cache.text(bank).embedding for bank in cache.banks}

    def names(self, of: str) -> tuple[str, ...]:
        """The ``ids`` or the ``paths`` of the rows."""
        every = self.cache.samples.ids if of == "ids" else self.cache.samples.paths
        return tuple(map(every.__getitem__, self.positions.tolist()))

    def columns(self) -> Columns:
        """Labels as a table has them: codes and names, None for no name."""
        samples, rows, meta = self.cache.samples, self.positions, self.cache.meta
        columns: Columns = {
            "id": ("str", self.names("ids")),
            "path": ("str", self.names("paths")),
            "split": ("str", _named(samples.split[rows], SPLITS)),
            "y": ("int", samples.y[rows].tolist()),
            "class": ("str", _named(samples.y[rows], meta.classes)),
        }
        beside = ("prediction", "confidence", "correct", "embedding", "image_path")
        self._refuse((*columns, *beside))
        for name, values in meta.attributes:
            codes = samples.attributes[name][rows]
            columns[name] = ("int", codes.tolist())
            columns[f"{name}{NAMED}"] = ("str", _named(codes, values))
        if self.predictions is not None:
            predicted = self.predictions.classes[rows]
            known = (predicted >= 0).tolist()
            sure = self.predictions.confidence[rows].tolist()
            right = (predicted == samples.y[rows]).tolist()
            columns["prediction"] = ("str", _named(predicted, meta.classes))
            columns["confidence"] = ("float", _where(known, sure))
            columns["correct"] = ("bool", _where(known, right))
        return columns

    def _refuse(self, taken: Sequence[str]) -> None:
        """Raise where an attribute is called as something else in the file is."""
        names = [name for name, _ in self.cache.meta.attributes]
        for name in names:
            other = f"{name}{NAMED}"
            if name in taken or other in taken or other in names or name.startswith("text/"):
                raise EmbedcalError(
                    f"expected attributes that are called as nothing else in the file is, found "
                    f"'{printable(name)}': make the cache again with another name for it"
                )


def _unit(block: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """Rows of length 1; a row of zeros stays one."""
    x = block.astype(np.float32, copy=False)
    length = np.linalg.norm(x.astype(np.float64), axis=1, keepdims=True)
    return (x / np.where(length > 0, length, 1)).astype(np.float32)


def _named(codes: IntArray, names: Sequence[str]) -> list[str | None]:
    return [names[code] if code >= 0 else None for code in codes.tolist()]


def _where(known: Sequence[bool], values: Sequence[Any]) -> list[Any]:
    return [value if there else None for there, value in zip(known, values, strict=True)]
