"""Where images to predict are: a folder, a table, a list. One after another, however many."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from embedcal.datasets.printable import printable
from embedcal.datasets.table import IMAGE_SUFFIXES, read_csv
from embedcal.types import EmbedcalError

TABLES = (".csv", ".tsv")
COLUMN = "path"

Images = str | Path | Iterable[str | Path]


@dataclass(frozen=True)
class Listed:
    """One file and its name in answers; ``image`` is False where a folder has another suffix."""

    name: str
    file: Path
    image: bool = True


@dataclass(frozen=True)
class Listing:
    """Files, one after another, and the folder ``root`` that their names begin at."""

    root: Path
    files: Iterator[Listed]

    def __iter__(self) -> Iterator[Listed]:
        return self.files


def listed(images: Images, root: str | Path | None = None) -> Listing:
    """The files that ``images`` stands for, found while they are asked for.

    A folder is walked in the order of its sorted paths, whatever the depth; hidden files are
    passed over in silence, and names are below the folder. A ``.csv`` or ``.tsv`` file has a
    column ``path``, a ``.txt`` file a path a line; any other file is one image, whose name is its
    path as given. Paths in a table or a list are below ``root``, by default the file's own folder,
    or for a list of Python's the working folder. Raises EmbedcalError at once for a source that
    is not there.
    """
    if not isinstance(images, str | os.PathLike):
        return _below(map(_path, images), Path(root or ""))
    path = Path(images).expanduser()
    shown = printable(str(path), longest=300)
    if path.is_dir():
        if root is not None:
            raise EmbedcalError(
                f"expected no root beside the folder {shown}, which is its own, found "
                f"{printable(str(root), longest=300)}: leave one of them out"
            )
        return Listing(path, _walk(path))
    if not path.exists():
        raise EmbedcalError(f"expected images in {shown}, found nothing there: check the path")
    base = path.parent if root is None else Path(root).expanduser()
    if path.suffix.lower() in TABLES:
        return _below(_column(path), base)
    if path.suffix.lower() == ".txt":
        return _below(_lines(path), base)
    return Listing(Path(), iter([Listed(str(path), path)]))


def _path(image: object) -> str:
    """One of a list of paths; an array or bytes would be taken for paths of its elements."""
    if not isinstance(image, str | os.PathLike):
        raise EmbedcalError(
            f"expected paths of images, found {type(image).__name__} among them: write the images "
            "to files"
        )
    return os.fspath(image)


def _below(names: Iterable[str], root: Path) -> Listing:
    return Listing(root, (Listed(name, root / name) for name in names))


def _column(path: Path) -> tuple[str, ...]:
    table = read_csv(path)
    if COLUMN not in table.columns:
        found = ", ".join(printable(name) for name in table.columns)
        raise EmbedcalError(
            f"expected a column 'path' in {printable(str(path), longest=300)}, found {found}: "
            "rename one"
        )
    cells = table.columns[COLUMN]
    if "" in cells:
        raise EmbedcalError(
            f"expected a path in every row of {printable(str(path), longest=300)}, found none in "
            f"{table.where(cells.index(''))}: fill it in, or remove the row"
        )
    return cells


def _lines(path: Path) -> Iterator[str]:
    try:
        with path.open(encoding="utf-8-sig") as file:
            for line in file:
                if line.strip():
                    yield line.rstrip("\n")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "bytes that are not UTF-8"
        raise EmbedcalError(
            f"expected a path a line in {printable(str(path), longest=300)}, found {why}: "
            "mend the list"
        ) from None


def _walk(folder: Path) -> Iterator[Listed]:
    """Depth first, each folder's entries by name. Links are followed, but not into a ring."""
    pending = [("", folder, frozenset[tuple[int, int]]())]
    while pending:
        name, path, above = pending.pop()
        try:
            if not path.is_dir():
                yield Listed(name, path, path.suffix.lower() in IMAGE_SUFFIXES)
                continue
            facts = path.stat()
            here = (facts.st_dev, facts.st_ino)
            with os.scandir(path) as found:
                entries = sorted((each.name for each in found), reverse=True)
        except OSError:
            yield Listed(f"{name}/", path)  # whoever reads it will say why it cannot be read
            continue
        if here not in above:
            below = f"{name}/" if name else ""
            pending += [
                (below + entry, path / entry, above | {here})
                for entry in entries
                if not entry.startswith(".")
            ]
