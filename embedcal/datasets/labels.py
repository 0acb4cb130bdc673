"""A column of labels, as integers or as names, turned into codes."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from embedcal.datasets.printable import printable
from embedcal.datasets.problems import Problem
from embedcal.types import SPLITS, IntArray

UNKNOWN = -1
# pandas writes an integer column that has blanks as "1.0"; eighteen digits fit int64.
_INTEGER = re.compile(r"[+-]?[0-9]{1,18}(\.0*)?")

_SPLIT_NAMES: Mapping[str, int] = {
    "train": 0, "training": 0,
    "val": 1, "valid": 1, "validation": 1, "dev": 1,
    "test": 2, "testing": 2,
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Labels:
    """``codes`` (n,) int64, -1 where unknown or at fault; ``names`` one a code.

    ``named`` is False where the names are only the integers themselves.
    """

    codes: IntArray
    names: tuple[str, ...]
    named: bool
    problems: tuple[Problem, ...] = ()


def factorise(cells: Iterable[str]) -> tuple[list[str], IntArray]:
    """Distinct cells in order of first appearance, and the index of each cell among them.

    Every check below looks at distinct values only, of which a million rows have a handful.
    """
    seen: dict[str, int] = {}
    index = np.fromiter((seen.setdefault(cell, len(seen)) for cell in cells), dtype=np.int64)
    return list(seen), index


def repeats(cells: Sequence[str]) -> tuple[IntArray, IntArray]:
    """Rows whose cell stood in an earlier row, in order, and the first row that each stood in.

    Sixteen bytes a row are held for a moment, and the text of those rows alone whose hash another
    row has: whether they are equal is then seen by the text.
    """
    hashes = np.fromiter(map(hash, cells), np.int64, len(cells))
    order = np.sort(hashes)
    shared = np.unique(order[1:][order[1:] == order[:-1]])
    del order
    first: dict[str, int] = {}
    suspects = np.flatnonzero(np.isin(hashes, shared)).tolist() if shared.size else []
    rows = [row for row in suspects if first.setdefault(cells[row], row) != row]
    firsts = [first[cells[row]] for row in rows]
    return np.array(rows, np.int64), np.array(firsts, np.int64)


def integer(cell: str) -> int | None:
    """The integer that ``cell`` spells, or None."""
    return int(cell.partition(".")[0]) if _INTEGER.fullmatch(cell) else None


def split_code(cell: str) -> int | None:
    """0, 1, 2 for a train, validation or test split by number or by name, else None."""
    number = integer(cell)
    if number is not None:
        return number if 0 <= number < len(SPLITS) else None
    return _SPLIT_NAMES.get(cell.casefold())


def read_splits(cells: Sequence[str], show: Callable[[int, str], str]) -> Labels:
    """The split column. ``show(row, cell)`` says where a row is and what is in it."""
    values, index = factorise(cell.strip() for cell in cells)
    codes = [split_code(value) for value in values]
    unknown = np.flatnonzero([code is None for code in codes])
    problems = _faults(
        "unknown split, expected train, val or test, or 0, 1 or 2", unknown, index, cells, show
    )
    table = np.array([UNKNOWN if code is None else code for code in codes], dtype=np.int64)
    return Labels(codes=table[index], names=tuple(SPLITS), named=True, problems=problems)


def read_labels(
    cells: Sequence[str],
    show: Callable[[int, str], str],
    *,
    what: str,
    names: tuple[str, ...] | None = None,
    may_be_unknown: bool = False,
) -> Labels:
    """A column of class labels or attribute values.

    A column is one of names when all its cells are among ``names``, or when fewer than half of
    them are integers; without ``names`` their order is that of sorted distinct cells. Otherwise
    it is one of integers from 0, and a cell that is none is a fault. Blank and -1 are unknown
    where ``may_be_unknown``, and faults elsewhere.
    """
    values, index = factorise(cell.strip() for cell in cells)
    numbers = [integer(value) for value in values]
    weight = np.bincount(index, minlength=len(values))
    blank = np.array([value == "" for value in values], dtype=bool)
    minus = np.array([number == -1 for number in numbers], dtype=bool)
    skipped = blank | minus if may_be_unknown else blank
    known = [i for i in range(len(values)) if not skipped[i]]

    integers = sum(int(weight[i]) for i in known if numbers[i] is not None)
    total = sum(int(weight[i]) for i in known)
    by_name = 2 * integers < total or (names is not None and all(values[i] in names for i in known))
    table = np.full(len(values), UNKNOWN, dtype=np.int64)
    problems: list[Problem] = []
    if not may_be_unknown:
        problems += _faults(f"blank {what}", np.flatnonzero(blank), index, cells, show)
    if by_name:
        order = tuple(sorted(values[i] for i in known)) if names is None else names
        code_of = {name: code for code, name in enumerate(order)}
        strangers = [i for i in known if values[i] not in code_of]
        listed = printable(", ".join(order), longest=200)
        problems += _faults(f"{what} not among {listed}", strangers, index, cells, show)
        for i in known:
            table[i] = code_of.get(values[i], UNKNOWN)
        return Labels(codes=table[index], names=order, named=True, problems=tuple(problems))

    # Without names, a label as large as the table is long is taken for a mistake.
    limit = max(len(cells), 2) if names is None else len(names)
    words = [i for i in known if numbers[i] is None]
    outside = [i for i in known if (n := numbers[i]) is not None and not 0 <= n < limit]
    problems += _faults(f"{what} not an integer", words, index, cells, show)
    problems += _faults(f"{what} out of range 0 to {limit - 1}", outside, index, cells, show)
    for i in known:
        number = numbers[i]
        if number is not None and 0 <= number < limit:
            table[i] = number
    largest = int(table.max(initial=UNKNOWN))
    made = tuple(str(code) for code in range(largest + 1))
    return Labels(
        codes=table[index],
        names=made if names is None else names,
        named=names is not None,
        problems=tuple(problems),
    )


def _faults(
    kind: str,
    faulty: Sequence[int] | IntArray,
    index: IntArray,
    cells: Sequence[str],
    show: Callable[[int, str], str],
) -> tuple[Problem, ...]:
    """The problem of rows whose value is among ``faulty``; nothing where there are none."""
    if len(faulty) == 0:
        return ()
    rows = np.flatnonzero(np.isin(index, faulty)).tolist()
    return (Problem.at(kind, rows, lambda row: show(row, cells[row])),)
