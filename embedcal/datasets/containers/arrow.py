"""Tables of Apache Arrow, as Parquet files and Hugging Face's directories hold them.

Columns of integers, floats, booleans and text, plain or dictionary-encoded, become cells as a CSV
file has them. Images are a column of bytes, or of structs of ``bytes`` and ``path``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path
from typing import Any

from embedcal.datasets.containers.members import States, unpack_members
from embedcal.datasets.containers.shards import base_of, place_in
from embedcal.datasets.options import ReadOptions
from embedcal.datasets.printable import printable
from embedcal.datasets.scratch import Scratch
from embedcal.datasets.stored_text import TextWriter, gathered
from embedcal.datasets.table import Rows, Table, cell_of
from embedcal.types import EmbedcalError

_ROWS_OF_CELLS = 1 << 13
_ROWS_OF_IMAGES = 256  # of a few hundred KiB each: tens of MiB
OTHER_NAMES = {"path": "image", "y": "label"}  # the hub's names, where ours are not there


@dataclass(frozen=True, kw_only=True)
class ArrowFiles:
    """Files of one schema below ``path``, in the ``states`` that they had before they were opened.

    ``splits()`` gives the split of each file, None where no name tells it; ``features`` is what
    Hugging Face's libraries wrote down about each column; ``batches(file, columns, rows)`` gives
    record batches of those columns, of about so many rows where the file leaves a choice.
    """

    path: Path
    files: tuple[Path, ...]
    states: States
    splits: Callable[[], tuple[str, ...] | None]
    schema: Any
    features: Mapping[str, Any]
    batches: Callable[[Path, Sequence[str], int], Iterator[Any]]


def require_pyarrow(path: Path) -> None:
    """Raise EmbedcalError where pyarrow is not installed."""
    try:
        import pyarrow  # noqa: F401
    except ImportError:
        raise EmbedcalError(
            f"expected pyarrow to read {printable(str(path), longest=300)}, found that it is not "
            "installed: pip install 'embedcal[parquet]'"
        ) from None


@contextmanager
def reading(file: Path) -> Iterator[None]:
    """pyarrow's errors, and text that is none, as one line about ``file``."""
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        said = printable(" ".join(str(error).split()), longest=200)
        raise EmbedcalError(
            f"expected to read {printable(str(file), longest=300)}, found: {said}: it may be cut "
            "short or damaged; get it again"
        ) from None


def table_of(held: ArrowFiles) -> Table:
    """All columns of text and numbers; the others are passed over, with a note."""
    texts = [field.name for field in held.schema if is_cells(field.type)]
    others = [field for field in held.schema if field.name not in texts]
    columns, counts = _cells(held, texts)
    notes = tuple(_passed_over(field) for field in others)
    rows = _table(held, columns, notes, counts)
    in_memory = {column: tuple(cells) for column, cells in columns.items()}
    return Table(source=rows.source, columns=in_memory, notes=notes, names=rows.names)


def read_arrow(held: ArrowFiles, *, root: Path | None, options: ReadOptions) -> tuple[Rows, Path]:
    """The table of ``held`` and the folder that its paths begin at.

    Where a column holds the images themselves, they are unpacked (``unpack_members``) and the
    table's paths lead there. It is the one that ``options.columns`` names for ``path``, else the
    only one, else ``image``. Without such a column, paths are relative to ``root``, or to the
    folder of the files. ``label`` stands for ``y`` and ``image`` for ``path`` where neither a
    column nor ``options.columns`` says otherwise, and the name of a file for its split.

    Raises EmbedcalError for damaged files, needed columns of another type, several columns of
    images, and a root beside images.
    """
    headers = {key: options.columns.get(key, key) for key in ("path", "y", "split")}
    texts = [field.name for field in held.schema if is_cells(field.type)]
    image = _image_column(held, headers["path"], options, texts)
    others = [field for field in held.schema if field.name not in (*texts, image)]
    known = [*texts, *([] if image is None else ["path"])]
    _refuse_needed(held, others, known, options)
    columns, counts = _cells(held, texts)
    if headers["split"] not in columns and options.split is None:
        splits = held.splits()
        if splits is not None:
            pairs = zip(splits, counts, strict=True)
            by_file = gathered(split for split, count in pairs for _ in range(count))
            columns[headers["split"]] = by_file
    base = root or base_of(held.path)
    if image is not None:
        paths, base = _images(held, image, root, base)
        columns[headers["path"]] = paths
    notes = tuple(_passed_over(field) for field in others)
    table = _table(held, columns, notes, counts)
    for ours, theirs in OTHER_NAMES.items():
        table = renamed(table, ours, theirs, options)
    return table, base


