"""Bounds of a method's options, and what an error says to take instead."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING

from embedcal.errors import EmbedcalError

if TYPE_CHECKING:
    from embedcal.methods.base import Method


def at_least(method: Method, **bounds: float) -> None:
    """EmbedcalError for an option, by name, that is below its bound or NaN."""
    for name, least in bounds.items():
        value = getattr(method, name)
        if not value >= least:
            raise EmbedcalError(
                f"expected --{name.replace('_', '-')} of {least} or more, found {value}: "
                f"{defaults(method, name)}"
            )


def defaults(method: Method, *names: str) -> str:
    """What to do about options that cannot be taken: their defaults, which can."""
    known = {item.name: item.default for item in fields(method)}
    *others, last = (f"{known[name]:g}" for name in names)
    if not others:
        return f"take {last}, the default of {method.name}"
    return f"take {', '.join(others)} and {last}, the defaults of {method.name}"
