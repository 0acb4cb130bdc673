"""Bounds of a method's options, and what an error says to take instead."""

from __future__ import annotations

import math
from dataclasses import Field, fields
from functools import cache
from typing import TYPE_CHECKING, Any, get_args

from embedcal.errors import EmbedcalError

if TYPE_CHECKING:
    from embedcal.methods.base import Method


SAID = {float: "a number", int: "a whole number", bool: "true or false", str: "text"}


def held(method: Method, item: Field[Any], hint: Any) -> Any:
    """The value of an option as a method keeps it: of its type, and every number finite.

    A whole number that stands for a float becomes one, so that equal options are written alike.
    EmbedcalError for a value that is not of the option's type.
    """
    value = getattr(method, item.name)
    if not _admits(hint, value):
        raise _refused(method, item, f"to be {_said(hint)}", value)
    try:
        kept = _as_meant(hint, value)
        numbers = kept if isinstance(kept, tuple) else (kept,)
        finite = all(math.isfinite(each) for each in numbers if isinstance(each, float))
    except OverflowError:  # a whole number beyond every float
        finite = False
    if not finite:
        raise _refused(method, item, "to be finite", value)
    return kept


def _said(hint: Any) -> str:
    inner = _items(hint)
    if inner is not None:
        return f"a list, each item {SAID.get(inner, inner)}"
    return SAID.get(hint, str(hint))


def _refused(method: Method, item: Field[Any], expected: str, value: Any) -> EmbedcalError:
    return EmbedcalError(
        f"expected --{item.name.replace('_', '-')} of {method.name} {expected}, found "
        f"{value!r:.60}: give, say, {item.default!r}, the default"
    )


def _admits(hint: Any, value: Any) -> bool:
    """Whether a value is of an option's type; an int is a float, a bool is neither."""
    inner = _items(hint)
    if inner is not None:
        return isinstance(value, tuple) and all(_admits(inner, each) for each in value)
    kinds = _kinds(hint)
    return type(value) in kinds or (
        isinstance(value, kinds)
        and not (isinstance(value, bool) and (int in kinds or float in kinds))
    )


def _as_meant(hint: Any, value: Any) -> Any:
    """A value that is admitted, with every int a float where only floats are meant."""
    inner = _items(hint)
    if inner is not None:
        return tuple(_as_meant(inner, each) for each in value)
    own = get_args(hint) or (hint,)
    stands_in = float in own and int not in own and not isinstance(value, bool)
    return float(value) if stands_in and isinstance(value, int) else value


@cache
def _items(hint: Any) -> Any:
    """The type of a tuple's items, where the hint is a tuple of any length; else None."""
    if getattr(hint, "__origin__", None) is not tuple:
        return None
    return get_args(hint)[0]


@cache
def _kinds(hint: Any) -> tuple[type, ...]:
    """The types that an option of this hint may have."""
    kinds = get_args(hint) or (hint,)
    return (*kinds, int) if float in kinds else kinds


def at_least(method: Method, **bounds: float) -> None:
    """EmbedcalError for an option, by name, that is below its bound."""
    for name, least in bounds.items():
        value = getattr(method, name)
        if value < least:
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
