"""Parquet with a column of vectors: what viewers of embeddings open.

Embedding Atlas takes such a column by name (``--vector embedding``), Spotlight's data source for
pandas reads the file and shows the column given the type ``spotlight.Embedding``, FiftyOne takes
rows of a pandas frame, and pandas itself gives one array a row. All of them read a list of
float32 of fixed length, and names as text.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from embedcal.cache.importing import feature_parts
from embedcal.datasets.containers.arrow import reading, require_pyarrow
from embedcal.datasets.containers.parquet import read_parquet
from embedcal.datasets.printable import printable
from embedcal.interchange.arrays import FEATURES
from embedcal.interchange.description import KEY, Description, read_description
from embedcal.interchange.imported import Found
from embedcal.interchange.outgoing import Rows
from embedcal.types import EmbedcalError, FloatArray

VECTORS = "embedding"
_GROUP = 1 << 25  # bytes of vectors in a row group


def read_parquet_features(path: Path, features: str | None) -> Found:
    """A Parquet file with a column of equally long lists of floats, and columns of labels.

    The vectors are decoded into memory, row group by row group.
    """
    require_pyarrow(path)
    import pyarrow.parquet as pq

    with reading(path), pq.ParquetFile(path, memory_map=True) as opened:
        name = _vector_column(opened.schema_arrow, features, path)
        blocks = (_vectors(b.column(0), name, path) for b in opened.iter_batches(columns=[name]))
        x = _gathered(blocks, opened.metadata.num_rows, path)
    table = read_parquet(path)
    return Found(
        source=path,
        parts=feature_parts(x),
        table=table,
        ids=table.columns.get("id", ()),
        paths=table.columns.get("path", ()),
        description=parquet_description(path),
    )


def parquet_description(path: Path) -> Description:
    """The names that embedcal wrote into the metadata of a Parquet file, where it did."""
    import pyarrow.parquet as pq

    with reading(path):
        metadata = pq.read_schema(path).metadata or {}
        text = metadata.get(KEY.encode(), b"").decode("utf-8")
    return read_description(text, path) if text else Description()


def _vector_column(schema: Any, features: str | None, path: Path) -> str:
    from pyarrow import types

    kinds = (types.is_fixed_size_list, types.is_list, types.is_large_list)
    vectors = [
        field.name
        for field in schema
        if any(is_kind(field.type) for is_kind in kinds)
        and types.is_floating(field.type.value_type)
    ]
    wanted = (features,) if features else FEATURES
    name = next((name for name in wanted if name in vectors), None)
    if name is None:
        raise EmbedcalError(
            f"expected a column of vectors called {printable(' or '.join(wanted))} in "
            f"{printable(str(path), longest=300)}, found "
            f"{printable(', '.join(vectors), longest=200) or 'none'}: name one with --features"
        )
    return name


def _vectors(column: Any, name: str, path: Path) -> FloatArray:
    """The rows (b, d) of one batch; a row without a vector, or with a shorter one, is refused."""
    import pyarrow.compute as pc

    widths = pc.unique(pc.list_value_length(column)).to_pylist()
    flat = column.flatten()
    if len(widths) > 1 or widths == [None] or flat.null_count:
        raise EmbedcalError(
            f"expected one vector of one length in every row of '{printable(name)}' in "
            f"{printable(str(path), longest=300)}, found blanks or several lengths: remove or mend "
            "those rows"
        )
    array: FloatArray = flat.to_numpy(zero_copy_only=False)
    return array.reshape(len(column), -1)


def _gathered(blocks: Iterator[FloatArray], rows: int, path: Path) -> FloatArray:
    out: FloatArray | None = None
    start = 0
    for block in blocks:
        if out is None:
            out = np.empty((rows, block.shape[1]), block.dtype)
        if block.shape[1] != out.shape[1]:
            raise EmbedcalError(
                f"expected vectors of one length in {printable(str(path), longest=300)}, found "
                f"{out.shape[1]} and {block.shape[1]}: remove or mend those rows"
            )
        out[start : start + len(block)] = block
        start += len(block)
    return np.empty((0, 0), np.float32) if out is None else out


def write_parquet(rows: Rows, path: Path) -> None:
    """A vector column ``embedding``, the labels by code and by name, in row groups of 32 MiB."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    labels = label_table(rows)
    vectors = pa.list_(pa.float32(), rows.width)
    schema = labels.schema.append(pa.field(VECTORS, vectors, nullable=False))
    step = max(1, _GROUP // (4 * rows.width))
    with pq.ParquetWriter(path, schema, use_dictionary=labels.schema.names) as writer:
        for start, block in rows.blocks(step):
            flat = pa.array(np.ascontiguousarray(block, np.float32).reshape(-1))
            column = pa.FixedSizeListArray.from_arrays(flat, type=vectors)
            arrays = [chunked.combine_chunks() for chunked in labels.slice(start, len(block))]
            writer.write_table(pa.Table.from_arrays([*arrays, column], schema=schema))


def label_table(rows: Rows) -> Any:
    """The columns beside the vectors as an Arrow table, with the names in its metadata."""
    import pyarrow as pa

    types = {"str": pa.string(), "int": pa.int32(), "float": pa.float32(), "bool": pa.bool_()}
    columns = rows.columns()
    schema = pa.schema([pa.field(name, types[kind]) for name, (kind, _) in columns.items()])
    described = schema.with_metadata({KEY: rows.description})
    arrays = [
        pa.array(values, field.type)
        for (_, values), field in zip(columns.values(), schema, strict=True)
    ]
    return pa.Table.from_arrays(arrays, schema=described)


def write_labels(table: Any, path: Path, renamed: Mapping[str, str]) -> None:
    """Columns beside the vectors as a Parquet file of their own, under other headers."""
    import pyarrow.parquet as pq

    headers = [renamed.get(name, name) for name in table.column_names]
    named = table.rename_columns(headers).replace_schema_metadata(table.schema.metadata)
    pq.write_table(named, path)
