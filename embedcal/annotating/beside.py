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


def beside(cache: FeatureCache) -> Path:
    """``CACHE.beside`` next to ``CACHE.h5``; it may not exist yet.

    Where the cache's folder cannot be written to, as on a shared disk, the folder is one of the
    same name and the cache's identity in the user's data directory.
    """
    own = cache.meta.path.with_suffix(".beside")
    if own.is_dir() or os.access(own.parent, os.W_OK):
        return own
    return data_dir() / "beside" / f"{own.stem}-{cache.meta.identity[:10]}"


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