def renamed(table: Rows, ours: str, theirs: str, options: ReadOptions) -> Rows:
    """The table with the column ``theirs`` as ``ours`` too, where nothing else is said."""
    if ours in options.columns or ours in table.columns or theirs not in table.columns:
        return table
    names = {**table.names, ours: table.names[theirs]} if theirs in table.names else table.names
    columns = {**table.columns, ours: table.columns[theirs]}
    return replace(table, columns=columns, names=names)


def same_schema(first: Any, other: Any, file: Path) -> None:
    """Raise where the columns of a further file are not those of the first."""
    mine, theirs = ([(f.name, str(f.type)) for f in schema] for schema in (first, other))
    if mine == theirs:
        return
    odd = sorted({f"{name} ({kind})" for name, kind in {*mine} ^ {*theirs}}) or ["another order"]
    raise EmbedcalError(
        f"expected the columns of {printable(str(file), longest=300)} to be those of the first "
        f"file, found a difference in {printable(', '.join(odd), longest=200)}: write them alike"
    )


def distinct_names(schema: Any, file: Path) -> None:
    """Raise where two columns have one name."""
    twice = [name for name in schema.names if schema.names.count(name) > 1]
    if twice:
        raise EmbedcalError(
            f"expected distinct column names in {printable(str(file), longest=300)}, found "
            f"'{printable(twice[0])}' more than once: rename one"
        )


def features_of(schema: Any) -> Mapping[str, Any]:
    """What Hugging Face's libraries wrote about each column into a schema; else nothing."""
    try:
        document = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
    except (ValueError, RecursionError):
        return {}
    info = document.get("info") if isinstance(document, dict) else None
    features = info.get("features") if isinstance(info, dict) else None
    return features if isinstance(features, dict) else {}


def class_names(feature: object) -> tuple[str, ...] | None:
    """The names of a ClassLabel in the order of its labels, None where it has no usable ones."""
    if not isinstance(feature, dict) or feature.get("_type") != "ClassLabel":
        return None
    names = feature.get("names")
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        return None
    stripped = tuple(name.strip() for name in names)
    return stripped if stripped and "" not in stripped and len({*stripped}) == len(names) else None


def is_cells(kind: Any) -> bool:
    """Whether values of an Arrow type can stand in a cell of a table."""
    from pyarrow import types

    if types.is_dictionary(kind):
        kind = kind.value_type
    plain = (types.is_integer, types.is_floating, types.is_boolean, types.is_null, _is_text)
    return any(is_kind(kind) for is_kind in plain)


def _is_text(kind: Any) -> bool:
    from pyarrow import types

    return any([types.is_string(kind), types.is_large_string(kind), types.is_string_view(kind)])


def _is_bytes(kind: Any) -> bool:
    from pyarrow import types

    return any([types.is_binary(kind), types.is_large_binary(kind), types.is_binary_view(kind)])


def _is_struct_of_image(kind: Any) -> bool:
    from pyarrow import types

    if not types.is_struct(kind):
        return False
    inner = {kind.field(i).name: kind.field(i).type for i in range(kind.num_fields)}
    return inner.keys() == {"bytes", "path"} and (
        _is_bytes(inner["bytes"]) and (_is_text(inner["path"]) or types.is_null(inner["path"]))
    )


def _image_column(
    held: ArrowFiles, header: str, options: ReadOptions, texts: Sequence[str]
) -> str | None:
    structs = [field.name for field in held.schema if _is_struct_of_image(field.type)]
    found = structs or [field.name for field in held.schema if _is_bytes(field.type)]
    named = [field.name for field in held.schema if _is_bytes(field.type)] + structs
    if "path" in options.columns and header in (*named, *texts):
        return header if header in named else None
    for usual in (header, "image"):
        if usual in found:
            return usual
    if len(found) > 1:
        raise EmbedcalError(
            f"expected one column of images in {printable(str(held.path), longest=300)}, found "
            f"{printable(', '.join(found))}: name one, as in columns path={printable(found[0])}"
        )
    return found[0] if found else None


