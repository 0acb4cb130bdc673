"""Faults found in a table, gathered so that one message can name them all."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from embedcal.datasets.printable import printable
from embedcal.types import EmbedcalError

MOST_SHOWN = 5


@dataclass(frozen=True)
class Problem:
    """One kind of fault, with the first few places where it was met and how many there are."""

    kind: str
    places: tuple[str, ...] = ()
    count: int = 0

    @classmethod
    def at(cls, kind: str, rows: Iterable[int], show: Callable[[int], str]) -> Problem:
        """The fault ``kind`` in ``rows``; ``show(row)`` says where a row is and what is in it."""
        rows = list(rows)
        return cls(kind, tuple(show(row) for row in rows[:MOST_SHOWN]), len(rows))

    def __str__(self) -> str:
        if not self.places:
            return self.kind
        more = self.count - len(self.places)
        tail = f" and {more:,} more" if more else ""
        return f"{self.kind}: {', '.join(self.places)}{tail}"


def raise_any(source: str, problems: Sequence[Problem]) -> None:
    """Raise one ``EmbedcalError`` that names every problem; nothing happens without any."""
    if not problems:
        return
    listed = "; ".join(f"({i}) {problem}" for i, problem in enumerate(problems, 1))
    raise EmbedcalError(
        f"expected a table without faults, found {len(problems)} "
        f"kind{'s' if len(problems) > 1 else ''} of fault in {printable(source, longest=300)}: "
        f"{listed}; mend them and run again: nothing was encoded"
    )
