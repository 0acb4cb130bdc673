"""Features in from, and out to, the files that other tools read and write.

Names are loaded when first used, so that importing this package loads neither NumPy nor h5py.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from embedcal.interchange.exporting import EXPORTS as EXPORTS
    from embedcal.interchange.exporting import export_features as export_features
    from embedcal.interchange.imported import Imported as Imported
    from embedcal.interchange.importing import IMPORTS as IMPORTS
    from embedcal.interchange.importing import import_from as import_from
    from embedcal.interchange.importing import read_features as read_features
    from embedcal.interchange.predictions import find_run as find_run

_HOMES = {
    "EXPORTS": "exporting",
    "IMPORTS": "importing",
    "Imported": "imported",
    "export_features": "exporting",
    "find_run": "predictions",
    "import_from": "importing",
    "read_features": "importing",
}

__all__ = [*_HOMES]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value
