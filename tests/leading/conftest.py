"""A cache on which a run takes milliseconds: the one that the grids' tests have."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "grids"))  # helper modules of other tests

import grids_for_tests

from embedcal.cache import FeatureCache, open_cache


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """240 rows of 16 features, two classes, two places, no text."""
    return grids_for_tests.make_cache(tmp_path_factory.mktemp("made") / "made.h5")


@pytest.fixture
def cache(made: Path) -> Iterator[FeatureCache]:
    with open_cache(made) as opened:
        yield opened


@pytest.fixture
def photos(birds: Path) -> Iterator[FeatureCache]:
    """The tiny CLIP's cache: text, a projection, both levels."""
    with open_cache(birds) as opened:
        yield opened
