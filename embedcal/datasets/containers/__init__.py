"""Which reader serves a file or a folder that holds a data set in another tool's form."""

from __future__ import annotations

from pathlib import Path

from embedcal.datasets.containers.parquet import parquet_shards, read_parquet_shards
from embedcal.datasets.containers.saved import is_saved, read_saved
from embedcal.datasets.containers.webdataset import read_webdataset, webdataset_shards
from embedcal.datasets.options import ReadOptions
from embedcal.datasets.table import Table


def read_container(
    path: Path, *, root: Path | None = None, options: ReadOptions | None = None
) -> tuple[Table, Path] | None:
    """The table in ``path`` and the folder that its paths begin at; None for another form.

    * a file that ends in ``.parquet``, or a folder of such files, at its top or in ``data``;
    * a file that ends in ``.tar``, or a folder of such files, at its top or in folders of splits;
    * a folder that Hugging Face's ``save_to_disk`` wrote.

    Raises EmbedcalError for whatever is wrong with the container itself.
    """
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
