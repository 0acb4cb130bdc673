"""A small cache without text, of rows whose paths and ids are known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from embedcal.cache import import_features
from embedcal.cache.importing import Names


def small_cache(out: Path, seed: int = 0) -> Path:
    rng = np.random.default_rng(seed)
    return import_features(
        rng.normal(size=(12, 4)).astype(np.float32),
        np.arange(12) % 2,
        np.arange(12) % 3,
        {"place": np.arange(12) % 2},
        names=Names(dataset="small", ids=tuple(f"row{i}" for i in range(12))),
        out=out,
    )


@pytest.fixture
def small(tmp_path):
    import embedcal

    with embedcal.open(small_cache(tmp_path / "small.h5")) as opened:
        yield opened
