"""Files that belong to a cache and lie beside it, in a folder named after it."""

from __future__ import annotations

import hashlib
import os
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np

from embedcal.atomic import atomic
from embedcal.cache import FeatureCache
from embedcal.cache.format import canonical
from embedcal.datasets.places import data_dir


def folders(cache: FeatureCache) -> tuple[Path, Path]:
    """Where files of a cache may lie: in the user's data directory, and beside the cache.

    The first is for a cache in a folder that this user may not write to, as on a shared disk, and
    is named after the cache and its identity. Neither need exist.
    """
    path = cache.meta.path
    own = data_dir() / "beside" / f"{path.stem}-{cache.meta.identity[:10]}"
    return own, path.with_suffix(".beside")


def beside(cache: FeatureCache, name: str) -> Path:
    """Where a file of a cache is written: in ``CACHE.beside`` next to ``CACHE.h5``.

    In the user's data directory where it cannot be there, and where the user has one of that name
    already, since that is the one that is read.
    """
    own, common = (folder / name for folder in folders(cache))
    return common if not own.exists() and _writable(common) else own


def kept(cache: FeatureCache, name: str) -> Path:
    """Where a file of a cache is read: the user's own before that beside the cache.

    The place to write it where there is none.
    """
    found = (folder / name for folder in folders(cache))
    return next((path for path in found if os.access(path, os.R_OK)), beside(cache, name))


def _writable(path: Path) -> bool:
    """Whether a file may be written, or made with the folders above it."""
    above = next(folder for folder in path.parents if os.access(folder, os.F_OK))
    return os.access(above, os.W_OK)


def digest(content: Any) -> str:
    """Twelve hex digits of the SHA-256 of JSON-able content."""
    return hashlib.sha256(canonical(content).encode()).hexdigest()[:12]


def rows_digest(cache: FeatureCache) -> str:
    """What the rows of a cache are: their ids and the bytes of their images, in order."""
    state = hashlib.sha256(canonical(list(cache.samples.ids)).encode())
    state.update(np.ascontiguousarray(cache.meta.ingredients.rows).tobytes())
    return state.hexdigest()


def keeping(path: Path) -> AbstractContextManager[Path]:
    """Where to write what becomes ``path``, a file beside a cache, when the block ends."""
    return atomic(path, parents=True, otherwise="copy the cache to a folder of your own")
