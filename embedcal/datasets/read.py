"""From a name, a CSV file or a folder to a validated manifest."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from embedcal.datasets.build import build_manifest
from embedcal.datasets.manifest import Manifest
from embedcal.datasets.named import benchmark, benchmark_names, read_benchmark, read_facts
from embedcal.datasets.named.splitting import parse_rule, refuse_seed, split_rows
from embedcal.datasets.options import ReadOptions, crop_of, refuse_making
from embedcal.datasets.printable import printable
from embedcal.datasets.table import Rows, read_csv, read_tree
from embedcal.errors import did_you_mean
from embedcal.types import EmbedcalError


def read_manifest(
    source: str | Path, *, root: str | Path | None = None, options: ReadOptions | None = None
) -> Manifest:
    """Read and check ``source``: a benchmark's name, a CSV file, a folder, or a facts file.

    * ``waterbirds``, ``birds``: see ``benchmark_names()``. A name wins over a file of that name in
      the working folder; write ``./waterbirds`` for the latter.
    * a CSV file with the columns ``path, y, split`` and optionally ``a``, ``id``, ``mask`` and
      further attributes; paths are relative to ``root``, or else to the file's own folder.
    * a Parquet file of the same columns; a folder of Parquet shards, of WebDataset shards, or one
      that Hugging Face's ``save_to_disk`` wrote: images inside them are unpacked once. Braces
      name several files, as in ``train-{000000..000099}.tar``.
    * a folder ``split/class/image`` or ``split/class/attribute/image``, or, with
      ``options.split``, ``class/image``.
    * a ``.toml`` file of facts about a data set of your own.

    No image is opened. Raises ``EmbedcalError`` naming every fault; with ``options.strict`` every
    warning is one.

    Example:
        >>> import embedcal
        >>> found = embedcal.read_manifest("birds", options=embedcal.ReadOptions(rows=240))
        >>> found.name, len(found.y), found.classes
        ('birds', 240, ('landbird', 'waterbird'))
    """
    options = options or ReadOptions()
    crop_of(options.crop)  # before anything is made or unpacked
    base = None if root is None else Path(root)
    manifest = _read(str(source), base, options)
    if options.boxes is not None:
        from embedcal.datasets.coco import read_boxes

        manifest = replace(
            manifest, box=read_boxes(Path(options.boxes).expanduser(), manifest.paths)
        )
    if options.strict and manifest.warnings:
        raise EmbedcalError(
            f"expected {printable(str(source), longest=300)} to pass the strict check, found "
            f"{'; '.join(manifest.warnings)}: mend the data, or leave out --strict to go on"
        )
    return manifest


def _read(source: str, root: Path | None, options: ReadOptions) -> Manifest:
    if source in benchmark_names():
        return read_benchmark(benchmark(source), root, options)
    path = Path(source).expanduser()
    if path.is_file() and path.suffix == ".toml":
        return read_benchmark(read_facts(path), root or path.parent, options)
    if not path.exists() and not _is_pattern(path):
        hint = did_you_mean(source, benchmark_names(), "check the spelling or the path")
        raise EmbedcalError(
            "expected a named data set ('embedcal datasets' lists them), a file or a folder, found "
            f"'{printable(source, longest=300)}', which is none of them: {hint}"
        )
    refuse_making(options, source)
    table, base = _table(path, root, options)
    return build_manifest(_cut(table, options), root=base, name=_name(path), options=options)


def _name(path: Path) -> str:
    """What a data set without a name is called: as its folder or file, of braces what is before."""
    if path.is_dir():
        return path.resolve().name
    if not path.exists():
        from embedcal.datasets.containers.shards import base_of

        before = re.split(r"[-_.]*\{", str(path))[0].rpartition("/")[2]
        return before or base_of(path).resolve().name
    return path.stem


def _is_pattern(path: Path) -> bool:
    from embedcal.datasets.containers.shards import is_pattern

    return is_pattern(path)


def _table(path: Path, root: Path | None, options: ReadOptions) -> tuple[Rows, Path]:
    """The table of a file or a folder, and the folder that its paths begin at."""
    from embedcal.datasets.containers import read_container

    held = read_container(path, root=root, options=options)
    if held is not None:
        return held
    if path.is_file():
        return read_csv(path), root or path.parent
    if root is not None:
        raise EmbedcalError(
            f"expected no root beside the folder {printable(str(path), longest=300)}, which is "
            f"its own, found {printable(str(root), longest=300)}: leave one of them out"
        )
    return read_tree(path), path


def _cut(table: Rows, options: ReadOptions) -> Rows:
    """The table with the split that ``options.split`` draws, in place of its own if it has one."""
    if options.split is None:
        refuse_seed(options.split_seed, None)
        return table
    y, split = (options.columns.get(key, key) for key in ("y", "split"))
    named = options.attributes if isinstance(options.attributes, Mapping) else ("a",)
    headers = [y, *(options.columns.get(key, key) for key in named)]
    known = [header for header in headers if header in table.columns]
    rule = parse_rule(options.split, known, options.split_seed)
    drawn = split_rows(rule, table.columns, len(table))
    return replace(table, columns={**table.columns, split: drawn})
