"""One copy of the features for many processes: arrays in files that each of them maps."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from embedcal.cache import FeatureCache
from embedcal.methods.base import Method
from embedcal.types import LEVELS, SPLITS, Examples, Level, Split
from embedcal.workbench import Workbench

INDEX = "index.json"
Shared = Mapping[tuple[Split, Level], Mapping[str, Any]]


def levels_of(methods: Iterable[Method], on: Workbench) -> tuple[Level, ...]:
    """The levels in memory that these methods read; what stays in the file does so for everyone."""
    found: set[str] = set()
    for method in methods:
        found |= {method.level, *(need.partition(".")[2] for need in method.needs)}
    if "tokens" in found:  # their labels come with another level
        found.add("embedding" if "embedding" in on.cache.meta.levels else "pooled")
    held = found - {"tokens"}
    return tuple(level for level in LEVELS if level in held and not on.streams(level))


def gather(on: Workbench, levels: Iterable[Level]) -> Shared:
    """Every array of every split at some levels, by split and level."""
    return {(split, level): on.split(split, level).arrays for level in levels for split in SPLITS}


def write(shared: Shared, folder: Path) -> None:
    """Write the arrays into a folder, one file each."""
    index: list[list[str]] = []
    for (split, level), arrays in shared.items():
        for name, array in arrays.items():
            np.save(folder / f"{split}-{level}-{name}.npy", array, allow_pickle=False)
            index.append([split, level, name])
    (folder / INDEX).write_text(json.dumps(index))


def mapped(folder: Path) -> Shared:
    """The arrays of a folder, mapped: pages are shared with whoever else maps them."""
    found: dict[Any, dict[str, Any]] = {}
    for split, level, name in json.loads((folder / INDEX).read_text()):
        array = np.load(folder / f"{split}-{level}-{name}.npy", mmap_mode="r", allow_pickle=False)
        found.setdefault((split, level), {})[name] = array
    return found


def workbench(
    cache: FeatureCache, attributes: Sequence[str], shared: Shared, memory: int | None = None
) -> Workbench:
    """A workbench that reads these arrays instead of the cache's own."""
    on = Workbench(cache, attributes, memory)
    on.lend({key: Examples(split=key[0], arrays=arrays) for key, arrays in shared.items()})
    return on
