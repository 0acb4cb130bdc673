"""Which row of a table belongs to which row of features: by an id where both have one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import takewhile
from pathlib import Path

from embedcal.datasets.named.sheets import read_sheet
from embedcal.datasets.printable import printable
from embedcal.datasets.table import Table
from embedcal.interchange.imported import Found
from embedcal.interchange.sheet import taken_back
from embedcal.types import EmbedcalError


def joined(found: Found, path: Path) -> tuple[Table, tuple[str, ...]]:
    """The table at ``path`` with a row for each row of features, and what is to be noted.

    Where the features have ids and the table a column for them (``id``; for image paths
    ``image_path`` or ``path`` too), rows are looked up by it: rows of the table without features
    are passed over with a note. Otherwise row i is row i. Image paths may be written from another
    folder in the table: leading folders that all of them share are dropped until all are found. The
    CSV that ``export-features`` writes is read as it was meant (``embedcal.interchange.sheet``).
    """
    table = read_sheet(path)
    if path.suffix.lower() != ".parquet":  # which no spreadsheet opens
        table = taken_back(table)
    key = next((name for name in found.keys if name in table.columns), None)
    shown = printable(str(path), longest=300)
    if not found.ids or key is None:
        if len(table) != len(found):
            raise EmbedcalError(
                f"expected {len(found)} rows in {shown}, one for each row of features, found "
                f"{len(table)}: row i is row i where {found.shown} and the table have no ids in "
                "common"
            )
        return table, ()
    at = _places(table, key, shown)
    for ids in _spellings(found.ids):
        if all(name in at for name in ids):
            rows = [at[name] for name in ids]
            unused = len(table) - len(set(rows))
            note = f"{unused:,} rows of {path.name} have no features and are left out"
            return _rows(table, rows), (note,) if unused else ()
    alone = [name for name in found.ids if name not in at]
    raise EmbedcalError(
        f"expected every row of {found.shown} in the column '{printable(key)}' of {shown}, found "
        f"no '{printable(alone[0])}' ({len(alone):,} of {len(found):,} are missing): add them"
    )


def _places(table: Table, key: str, shown: str) -> dict[str, int]:
    cells = table.columns[key]
    at = {cell: row for row, cell in enumerate(cells)}
    if len(at) < len(cells):
        row = next(row for row, cell in enumerate(cells) if at[cell] != row)
        raise EmbedcalError(
            f"expected every '{printable(key)}' once in {shown}, found "
            f"{table.show(row, cells[row])} again: remove one"
        )
    return at


def _spellings(ids: Sequence[str]) -> Iterator[Sequence[str]]:
    """The ids as they are, then as paths without one, two, ... of the folders they share."""
    yield ids
    folders = [name.split("/")[:-1] for name in ids]
    ends = zip(min(folders), max(folders), strict=False)  # all others lie between these two
    shared = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], ends))
    for start in range(1, shared + 1):
        yield [name.split("/", start)[-1] for name in ids]


def below_shared_folder(paths: Sequence[str]) -> tuple[str, ...]:
    """Paths relative to the folder that all share, where any is absolute; else as they are."""
    if not any(path.startswith("/") for path in paths):
        return tuple(paths)
    *_, shortest = _spellings(paths)
    return tuple(path.lstrip("/") for path in shortest)


def _rows(table: Table, rows: Sequence[int]) -> Table:
    columns = {name: tuple(map(cells.__getitem__, rows)) for name, cells in table.columns.items()}
    lines = None if table.lines is None else tuple(map(table.lines.__getitem__, rows))
    return replace(table, columns=columns, lines=lines)
