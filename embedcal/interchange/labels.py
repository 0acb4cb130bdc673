"""The labels of a file of features: from a table, from its own columns, or from its arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from embedcal.datasets.labels import factorise, integer, read_labels, read_splits
from embedcal.datasets.options import attributes_of, names_of
from embedcal.datasets.printable import printable
from embedcal.datasets.problems import raise_any
from embedcal.datasets.table import Table
from embedcal.interchange.imported import Found
from embedcal.types import EmbedcalError, IntArray

NAMED = "_name"  # the column place_name has the names of the codes in the column place


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What was said about the labels: the attributes, and names separated by commas."""

    attributes: tuple[str, ...] = ()
    classes: str | Sequence[str] | None = None
    values: str | Mapping[str, str | Sequence[str]] | None = None


@dataclass(frozen=True, kw_only=True)
class Labelled:
    """Codes with their names; no names where the file has only numbers."""

    y: IntArray
    split: IntArray
    attributes: Mapping[str, IntArray]
    classes: tuple[str, ...]
    values: Mapping[str, tuple[str, ...]]


@dataclass(frozen=True)
class Labels:
    """Where the labels of ``found`` are looked for: in ``tables``, then among its arrays."""

    found: Found
    tables: tuple[Table, ...]

    def read(self, asked: Asked) -> Labelled:
        """Everything asked for; EmbedcalError in one line for the first fault."""
        recorded = self.found.description
        attributes = asked.attributes or tuple(recorded.values) or self._paired()
        given = attributes_of(asked.values) if isinstance(asked.values, str) else asked.values
        named: Mapping[str, Any] = dict.fromkeys(attributes[:1], given)
        if isinstance(given, Mapping):
            named = given
            attributes = tuple(dict.fromkeys((*attributes, *named)))
        elif given and not attributes:
            raise EmbedcalError(
                f"expected the attribute of the values '{printable(str(given))}', found none in "
                f"{self.found.shown}: name it with --attribute"
            )
        self._require(("y", "split", *attributes))
        y, classes = self._codes(
            "y", "class", names_of(asked.classes, what="class names"), recorded.classes
        )
        codes = {
            name: self._codes(
                name,
                f"{name}{NAMED}",
                names_of(named.get(name), what="value names"),
                recorded.values.get(name, ()),
                may_be_unknown=True,
            )
            for name in attributes
        }
        return Labelled(
            y=y,
            split=self._splits(),
            attributes={name: found for name, (found, _) in codes.items()},
            classes=classes,
            values={name: names for name, (_, names) in codes.items() if names},
        )

    def _paired(self) -> tuple[str, ...]:
        """Attributes that a table tells by itself: ``a``, and codes beside a column of names."""
        headers = dict.fromkeys(name for table in self.tables for name in table.columns)
        beside = [name for name in headers if f"{name}{NAMED}" in headers and self._numbers(name)]
        return tuple(name for name in headers if name == "a" or name in beside)

    def _numbers(self, name: str) -> bool:
        column = self._column(name)
        distinct = factorise(column[1])[0] if column else []
        return all(cell == "" or integer(cell.strip()) is not None for cell in distinct)

    def _require(self, wanted: Sequence[str]) -> None:
        there = dict.fromkeys(name for table in self.tables for name in table.columns)
        there |= dict.fromkeys(self.found.names)
        if any(name not in there for name in wanted):
            listed = printable(", ".join(there), longest=300)
            raise EmbedcalError(
                f"expected arrays {printable(', '.join(wanted), longest=200)} beside the features "
                f"in {self.found.shown}, found {listed or 'none'}: name others with --attribute, "
                "or bring the labels with --table"
            )

    def _column(self, name: str) -> tuple[Table, tuple[str, ...]] | None:
        """A column of text of that name, with the table that it stands in."""
        for table in self.tables:
            if name in table.columns:
                return table, table.columns[name]
        if name in self.found.names:
            array = self.found.load(name)
            if isinstance(array, np.ndarray) and array.dtype.kind in "US" and array.ndim == 1:
                cells = texts(array, name, self.found.shown)
                return Table(source=str(self.found.source), columns={name: cells}), cells
        return None

    def _splits(self) -> IntArray:
        column = self._column("split")
        if column is None:
            return integers(self.found.load("split"), "split", self.found.shown)
        labels = read_splits(column[1], column[0].show)
        raise_any(column[0].source, labels.problems)
        return labels.codes

    def _codes(
        self,
        name: str,
        beside: str,
        asked: tuple[str, ...] | None,
        recorded: tuple[str, ...],
        *,
        may_be_unknown: bool = False,
    ) -> tuple[IntArray, tuple[str, ...]]:
        """Codes and names of one column; names from the column ``beside`` where none are given.

        A table that records the names has codes itself, and a name may look like a code.
        """
        column, names = self._column(name), asked or recorded
        if column is None:
            return integers(self.found.load(name), name, self.found.shown), names
        table, cells = column
        what = "label" if name == "y" else f"attribute '{printable(name)}'"
        by_code = bool(recorded) and asked is None and table is self.found.table
        numbers = tuple(map(str, range(len(recorded))))
        listed = numbers if by_code else names or table.names.get(name)
        labels = read_labels(
            cells, table.show, what=what, names=listed, may_be_unknown=may_be_unknown
        )
        raise_any(table.source, labels.problems)
        if labels.named:
            return labels.codes, names if by_code else labels.names
        pairs = self._column(beside)
        return labels.codes, _names(labels.codes, pairs[1], beside) if pairs else ()


