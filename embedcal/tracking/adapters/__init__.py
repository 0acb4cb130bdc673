"""Adapters, one file each: a file's name is what ``--to`` takes. Nothing else is edited for one."""

from __future__ import annotations

import pkgutil
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from embedcal.datasets.printable import printable
from embedcal.errors import did_you_mean
from embedcal.tracking.adapters.base import Tracker
from embedcal.types import EmbedcalError

__all__ = ["Tracker", "names", "open_tracker"]


def names() -> list[str]:
    """Every tracker's name; nothing is imported for it."""
    return sorted(m.name for m in pkgutil.iter_modules(__path__) if m.name != "base")


def open_tracker(name: str, project: str, out: Path | None) -> Tracker:
    """The tracker of that name, ready to take runs; at ``out``, or where the tracker itself looks.

    EmbedcalError for an unknown name, and where its package is not installed.
    """
    if name not in names():
        hint = did_you_mean(name, names(), "tensorboard needs no account")
        raise EmbedcalError(
            f"expected --to to be one of {', '.join(names())}, found '{printable(name)}': {hint}"
        )
    adapter: type[Tracker] = import_module(f"{__name__}.{name}").Adapter
    missing = [package for package in adapter.packages if find_spec(package) is None]
    if missing:
        raise EmbedcalError(
            f"expected {' and '.join(missing)} for --to {name}, found "
            f"{'it' if len(missing) == 1 else 'them'} not installed: pip install 'embedcal[{name}]'"
        )
    return adapter(project, out)
