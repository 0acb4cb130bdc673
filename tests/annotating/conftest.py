"""A cache without text whose rows are known, the same with every label of its own, and birds."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from embedcal.cache import FeatureCache, Names, import_features, open_cache

ROWS = 240
VALUES = {"place": ("land", "sea"), "fog": ("no fog", "fog"), "water": ("no water", "water")}


def labels_of(name: str) -> np.ndarray:
    """Labels (N,) of 1, 0 and -1 as a detector might find them; not the place, but near it."""
    rng = np.random.default_rng(sorted(VALUES).index(name))
    found = np.where(rng.random(ROWS) < 0.8, place(), 1 - place())
    found[rng.random(ROWS) < 0.1] = -1
    return found


def place() -> np.ndarray:
    return np.random.default_rng(3).integers(0, 2, ROWS)


def made_cache(path: Path, *names: str, seed: int = 3) -> Path:
    """Two classes; attributes of its own: the place, and those named."""
    rng = np.random.default_rng(seed)
    y = rng.permutation(ROWS) % 2
    x = rng.normal(size=(ROWS, 6)).astype(np.float32)
    x[:, 0] += 2 * y
    x[:, 1] += 2 * place()
    labels = {"place": place(), **{name: labels_of(name) for name in names}}
    values = {name: VALUES[name] for name in labels}
    split = np.arange(ROWS) % 3
    ids = tuple(f"row{i}" for i in range(ROWS))
    known = Names(dataset="made", classes=("crow", "duck"), values=values, ids=ids)
    return import_features(x, y, split, labels, names=known, out=path)


@pytest.fixture
def made(tmp_path: Path) -> Iterator[FeatureCache]:
    with open_cache(made_cache(tmp_path / "made.h5")) as cache:
        yield cache


@pytest.fixture
def whole(tmp_path: Path) -> Iterator[FeatureCache]:
    """The same rows with fog and water among the cache's own labels."""
    with open_cache(made_cache(tmp_path / "whole.h5", "fog", "water")) as cache:
        yield cache


@pytest.fixture
def flock(birds: Path, tmp_path: Path) -> Iterator[FeatureCache]:
    """A copy of the birds, since what is annotated lies beside a cache."""
    with open_cache(shutil.copy(birds, tmp_path / "flock.h5")) as cache:
        yield cache
