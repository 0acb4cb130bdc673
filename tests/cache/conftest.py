"""Real PNG files, a NumPy encoder, and one small finished cache for whoever damages files."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # helper modules beside the tests

from encoders_for_tests import OPTIONS, NumpyEncoder, make_images, make_manifest

from embedcal.cache import BuildOptions, build_cache
from embedcal.datasets.manifest import Manifest


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    """37 images, of which one is no image and one is missing."""
    root = tmp_path / "images"
    paths = make_images(root, 37)
    (root / paths[5]).write_bytes(b"not an image")
    (root / paths[20]).unlink()
    return make_manifest(root, paths)


@pytest.fixture
def encoder() -> NumpyEncoder:
    return NumpyEncoder()


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished cache; copy it before changing it."""
    folder = tmp_path_factory.mktemp("finished")
    manifest = make_manifest(folder / "images", make_images(folder / "images", 24))
    options = BuildOptions(out=folder / "cache.h5", **OPTIONS)
    return build_cache(manifest, NumpyEncoder(), options=options).path
