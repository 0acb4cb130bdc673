"""One small world, as arrays and as a cache."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))  # the helper module beside the tests

from feature_worlds import CLASSES, PLACES, ROWS, WIDTH, World

from embedcal.cache.importing import Names, Text, import_features
from embedcal.types import TextBank


@pytest.fixture
def world() -> World:
    rng = np.random.default_rng(0)
    y, place = np.arange(ROWS) // 3 % 2, rng.integers(-1, 2, ROWS)
    features = rng.normal(size=(ROWS, WIDTH)).astype(np.float32)
    features[:, 0] += 4 * y
    return World(
        features, y, np.arange(ROWS) % 3, place,
        tuple(f"{i:04d}" for i in range(ROWS)), tuple(f"vögel/{i:04d}.jpg" for i in range(ROWS)),
    )  # fmt: skip


@pytest.fixture
def cache_of(world: World, tmp_path: Path) -> Callable[..., Path]:
    """Make the world's cache, of any type of features, with text or without."""

    def make(dtype: str = "float32", *, text: bool = True, name: str = "world") -> Path:
        rng = np.random.default_rng(1)
        templates = ("a photo of a {}.", "{}")
        banks = tuple(
            TextBank(
                name=bank, prompts=prompts, templates=templates,
                embedding=rng.normal(size=(len(prompts), 2, WIDTH)).astype("f4"),
            )
            for bank, prompts in (("class", CLASSES), ("attribute", PLACES))
        )  # fmt: skip
        return import_features(
            world.features.astype(dtype), world.y, world.split, {"place": world.place},
            names=Names(
                dataset=name, ids=world.ids, paths=world.paths, classes=CLASSES,
                values={"place": PLACES},
            ),
            text=Text(banks=banks, logit_scale=4.6) if text else None,
            out=tmp_path / f"{name}-{dtype}.h5",
        )  # fmt: skip

    return make
