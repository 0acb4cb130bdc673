"""Parquet files: one table, or shards in the layout of the Hugging Face hub."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from embedcal.datasets.containers.arrow import (
    ArrowFiles,
    distinct_names,
    features_of,
    read_arrow,
    reading,
    require_pyarrow,
    same_schema,
    table_of,
)
from embedcal.datasets.containers.members import states_of
from embedcal.datasets.containers.shards import base_of, shards_below, splits_by_name
from embedcal.datasets.options import ReadOptions
from embedcal.datasets.table import Rows, Table
from embedcal.types import EmbedcalError


def read_parquet(path: Path) -> Table:
    """The columns of text, numbers and booleans of the Parquet file at ``path``, as cells.

    Needs the extra ``parquet``. Other columns are passed over, with a note.
    """
    return table_of(_open(path, (path,)))


def read_parquet_shards(
    path: Path,
    *,
    root: Path | None = None,
    options: ReadOptions | None = None,
    shards: tuple[Path, ...] = (),
) -> tuple[Rows, Path]:
    """A Parquet file, or a folder of them, and the folder that the table's paths begin at.

    ``shards`` are the files of ``path`` where that is a pattern.

    The columns are those of a CSV file. A folder holds files such as
    ``train-00000-of-00002.parquet``, at its top or in ``data``; their names tell the split where
    no column does. Images may be in the files: see ``read_arrow``.
    Needs the extra ``parquet``.
    """
    files = shards or (parquet_shards(path) if path.is_dir() else (path,))
    return read_arrow(_open(path, files), root=root, options=options or ReadOptions())


def parquet_shards(folder: Path) -> tuple[Path, ...]:
    """The Parquet files of a folder, else of ``data`` in it, by name."""
    return shards_below(folder, ".parquet") or shards_below(folder / "data", ".parquet")


def _open(path: Path, files: tuple[Path, ...]) -> ArrowFiles:
    require_pyarrow(path)
    if not files:
        raise EmbedcalError(f"expected .parquet files in {path}, found none: check the folder")
    states = states_of(files)
    schema = _schema(files[0])
    distinct_names(schema, files[0])
    for file in files[1:]:
        same_schema(schema, _schema(file), file)
    return ArrowFiles(
        path=path,
        files=files,
        states=states,
        splits=lambda: splits_by_name(files, base=base_of(path)),
        schema=schema,
        features=features_of(schema),
        batches=_batches,
    )


def _schema(file: Path) -> Any:
    import pyarrow.parquet as pq

    with reading(file), pq.ParquetFile(file) as opened:
        return opened.schema_arrow


def _batches(file: Path, columns: Sequence[str], rows: int) -> Iterator[Any]:
    import pyarrow.parquet as pq

    with pq.ParquetFile(file) as opened:
        yield from opened.iter_batches(rows, columns=list(columns))
