"""Columns of text that lie in a file, of which one block of rows at a time is in memory."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, overload

import numpy as np

from embedcal.datasets.scratch import Scratch

ROWS = 4096  # of a block; a column of fewer rows is a tuple


class StoredText(Sequence[str]):
    """A column made by ``TextWriter``. Row by row in order, each block is read once.

    It equals any sequence of the same texts, and is pickled as a tuple.
    """

    def __init__(
        self, scratch: Scratch, places: Sequence[tuple[int, int]], *, length: int, rows: int
    ) -> None:
        self._scratch, self._places = scratch, places
        self._length, self._rows = length, rows
        self._last: tuple[int, list[str]] = (-1, [])  # replaced as one, for the sake of threads

    def __len__(self) -> int:
        return self._length

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[str, ...]: ...
    def __getitem__(self, index: int | slice) -> str | tuple[str, ...]:
        if isinstance(index, slice):
            return tuple(self[row] for row in range(*index.indices(self._length)))
        row = operator.index(index)
        row += self._length if row < 0 else 0
        if not 0 <= row < self._length:
            raise IndexError(f"row {index} of {self._length}")
        number, at = divmod(row, self._rows)
        known, cells = self._last
        if known != number:
            cells = self._block(number)
            self._last = (number, cells)
        return cells[at]

    def __iter__(self) -> Iterator[str]:
        for number in range(len(self._places)):
            yield from self._block(number)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence) or isinstance(other, str):
            return NotImplemented
        return len(self) == len(other) and all(map(operator.eq, self, other))

    __hash__ = None  # type: ignore[assignment]

    def __reduce__(self) -> tuple[Any, ...]:
        return tuple, (tuple(self),)

    def _block(self, number: int) -> list[str]:
        count = min(self._rows, self._length - number * self._rows)
        start, size = self._places[number]
        if not size:
            return [""] * count
        raw = self._scratch.read(start, size)
        ends = np.frombuffer(raw, "<u8", count).tolist()
        text = raw[8 * count :].decode("utf-8", "surrogatepass")
        return [text[a:b] for a, b in zip([0, *ends[:-1]], ends, strict=True)]


class TextWriter:
    """Takes a column cell by cell; ``done`` gives a tuple of few rows, else a ``StoredText``."""

    def __init__(self, scratch: Scratch) -> None:
        self._scratch, self._rows = scratch, ROWS
        self._places: list[tuple[int, int]] = []
        self._cells: list[str] = []

    def __len__(self) -> int:
        return len(self._places) * self._rows + len(self._cells)

    def add(self, cell: str) -> None:
        self._cells.append(cell)
        if len(self._cells) == self._rows:
            self._write()

    def extend(self, cells: Iterable[str]) -> None:
        for cell in cells:
            self.add(cell)

    def pad(self, length: int) -> None:
        """Blank cells up to ``length`` rows."""
        while len(self) < length:
            self.add("")

    def done(self) -> Sequence[str]:
        if not self._places:
            return tuple(self._cells)
        length = len(self)
        if self._cells:
            self._write()
        return StoredText(self._scratch, self._places, length=length, rows=self._rows)

    def _write(self) -> None:
        """One block: where each cell ends, in characters, and all of them on end."""
        text = "".join(self._cells)
        place = (0, 0)  # of blank cells
        if text:
            ends = np.cumsum([len(cell) for cell in self._cells]).astype("<u8").tobytes()
            block = ends + text.encode("utf-8", "surrogatepass")
            place = (self._scratch.append(block), len(block))
        self._places.append(place)
        self._cells = []


class ColumnsWriter:
    """Takes rows of cells by name; a cell that a row lacks is blank."""

    def __init__(self) -> None:
        self._scratch = Scratch()
        self._writers: dict[str, TextWriter] = {}
        self._rows = 0

    def add(self, cells: Mapping[str, str]) -> None:
        for name, cell in cells.items():
            writer = self._writers.get(name)
            if writer is None:
                writer = self._writers[name] = TextWriter(self._scratch)
            writer.pad(self._rows)
            writer.add(cell)
        self._rows += 1

    def done(self) -> dict[str, Sequence[str]]:
        for writer in self._writers.values():
            writer.pad(self._rows)
        return {name: writer.done() for name, writer in self._writers.items()}


def gathered(cells: Iterable[str]) -> Sequence[str]:
    """All cells as a column: a tuple of few, else in a file."""
    writer = TextWriter(Scratch())
    writer.extend(cells)
    return writer.done()


def mapped(change: Callable[[str], str], cells: Sequence[str]) -> Sequence[str]:
    """Every cell changed, the column as it was: in a file, or a tuple."""
    changed = map(change, cells)
    return gathered(changed) if isinstance(cells, StoredText) else tuple(changed)


def picked(cells: Sequence[str], rows: Iterable[Any]) -> Sequence[str]:
    """The cells of ``rows``, the column as it was: in a file, or a tuple."""
    chosen = (cells[int(row)] for row in rows)
    return gathered(chosen) if isinstance(cells, StoredText) else tuple(chosen)
