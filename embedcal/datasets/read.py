"""From a name, a CSV file or a folder to a validated manifest."""

from __future__ import annotations

import difflib
from pathlib import Path

from embedcal.datasets.benchmarks import benchmark, benchmark_names, read_benchmark, read_facts
from embedcal.datasets.build import build_manifest
from embedcal.datasets.manifest import Manifest
from embedcal.datasets.options import ReadOptions
from embedcal.datasets.printable import printable
from embedcal.datasets.table import read_csv, read_tree
from embedcal.types import EmbedcalError


def read_manifest(
    source: str | Path, *, root: str | Path | None = None, options: ReadOptions | None = None
) -> Manifest:
    """Read and check ``source``: a benchmark's name, a CSV file, a folder, or a facts file.

    * ``waterbirds``, ``birds``: see ``benchmark_names()``. A name wins over a file of that name in
      the working folder; write ``./waterbirds`` for the latter.
    * a CSV file with the columns ``path, y, split`` and optionally ``a``, ``id``, ``mask`` and
      further attributes; paths are relative to ``root``, or else to the file's own folder.
    * a folder ``split/class/image`` or ``split/class/attribute/image``.
    * a ``.toml`` file of facts about a benchmark of your own.

    No image is opened. Raises ``EmbedcalError`` naming every fault; with ``options.strict`` every
    warning is one.
    """
    options = options or ReadOptions()
    base = None if root is None else Path(root)
    manifest = _read(str(source), base, options)
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
    if path.is_dir():
        if root is not None:
            raise EmbedcalError(
                f"expected no root beside the folder {printable(source, longest=300)}, which is "
                f"its own, found {printable(str(root), longest=300)}: leave one of them out"
            )
        return build_manifest(read_tree(path), root=path, name=path.resolve().name, options=options)
    if path.is_file() and path.suffix == ".toml":
        return read_benchmark(read_facts(path), root or path.parent, options)
    if path.is_file():
        table = read_csv(path)
        return build_manifest(table, root=root or path.parent, name=path.stem, options=options)
    names = benchmark_names()
    close = difflib.get_close_matches(source.casefold(), names, n=1)
    guess = f": did you mean '{close[0]}'?" if close else ": check the spelling or the path"
    raise EmbedcalError(
        f"expected {', '.join(names)}, or a CSV file or a folder, found "
        f"'{printable(source, longest=300)}', which is none of them{guess}"
    )
