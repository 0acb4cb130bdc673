"""Features and labels as a file has them: what a reader gives, and what a cache is made of."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from embedcal.cache.importing import feature_parts
from embedcal.datasets.printable import printable
from embedcal.datasets.table import Table
from embedcal.interchange.description import Description
from embedcal.types import SPLITS, EmbedcalError, FloatArray, IntArray, TextBank


@dataclass(frozen=True, kw_only=True)
class Found:
    """A file of features before its labels are looked at.

    ``parts`` are arrays (n_i, d) whose rows follow each other, mapped where the file allows it.
    ``names`` are the file's other arrays, which ``load`` reads; ``table`` its columns of text, a
    row a row of features. ``ids`` and ``paths`` may be empty. ``keys`` are the headers by which
    another table may speak of the ids, best first.
    """

    source: Path
    parts: tuple[FloatArray, ...]
    names: tuple[str, ...] = ()
    load: Callable[[str], Any] = lambda name: None
    table: Table | None = None
    ids: tuple[str, ...] = ()
    paths: tuple[str, ...] = ()
    keys: tuple[str, ...] = ("id",)
    description: Description = field(default_factory=Description)

    def __len__(self) -> int:
        return sum(map(len, self.parts))

    @property
    def shown(self) -> str:
        """The file's name as a message has it."""
        return printable(str(self.source), longest=300)


@dataclass(frozen=True, kw_only=True)
class Imported:
    """n rows of features with their labels, checked against each other.

    ``y`` (n,) are classes from 0, ``split`` (n,) 0, 1, 2 for train, val, test, ``attributes`` map
    a name to values (n,), -1 where unknown. ``ids`` and ``paths`` are empty where the file has
    none, ``classes`` and ``values`` where it has only numbers. Whether the features are finite is
    looked at when a cache is made of them, in the pass that hashes them.
    """

    source: Path
    parts: tuple[FloatArray, ...]  # (n_i, d), rows one after the other
    y: IntArray
    split: IntArray
    attributes: Mapping[str, IntArray]
    ids: tuple[str, ...] = ()
    paths: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()
    values: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    banks: tuple[TextBank, ...] = ()
    logit_scale: float | None = None
    dataset: str = ""
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        feature_parts(self.parts)
        n, shown = len(self), printable(str(self.source), longest=300)
        lengths = {"y": len(self.y), "split": len(self.split), "ids": len(self.ids or range(n))}
        lengths |= {"paths": len(self.paths or range(n))}
        lengths |= {name: len(labels) for name, labels in self.attributes.items()}
        for name, length in lengths.items():
            if length != n:
                raise EmbedcalError(
                    f"expected {n} rows in {printable(name)}, one for each row of features, found "
                    f"{length} in {shown}: give every column the same length"
                )
        ranges = [("y", self.y, 0, len(self.classes)), ("split", self.split, 0, len(SPLITS))]
        ranges += [(k, v, -1, len(self.values.get(k, ()))) for k, v in self.attributes.items()]
        for name, codes, least, end in ranges:
            wrong = (codes < least) | ((codes >= end) if end else np.False_)
            if wrong.any():
                row = int(np.argmax(wrong))
                most = f" to {end - 1}" if end else " on"
                raise EmbedcalError(
                    f"expected {printable(name)} from {least}{most}, found {codes[row]} in row "
                    f"{row} of {shown}: correct the codes or add names"
                )
        if len(set(self.ids)) < len(self.ids):
            first = {name: row for row, name in reversed(list(enumerate(self.ids)))}
            row = next(row for row, name in enumerate(self.ids) if first[name] != row)
            raise EmbedcalError(
                f"expected distinct ids, found '{printable(self.ids[row])}' again in row {row} of "
                f"{shown}: give each row its own"
            )

    def __len__(self) -> int:
        return sum(map(len, self.parts))

    @cached_property
    def features(self) -> FloatArray:
        """Features (n, d); the mapped array itself where there is one part."""
        return self.parts[0] if len(self.parts) == 1 else np.concatenate(self.parts)
