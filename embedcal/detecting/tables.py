"""Presence of attributes from a table that the user brings."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from embedcal.cache import FeatureCache
from embedcal.datasets.files import normalise
from embedcal.datasets.named.sheets import read_sheet
from embedcal.datasets.printable import printable
from embedcal.datasets.table import Table
from embedcal.detecting.effects import Presences
from embedcal.detecting.presence import Presence
from embedcal.types import EmbedcalError, IntArray

KEYS = ("id", "image_id", "image", "image_path", "path", "filename", "img_filename")
LONG = "attribute"  # the column of a table in long form
YES = frozenset({"1", "true", "yes", "1.0"})
NO = frozenset({"0", "-1", "false", "no", "0.0", "-1.0"})


def table_presence(cache: FeatureCache, file: str | Path, rows: IntArray) -> Presence:
    """Presence on encoded rows of a cache by a CSV, TSV, Excel or Parquet file.

    The first column among ``id``, ``image``, ``image_path``, ``path`` and their like names the
    image, by the cache's id or path. Every other column is an attribute with 1, true or yes, and 0,
    -1, false or no; a blank cell is unknown. Or the table is long: columns image and ``attribute``
    only, one line for each attribute that an image has; then images that it never names are
    unknown, and those that it names have nothing else. Images that the cache lacks are passed over.
    """
    path = Path(file).expanduser()
    shown = printable(str(path), longest=300)
    table = read_sheet(path)
    key = next((name for name in KEYS if name in table.columns), None)
    if key is None:
        raise EmbedcalError(
            f"expected a column of images ({', '.join(KEYS)}) in {shown}, found "
            f"{printable(', '.join(table.columns), longest=200) or 'none'}: name one so"
        )
    others = [name for name in table.columns if name != key]
    at = _places(cache, table, key, shown)
    names, labels = (
        _long(table, at, len(cache))
        if others == [LONG]
        else _wide(table, at, others, len(cache), shown)
    )
    return Presence(names=names, rows=rows, present=labels[rows])


def _places(cache: FeatureCache, table: Table, key: str, shown: str) -> list[int]:
    """The cache's row of each line by its id, else by its path; -1 where it has neither."""
    cells, samples = table.columns[key], cache.samples
    by_id = {name: row for row, name in enumerate(samples.ids)}
    by_path = {normalise(name): row for row, name in enumerate(samples.paths)}
    found = [by_id.get(cell, by_path.get(normalise(cell), -1)) for cell in cells]
    if max(found, default=-1) >= 0:
        return found
    raise EmbedcalError(
        f"expected ids or paths of {cache.meta.path.name}, such as '{printable(samples.ids[0])}' "
        f"or '{printable(samples.paths[0])}', in the column '{printable(key)}' of {shown}, found "
        "none: name the images as the cache does"
    )


def _wide(
    table: Table, at: Sequence[int], names: Sequence[str], n: int, shown: str
) -> tuple[tuple[str, ...], Presences]:
    if not names:
        raise EmbedcalError(
            f"expected columns of attributes in {shown}, found none: add one for each, of 1 and 0, "
            f"or a column '{LONG}' of names"
        )
    seen: set[int] = set()
    for line, row in enumerate(at):
        if row >= 0 and row in seen:
            raise EmbedcalError(
                f"expected every image once in {shown}, found one again in {table.where(line)}: "
                "remove one"
            )
        seen.add(row)
    labels = np.full((n, len(names)), -1, np.int8)
    for j, name in enumerate(names):
        for line, cell in enumerate(table.columns[name]):
            word = cell.strip().lower()
            if word in YES or word in NO:
                if at[line] >= 0:
                    labels[at[line], j] = word in YES
            elif word:
                raise EmbedcalError(
                    f"expected 1, 0 or a blank in the column '{printable(name)}' of {shown}, found "
                    f"'{printable(cell)}' in {table.where(line)}: correct it"
                )
    return tuple(names), labels


def _long(table: Table, at: Sequence[int], n: int) -> tuple[tuple[str, ...], Presences]:
    cells = [cell.strip() for cell in table.columns[LONG]]
    names = tuple(sorted({cell for cell in cells if cell}))
    if not names:
        raise EmbedcalError(
            f"expected attributes in {table.source}, found none: name in '{LONG}' what each image "
            "shows"
        )
    place = {name: j for j, name in enumerate(names)}
    labels = np.full((n, len(names)), -1, np.int8)
    labels[[row for row in at if row >= 0]] = 0
    for row, cell in zip(at, cells, strict=True):
        if row >= 0 and cell:
            labels[row, place[cell]] = 1
    return names, labels
