"""Directories that Hugging Face's ``datasets`` saves: a Dataset, or a DatasetDict of splits.

They are read through pyarrow alone: the files are Arrow streams beside JSON documents that name
them, so ``datasets`` itself is not needed.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from embedcal.datasets.containers.arrow import (
    ArrowFiles,
    class_names,
    distinct_names,
    read_arrow,
    reading,
    require_pyarrow,
    same_schema,
)
from embedcal.datasets.containers.members import States, states_of
from embedcal.datasets.containers.shards import split_in
from embedcal.datasets.options import ReadOptions
from embedcal.datasets.printable import printable
from embedcal.datasets.table import Rows
from embedcal.types import EmbedcalError

DICT, STATE, INFO = "dataset_dict.json", "state.json", "dataset_info.json"
_END = b"\xff\xff\xff\xff\0\0\0\0"  # of a stream; without it the file is cut short


def is_saved(folder: Path) -> bool:
    """Whether ``folder`` is one that ``save_to_disk`` wrote."""
    return (folder / DICT).is_file() or all((folder / name).is_file() for name in (STATE, INFO))


def read_saved(
    folder: Path, *, root: Path | None = None, options: ReadOptions | None = None
) -> tuple[Rows, Path]:
    """A directory written by ``save_to_disk``, and the folder that the table's paths begin at.

    ``image`` (bytes or paths) and ``label`` stand for ``path`` and ``y`` unless
    ``options.columns`` says otherwise; names of a ClassLabel become class names, or an attribute's
    values, in its own order; the splits of a DatasetDict become the column ``split``. Images are
    unpacked: see ``read_arrow``. Needs the extra ``parquet``, which is
    pyarrow; ``datasets`` is not imported.

    Raises EmbedcalError for files that are damaged or missing, and for splits that differ in their
    columns or class names, or are not train, validation and test.
    """
    require_pyarrow(folder)
    parts, splits = _parts(folder)
    files: list[Path] = []
    states: States = ()
    file_splits: list[str] = []
    schema: Any = None
    features: dict[str, Any] = {}
    for part, split in zip(parts, splits or [""] * len(parts), strict=True):
        written = _json(part / INFO).get("features")
        mine = written if isinstance(written, dict) else {}
        features = features or mine
        _same_names(features, mine, part)
        for file in _files(part):
            states += states_of([file])
            found = _schema(file)
            schema = schema or found
            same_schema(schema, found, file)
            files.append(file)
            file_splits.append(split)
    if schema is None:
        raise EmbedcalError(
            f"expected rows in {printable(str(folder), longest=300)}, found none: save a data set "
            "that has some"
        )
    distinct_names(schema, files[0])
    held = ArrowFiles(
        path=folder,
        files=tuple(files),
        states=states,
        splits=lambda: tuple(file_splits) if splits else None,
        schema=schema,
        features=features,
        batches=_batches,
    )
    return read_arrow(held, root=root, options=options or ReadOptions())


def _parts(folder: Path) -> tuple[list[Path], list[str] | None]:
    """The folders of the data sets within, and their splits where they name them."""
    if not (folder / DICT).is_file():
        return [folder], None
    names = _json(folder / DICT).get("splits")
    if not isinstance(names, list) or not names or not all(_is_plain(name) for name in names):
        raise _damaged(folder / DICT, "no list of splits")
    splits = [split_in(name) for name in names]
    odd = [name for name, split in zip(names, splits, strict=True) if split is None]
    if odd and len(odd) < len(names):
        raise EmbedcalError(
            f"expected the splits train, validation and test in "
            f"{printable(str(folder), longest=300)}, found '{printable(odd[0])}' beside them: save "
            "it without that split"
        )
    parts = [folder / name for name in names]
    return parts, None if odd else [split for split in splits if split is not None]


def _files(part: Path) -> list[Path]:
    state = _json(part / STATE)
    if state.get("_indices_data_files"):
        raise _damaged(part / STATE, "rows in another order than in the files (an old form)")
    listed = state.get("_data_files")
    items = listed if isinstance(listed, list) else [None]
    names = [item.get("filename") if isinstance(item, dict) else None for item in items]
    if not all(_is_plain(name) for name in names):
        raise _damaged(part / STATE, "no list of plain file names")
    return [part / str(name) for name in names]


def _is_plain(name: object) -> bool:
    """Whether ``name`` is that of a file in the same folder, not a way elsewhere."""
    return (
        isinstance(name, str)
        and bool(name)
        and name not in (".", "..")
        and not (set("/\\:\0") & set(name))
    )


def _json(file: Path) -> dict[str, Any]:
    try:
        document = json.loads(file.read_text("utf-8"))
    except OSError as error:
        raise _damaged(file, str(error.strerror)) from None
    except (ValueError, RecursionError):
        raise _damaged(file, "no JSON") from None
    if not isinstance(document, dict):
        raise _damaged(file, "no JSON object")
    return document


def _damaged(file: Path, found: str) -> EmbedcalError:
    return EmbedcalError(
        f"expected {printable(str(file), longest=300)} as save_to_disk writes it, found {found}: "
        "save the data set again"
    )


def _same_names(first: dict[str, Any], other: dict[str, Any], part: Path) -> None:
    for column in {*first, *other}:
        if class_names(first.get(column)) != class_names(other.get(column)):
            raise EmbedcalError(
                f"expected the same class names for '{printable(column)}' in every split, found "
                f"others in {printable(str(part), longest=300)}: cast the splits to one feature"
            )


def _schema(file: Path) -> Any:
    import pyarrow as pa

    with reading(file):
        with file.open("rb") as opened:
            size = opened.seek(0, 2)
            opened.seek(max(size - len(_END), 0))
            if opened.read() != _END:
                raise pa.ArrowInvalid(f"the stream of {size:,} bytes has no end")
        with pa.memory_map(str(file)) as mapped, pa.ipc.open_stream(mapped) as stream:
            return stream.schema


def _batches(file: Path, columns: Sequence[str], rows: int) -> Iterator[Any]:
    import pyarrow as pa

    del rows  # batches are as they were written, and mapped rather than read
    with pa.memory_map(str(file)) as mapped, pa.ipc.open_stream(mapped) as stream:
        for batch in stream:
            yield batch.select(list(columns))
