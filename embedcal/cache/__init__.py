"""One HDF5 file with everything that a head could want, and the promise that it stays whole.

Names are loaded when first used, so that importing this package does not load h5py.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from embedcal.cache.build import BuildReport as BuildReport
    from embedcal.cache.build import build_cache as build_cache
    from embedcal.cache.encoding import BuildOptions as BuildOptions
    from embedcal.cache.identity import Identity as Identity
    from embedcal.cache.identity import explain_miss as explain_miss
    from embedcal.cache.importing import Names as Names
    from embedcal.cache.importing import import_features as import_features
    from embedcal.cache.merging import Joined as Joined
    from embedcal.cache.merging import join_shards as join_shards
    from embedcal.cache.meta import CacheMeta as CacheMeta
    from embedcal.cache.verification import Verification as Verification
    from embedcal.cache.verification import verify as verify
    from embedcal.cache.view import FeatureCache as FeatureCache
    from embedcal.cache.view import Samples as Samples
    from embedcal.cache.view import open_cache as open_cache
    from embedcal.cache.writer import CacheWriter as CacheWriter

_HOMES = {
    "BuildOptions": "encoding",
    "BuildReport": "build",
    "CacheMeta": "meta",
    "CacheWriter": "writer",
    "FeatureCache": "view",
    "Identity": "identity",
    "Joined": "merging",
    "Names": "importing",
    "Samples": "view",
    "Verification": "verification",
    "build_cache": "build",
    "explain_miss": "identity",
    "import_features": "importing",
    "join_shards": "merging",
    "open_cache": "view",
    "verify": "verification",
}

__all__ = [*_HOMES]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


class _Callable(ModuleType):
    """``embedcal.cache`` is this package, and what the command of the same name does.

    Python binds a package's name in its parent whenever it is imported, so a function of that
    name could not stand beside it; a module's class may be replaced (the data model's own way).
    """

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return import_module("embedcal.caching").cache(*args, **kwargs)


sys.modules[__name__].__class__ = _Callable
