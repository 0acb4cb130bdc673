"""A leaderboard: every method over one cache, chosen by a named rule, within its label budget."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from embedcal.leading.board import Leaderboard as Leaderboard
    from embedcal.leading.board import leaderboard as leaderboard
    from embedcal.leading.standings import Standing as Standing

_HOMES = {"Leaderboard": "board", "Standing": "standings", "leaderboard": "board"}

__all__ = [*_HOMES]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"embedcal.leading.{_HOMES[name]}"), name)
