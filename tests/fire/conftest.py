"""What every test of this folder may use: the encoder and the images of the cache's own tests."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # helper modules beside the tests
sys.path.insert(0, str(Path(__file__).parent.parent / "cache"))

from encoders_for_tests import OPTIONS, NumpyEncoder, make_images, make_manifest

from embedcal.cache import BuildOptions, build_cache


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished cache of 24 rows; copy it before changing it. Its images lie beside it."""
    folder = tmp_path_factory.mktemp("fire")
    manifest = make_manifest(folder / "images", make_images(folder / "images", 24))
    options = BuildOptions(out=folder / "cache.h5", **OPTIONS)
    return build_cache(manifest, NumpyEncoder(), options=options).path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Forty images."""
    make_images(tmp_path / "images", 40)
    return tmp_path / "images"
