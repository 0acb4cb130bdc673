"""A study cut to a cache: what it cannot have there, or would only repeat, is left out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from embedcal.datasets.printable import printable
from embedcal.fitting import configure
from embedcal.grids import Space
from embedcal.studies.preset import Preset
from embedcal.types import EmbedcalError
from embedcal.workbench import Workbench

QUICK_EPOCHS = 2


def cut(chosen: Preset, on: Workbench) -> tuple[Preset, tuple[str, ...]]:
    """The study for this cache, and a line on each thing that was left out.

    Numbers of templates and of rows to calibrate that the cache does not have would be all of
    them once more. Studies of every method do without those that the cache is not for.
    """
    spaces, notes = [], []
    for space in chosen.spaces:
        for name, most, what in _limits(space, on):
            values = space.axes[name]
            assert isinstance(values, tuple)
            kept = tuple(value for value in values if value < most)
            if kept != values:
                notes.append(f"{space.method}: there are {most} {what}, no more are tried")
            space = replace(space, axes={**space.axes, name: kept})
        if chosen.every:
            try:
                for setting in space.product():
                    configure(setting.method, setting.options).resolve(on.offer)
            except EmbedcalError as error:
                notes.append(f"{space.method} left out: {error}")
                continue
        spaces.append(space)
    lines = tuple(printable(note, longest=400) for note in dict.fromkeys(notes))
    return replace(chosen, spaces=tuple(spaces)), lines


def _limits(space: Space, on: Workbench) -> list[tuple[str, int, str]]:
    """Options whose values are counts of something, 0 for all: how many of it there are."""
    found = []
    if isinstance(space.axes.get("templates"), tuple):
        found.append(("templates", len(on.cache.meta.templates), "templates"))
    if isinstance(space.axes.get("calibration_size"), tuple):
        first = {name: axis[0] for name, axis in space.axes.items() if isinstance(axis, tuple)}
        rows = _calibration_rows({**first, "calibration_size": 0}, on)
        if rows is not None:
            found.append(("calibration_size", rows, "rows to calibrate"))
    return found


def _calibration_rows(options: Mapping[str, Any], on: Workbench) -> int | None:
    """Rows of the whole calibration set; None where a first run has to be done to know."""
    from embedcal.methods.cfr import CFR

    method = configure("cfr", options).resolve(on.offer)
    assert isinstance(method, CFR)
    if method.stage is not None:
        return None
    return len(method.calibration_rows(on.task(method), seed=0))


def short(space: Space) -> Space:
    """The same runs with two epochs, where there are epochs."""
    from embedcal.methods import find
    from embedcal.methods.base import Gradient

    if not issubclass(find(space.method), Gradient):
        return space
    return replace(space, axes={**space.axes, "epochs": (QUICK_EPOCHS,)})
