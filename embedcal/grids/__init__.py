"""Grids: hundreds of runs over one cache, resumed by the same command, shared by processes.

Names are loaded when first used: to read a folder of runs needs no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from embedcal.grids.engines import ENGINES as ENGINES
    from embedcal.grids.merging import Merged as Merged
    from embedcal.grids.merging import merge as merge
    from embedcal.grids.results import Results as Results
    from embedcal.grids.results import load as load
    from embedcal.grids.running import Grid as Grid
    from embedcal.grids.running import Tally as Tally
    from embedcal.grids.running import grid as grid
    from embedcal.grids.running import seeds_of as seeds_of
    from embedcal.grids.running import spaces_of as spaces_of
    from embedcal.grids.settings import Range as Range
    from embedcal.grids.settings import Setting as Setting
    from embedcal.grids.settings import Space as Space
    from embedcal.grids.settings import parse as parse
    from embedcal.grids.settings import read_grid as read_grid
    from embedcal.grids.settings import space as space

_HOMES = {
    "ENGINES": "engines",
    "Grid": "running",
    "Merged": "merging",
    "Range": "settings",
    "Results": "results",
    "Setting": "settings",
    "Space": "settings",
    "Tally": "running",
    "grid": "running",
    "load": "results",
    "merge": "merging",
    "parse": "settings",
    "read_grid": "settings",
    "seeds_of": "running",
    "space": "settings",
    "spaces_of": "running",
}

__all__ = [*_HOMES]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"embedcal.grids.{_HOMES[name]}"), name)
