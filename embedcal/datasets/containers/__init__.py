"""Which reader serves a file or a folder that holds a data set in another tool's form."""

from __future__ import annotations

from pathlib import Path

from embedcal.datasets.containers.parquet import parquet_shards, read_parquet_shards
from embedcal.datasets.containers.saved import is_saved, read_saved
from embedcal.datasets.containers.shards import expand, is_pattern
from embedcal.datasets.containers.webdataset import read_webdataset, webdataset_shards
from embedcal.datasets.options import ReadOptions
from embedcal.datasets.printable import printable
from embedcal.datasets.table import Rows
from embedcal.types import EmbedcalError


def read_container(
    path: Path, *, root: Path | None = None, options: ReadOptions | None = None
) -> tuple[Rows, Path] | None:
    """The table in ``path`` and the folder that its paths begin at; None for another form.

    * a file that ends in ``.parquet``, or a folder of such files, at its top or in ``data``;
    * a file that ends in ``.tar``, or a folder of such files, at its top or in folders of splits;
    * a pattern with braces that stands for files of one of these, ``train-{000..099}.tar``;
    * a folder that Hugging Face's ``save_to_disk`` wrote.

    Raises EmbedcalError for whatever is wrong with the container itself.
    """
    if is_pattern(path) and not path.exists():
        return _read_pattern(path, expand(path), root, options)
    if path.is_file():
        suffix = path.suffix.lower()
        if suffix == ".parquet":
            return read_parquet_shards(path, root=root, options=options)
        return read_webdataset(path, root=root, options=options) if suffix == ".tar" else None
    if is_saved(path):
        return read_saved(path, root=root, options=options)
    if parquet_shards(path):
        return read_parquet_shards(path, root=root, options=options)
    return read_webdataset(path, root=root, options=options) if webdataset_shards(path) else None


def _read_pattern(
    path: Path, shards: tuple[Path, ...], root: Path | None, options: ReadOptions | None
) -> tuple[Rows, Path]:
    suffixes = {shard.suffix.lower() for shard in shards}
    if suffixes == {".tar"}:
        return read_webdataset(path, root=root, options=options, shards=shards)
    if suffixes == {".parquet"}:
        return read_parquet_shards(path, root=root, options=options, shards=shards)
    raise EmbedcalError(
        f"expected braces that stand for .tar or .parquet files, found "
        f"{printable(', '.join(sorted(suffixes)) or 'no suffix')} in "
        f"{printable(str(path), longest=300)}: name files of one of these kinds"
    )
