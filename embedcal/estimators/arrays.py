"""Arrays in memory as the workbench that methods are given their tasks from.

Groups are classes beside labels: the numbers of a label's values, as an attribute's. Where every
label belongs to one class, as groups g = y * A + a do, it is numbered within its class, so that
groups and the attribute that they come from are the same task.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn, cast

import numpy as np
import numpy.typing as npt

from embedcal.cache import FeatureCache
from embedcal.evaluate.labels import Labels
from embedcal.methods.base import Offer
from embedcal.types import EmbedcalError, Examples, FloatArray, IntArray, Level, Split
from embedcal.workbench import Workbench

LEVEL: Level = "embedding"
OFFER = Offer(levels=frozenset({LEVEL}), banks=frozenset(), projection=False, attributes=True)


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Rows of features (n, d) with their classes (n,), and attribute values (n,) or -1."""

    x: FloatArray
    y: IntArray
    a: IntArray

    def __getitem__(self, index: IntArray) -> Rows:
        return Rows(x=self.x[index], y=self.y[index], a=self.a[index])

    def examples(self, split: Split, n_attributes: int) -> Examples:
        """All that is known of these rows, as one split."""
        arrays: dict[str, npt.NDArray[Any]] = {"x": self.x, "y": self.y}
        if (self.a >= 0).any():
            g = np.where(self.a >= 0, self.y * n_attributes + self.a, -1)
            arrays |= {"a": self.a, "g": g}
        return Examples(split=split, arrays=arrays)


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What a workbench asks of a cache's facts: one level, one attribute, and what to call it."""

    path: Path = Path("the arrays")
    levels: Mapping[str, str] = field(default_factory=lambda: {LEVEL: "float32"})
    attributes: tuple[tuple[str, tuple[str, ...]], ...] = (("group", ()),)

    def chosen(self, attribute: object) -> tuple[str, ...]:
        return tuple(name for name, _ in self.attributes)


@dataclass(frozen=True, kw_only=True)
class Arrays:
    """Stands where a cache stands: features at one level, no text, no projection, no test."""

    n_classes: int
    values: int
    splits: Mapping[Split, Examples]
    meta: Facts = field(default_factory=Facts)
    banks: tuple[str, ...] = ()
    inferred: Mapping[str, str] = field(default_factory=dict)
    prompts: Mapping[str, Any] = field(default_factory=dict)
    logit_scale: float | None = None

    def n_attributes(self, attribute: object = None) -> int:
        return self.values

    def has_groups(self, name: Split, attribute: object = None) -> bool:
        return name in self.splits and "g" in self.splits[name]

    def projection(self) -> None:
        return None

    def split(self, name: Split, level: Level = LEVEL, attribute: object = None) -> NoReturn:
        raise EmbedcalError(
            f"expected a method that reads X alone, found one that reads {name} at the level "
            f"{level}: fit it over a cache with embedcal.fit"
        )


def workbench(train: Rows, val: Rows, n_classes: int) -> Workbench:
    """Two splits in memory as a workbench; there is no test split in it."""
    values = max(int(train.a.max(initial=0)), int(val.a.max(initial=0))) + 1
    splits: dict[Split, Examples] = {
        "train": train.examples("train", values),
        "val": val.examples("val", values),
    }
    arrays = Arrays(n_classes=n_classes, values=values, splits=splits)
    on = Workbench(cast("FeatureCache", arrays))
    on.lend({(split, LEVEL): found for split, found in splits.items()})
    return on


def attribute_of(y: IntArray, groups: Labels) -> IntArray:
    """Attribute values (n,) from 0, -1 where unknown, of rows with classes y (n,) and groups."""
    codes, known = groups.codes, groups.codes >= 0
    pairs = np.unique(np.stack([codes[known], y[known]], axis=1), axis=0)  # (group, class)
    if len(np.unique(pairs[:, 0])) < len(pairs):  # a group of several classes
        return codes
    within = np.zeros(len(groups.values), np.int64)
    for label in np.unique(pairs[:, 1]):
        own = pairs[pairs[:, 1] == label, 0]
        within[own] = np.arange(len(own))
    return np.where(known, within[codes], -1) if len(within) else codes
