"""What a study leaves: its rows for each cache, what was found in words, figures, and its cost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from embedcal.comparing.recorded import plain
from embedcal.studies.rows import Row


@dataclass(frozen=True, kw_only=True)
class Block:
    """The rows of a study over one cache.

    ``metrics`` are the names of their scores, the first the one that is compared in words.
    ``found`` are sentences made from the rows' numbers; ``notes`` what was left out or failed.
    """

    cache: Path
    fingerprint: str
    dataset: str
    backbone: str
    attributes: tuple[str, ...]
    rule: str
    test_rows: int
    metrics: tuple[str, ...]
    rows: tuple[Row, ...]
    found: tuple[str, ...]
    notes: tuple[str, ...]
    figures: tuple[Path, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Cost:
    """``run_seconds`` is the sum over all runs and their first stages, reused ones as they took
    when they were done; ``wall_seconds`` what this command took."""

    runs: int
    reused: int
    failed: int
    run_seconds: float
    wall_seconds: float


@dataclass(frozen=True, kw_only=True)
class Study:
    """A study that was run; ``found`` is what can be said over all of its caches."""

    name: str
    title: str
    question: str
    quick: bool
    folder: Path
    seeds: tuple[int, ...]
    blocks: tuple[Block, ...]
    found: tuple[str, ...]
    cost: Cost

    @property
    def record(self) -> dict[str, Any]:
        """As JSON holds it: fractions, null for what is not a number, paths as text."""
        found: dict[str, Any] = plain(_texts(asdict(self)))
        return found


def _texts(value: Any) -> Any:
    """Paths as text."""
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        return {key: _texts(inner) for key, inner in value.items()}
    if isinstance(value, tuple | list):
        return tuple(_texts(inner) for inner in value)
    return value
