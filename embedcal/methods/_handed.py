"""What a method is handed by the run before it, and what it hands on beside its head."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from embedcal.heads import Head
from embedcal.types import IntArray, Split


@dataclass(frozen=True, kw_only=True)
class Stage:
    """The run that a method starts from: another method, fitted first with the same seed.

    It is stored under its own id and shared by all that ask for the same one; what it looks at
    belongs to the labels used. ``select`` is the rule that chooses its head.
    """

    method: str
    options: Mapping[str, Any]
    select: str


@dataclass(frozen=True, kw_only=True)
class Staged:
    """What a finished stage hands on."""

    head: Head
    logits: Tensor  # (n, C) of the training rows that the method sees


@dataclass(frozen=True, kw_only=True)
class Marks:
    """Rows that a method took for rare without being told which are: what it found by itself.

    ``rows`` (m,) and ``among`` (k,), those that it chose from (None: all), are positions in a split
    as the method sees it. Whoever runs it judges them by groups that it need not see itself.
    """

    split: Split
    rows: IntArray
    among: IntArray | None = None


@dataclass(frozen=True, kw_only=True)
class Solved:
    """What a solver gives: its head, and the rows that it took for rare, if it looks for them."""

    head: Head
    marks: Marks | None = None