def integers(array: Any, name: str, source: str) -> IntArray:
    """One whole number a row, int64, from an array (n,); EmbedcalError for anything else."""
    found = np.asarray(array)
    if found.ndim != 1 or found.dtype.kind not in "iubf":
        raise EmbedcalError(
            f"expected one whole number a row in '{printable(name)}' of {source}, found shape "
            f"{found.shape} of {found.dtype}: give labels (n,)"
        )
    if found.dtype.kind == "f":
        odd = ~(np.isfinite(found) & (found == np.round(found)))
        if odd.any():
            row = int(np.argmax(odd))
            raise EmbedcalError(
                f"expected one whole number a row in '{printable(name)}' of {source}, found "
                f"{found[row]} in row {row}: give labels, -1 for an unknown attribute"
            )
    return found.astype(np.int64)


def texts(array: Any, name: str, source: str) -> tuple[str, ...]:
    """One text a row: from an array of strings (n,), or of UTF-8 bytes (n, length), 0 behind."""
    found = np.asarray(array)
    if found.ndim == 2 and found.dtype == np.uint8 and found.shape[1]:
        found = np.ascontiguousarray(found).view(f"S{found.shape[1]}")[:, 0]
    if found.ndim != 1 or found.dtype.kind not in "USiu":
        raise EmbedcalError(
            f"expected one text a row in '{printable(name)}' of {source}, found shape "
            f"{found.shape} of {found.dtype}: give strings (n,), or leave it out"
        )
    try:
        return tuple(t.decode("utf-8") if isinstance(t, bytes) else str(t) for t in found.tolist())
    except UnicodeDecodeError:
        raise EmbedcalError(
            f"expected UTF-8 in '{printable(name)}' of {source}, found other bytes: write it again"
        ) from None


def _names(codes: IntArray, cells: Sequence[str], header: str) -> tuple[str, ...]:
    """The name of each code, where every row with the code says the same; else its number."""
    listed, index = factorise(cells)
    names = [str(code) for code in range(int(codes.max(initial=-1)) + 1)]
    known = codes >= 0
    pairs = np.unique(codes[known] * len(listed) + index[known])
    for code, name in zip(pairs // len(listed), pairs % len(listed), strict=True):
        if np.count_nonzero(pairs // len(listed) == code) > 1:
            raise EmbedcalError(
                f"expected one name for each code in the column '{printable(header)}', found "
                f"'{printable(listed[name])}' and another for {code}: correct the table"
            )
        names[code] = listed[name] or names[code]
    return tuple(names)