def _refuse_needed(
    held: ArrowFiles, others: Sequence[Any], known: Collection[str], options: ReadOptions
) -> None:
    """Raise where a column that is asked for is of a type that makes no cells."""
    given = options.attributes
    keys = ("path", "y", "split", *(given if isinstance(given, Mapping) else ()))
    needed = {*options.columns.values(), *(options.columns.get(key, key) for key in keys)}
    for ours, theirs in OTHER_NAMES.items():
        if ours not in options.columns and ours not in known:
            needed.add(theirs)
    for field in others:
        if field.name in needed:
            raise EmbedcalError(
                f"expected integers or text in the column '{printable(field.name)}' of "
                f"{printable(str(held.path), longest=300)}, found {printable(str(field.type))}: "
                "write it as one of those, or name another column"
            )


def _passed_over(field: Any) -> str:
    kind = printable(str(field.type))
    return f"the column '{printable(field.name)}' is passed over: it holds {kind}, not cells"


def _table(
    held: ArrowFiles,
    columns: Mapping[str, Sequence[str]],
    notes: tuple[str, ...],
    counts: Sequence[int],
) -> Rows:
    from pyarrow import types

    names = {}
    for field in held.schema:
        listed = class_names(held.features.get(field.name))
        if types.is_boolean(field.type):
            listed = ("False", "True")
        if listed is not None and field.name in columns:
            names[field.name] = listed
    starts = list(accumulate(counts, initial=0))[:-1]
    place = place_in(held.files, starts) if len(held.files) > 1 else None
    return Rows(source=str(held.path), columns=columns, notes=notes, names=names, place=place)


def _cells(held: ArrowFiles, texts: Sequence[str]) -> tuple[dict[str, Sequence[str]], list[int]]:
    """The columns as cells, and the number of rows of every file."""
    scratch = Scratch()
    columns = {name: TextWriter(scratch) for name in texts}
    names = {name: class_names(held.features.get(name)) for name in texts}
    counts: list[int] = []
    for file in held.files:
        rows = 0
        with reading(file):
            for batch in held.batches(file, texts, _ROWS_OF_CELLS):
                for name in texts:
                    cells = list(_as_cells(batch.column(name).to_pylist(), names[name]))
                    nul = next((i for i, cell in enumerate(cells) if "\0" in cell), None)
                    if nul is not None:
                        raise EmbedcalError(
                            f"expected text in {printable(str(file), longest=300)}, found a NUL "
                            f"character in '{printable(name)}' of row {rows + nul + 1}: remove it"
                        )
                    columns[name].extend(cells)
                rows += batch.num_rows
        counts.append(rows)
    return {name: writer.done() for name, writer in columns.items()}, counts


def _as_cells(values: Sequence[object], names: tuple[str, ...] | None) -> Iterator[str]:
    if names is None:
        return (value if type(value) is str else cell_of(value) for value in values)
    known = dict(enumerate(names))
    return (known[v] if type(v) is int and v in known else cell_of(v) for v in values)


def _images(
    held: ArrowFiles, column: str, root: Path | None, base: Path
) -> tuple[Sequence[str], Path]:
    """Paths of the images in ``column`` and their root."""
    shown = printable(str(held.path), longest=300)
    struct = _is_struct_of_image(held.schema.field(column).type)
    if struct and not _any_bytes(held, column):
        return gathered(path or "" for path in _field(held, column, "path")), base
    if root is not None:
        raise EmbedcalError(
            f"expected no root beside {shown}, which holds its images itself, found "
            f"{printable(str(root), longest=300)}: leave it out"
        )
    members = unpack_members(
        lambda: _field(held, column, "bytes" if struct else None),
        name=held.path.resolve().name,
        states=held.states,
        choice=column,
    )
    return members.paths, members.root


def _any_bytes(held: ArrowFiles, column: str) -> bool:
    return any(data is not None for data in _field(held, column, "bytes"))


def _field(held: ArrowFiles, column: str, inner: str | None) -> Iterator[Any]:
    """The values of a column, or of one field of its structs, over all files."""
    import pyarrow.compute as pc

    for file in held.files:
        with reading(file):
            for batch in held.batches(file, [column], _ROWS_OF_IMAGES):
                values = batch.column(column)
                yield from _values(values if inner is None else pc.struct_field(values, inner))


def _values(array: Any) -> Iterator[Any]:
    """One value at a time: a list of them all would hold a batch of images twice."""
    for value in array:
        yield value.as_py()
