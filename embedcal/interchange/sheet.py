"""The labels beside an .npy as a CSV that spreadsheets may open, taken back as they were."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path
from typing import Any

from embedcal.datasets.spreadsheet import guard, unguard
from embedcal.datasets.table import Table
from embedcal.interchange.outgoing import Rows

OURS = ("id", "path", "split", "y", "class")  # what the header of a file of ours begins with


def write_sheet(rows: Rows, path: Path) -> None:
    """Labels row i for row i; a text that would be a formula has an apostrophe before it."""
    columns = rows.columns()
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(map(guard, columns))
        cells = ([_cell(value) for value in values] for _, values in columns.values())
        writer.writerows(zip(*cells, strict=True))


def taken_back(table: Table) -> Table:
    """A table of ours with its texts as they were before it was written; any other as it is.

    Ours is one whose header begins as that of a file of ours: in another table an apostrophe
    before ``=`` may be part of a name.
    """
    if tuple(table.columns)[: len(OURS)] != OURS:
        return table
    columns = {unguard(name): tuple(map(unguard, cells)) for name, cells in table.columns.items()}
    return replace(table, columns=columns)


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return guard(value)
    return "" if value is None else str(value)
