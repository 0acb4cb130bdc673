"""A table as it stands in a file: text cells under headers, each row with its line number."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePath

from embedcal.datasets.labels import split_code
from embedcal.datasets.printable import printable
from embedcal.datasets.problems import Problem, raise_any
from embedcal.types import EmbedcalError

IMAGE_SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"}
)


@dataclass(frozen=True, kw_only=True)
class Table:
    """Columns of text, all of one length. ``lines`` are file line numbers, header = 1."""

    source: str
    columns: Mapping[str, tuple[str, ...]]
    lines: tuple[int, ...] | None = None
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(next(iter(self.columns.values()))) if self.columns else 0

    def where(self, row: int) -> str:
        """How a message names ``row``: by its line in the file, else by its number from 1."""
        return f"row {row + 1}" if self.lines is None else f"line {self.lines[row]}"

    def show(self, row: int, cell: str) -> str:
        """Where ``row`` is and what stands in it, safe to print."""
        return f"{self.where(row)} ('{printable(cell)}')"

    @classmethod
    def of(cls, columns: Mapping[str, Iterable[object]], *, source: str = "the table") -> Table:
        """A table of Python values, such as ``dict(frame.items())`` of a data frame.

        None and NaN become blank cells.
        """
        text = {
            str(name): tuple("" if v is None or v != v else str(v) for v in values)
            for name, values in columns.items()
        }
        if len({len(cells) for cells in text.values()}) > 1:
            sizes = ", ".join(f"{name} {len(cells)}" for name, cells in text.items())
            raise EmbedcalError(f"expected columns of one length, found {printable(sizes)}")
        return cls(source=source, columns=text)


def read_csv(path: Path) -> Table:
    """The CSV file at ``path`` (commas; tabs where it ends in ``.tsv``), UTF-8, with a header.

    Rows with another number of cells than the header are faults, named by line; blank lines are
    passed over. Line numbers stay right behind quoted cells that hold line breaks.
    """
    shown = printable(str(path), longest=300)
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            tab = path.suffix.lower() == ".tsv"
            reader = csv.reader(file, delimiter="\t" if tab else ",", strict=True)
            rows: list[list[str]] = []
            lines: list[int] = []
            before = 0
            try:
                for row in reader:
                    if any("\0" in cell for cell in row):
                        raise EmbedcalError(
                            f"expected text in {shown}, found a NUL byte at line {before + 1}: "
                            "save it as CSV in UTF-8"
                        )
                    if row:
                        rows.append(row)
                        lines.append(before + 1)
                    before = reader.line_num
            except csv.Error as error:
                raise EmbedcalError(
                    f"expected comma-separated cells in {shown}, found a fault in the record that "
                    f"begins at line {before + 1} ({error}): look for an unclosed quote"
                ) from None
    except UnicodeDecodeError as error:
        raise EmbedcalError(
            f"expected {shown} to be a CSV file in UTF-8, found the byte "
            f"0x{error.object[error.start]:02x} after line {before}: save it as UTF-8 CSV"
        ) from None
    except OSError as error:
        raise EmbedcalError(
            f"expected to read {shown}, found: {error.strerror}: check the path and its permissions"
        ) from None
    if not rows:
        raise EmbedcalError(f"expected a header and rows in {shown}, found an empty file")
    return _table(str(path), rows, lines)


def _table(source: str, rows: list[list[str]], lines: list[int]) -> Table:
    header = [name.strip() for name in rows[0]]
    shown = printable(source, longest=300)
    twice = sorted({name for name in header if header.count(name) > 1})
    if twice:
        raise EmbedcalError(
            f"expected distinct column names in {shown}, found "
            f"'{printable(twice[0])}' more than once: rename one"
        )
    if len(header) == 1 and (";" in header[0] or "\t" in header[0]):
        raise EmbedcalError(
            f"expected commas between the columns of {shown}, found the header "
            f"'{printable(header[0])}': save it with commas, or tabs as .tsv"
        )
    ragged = [i for i in range(1, len(rows)) if len(rows[i]) != len(header)]
    kind = f"row without the header's {len(header)} cells"
    if ragged:
        show = Problem.at(kind, ragged, lambda i: f"line {lines[i]} ({len(rows[i])} cells)")
        raise_any(source, [show])
    columns = list(zip(*rows[1:], strict=True)) or [()] * len(header)
    named = dict(zip(header, columns, strict=True))
    return Table(source=source, columns=named, lines=tuple(lines[1:]))


def read_tree(folder: Path) -> Table:
    """The image files of ``split/class/image`` or ``split/class/attribute/image`` as a table.

    Columns are ``path``, ``y``, ``split`` and, in the deeper form, ``a``. Rows are in the order of
    their paths, the same on every file system. Hidden files are passed over in silence, files
    with another suffix with a note.
    """
    images: list[tuple[str, ...]] = []
    others: list[tuple[str, ...]] = []
    shown = printable(str(folder), longest=300)
    splits = [entry for entry in _entries(folder) if entry.is_dir()]
    strange = [entry.name for entry in splits if split_code(entry.name) is None]
    if strange or not splits:
        found = ", ".join(sorted(strange)) or "no folder"
        hint = (
            f"; there is a metadata.csv: name that file, or a benchmark with {shown} as its root"
            if (folder / "metadata.csv").is_file()
            else ""
        )
        raise EmbedcalError(
            f"expected folders train, val and test in {shown}, found {printable(found)}: "
            f"arrange them as split/class/image or split/class/attribute/image{hint}"
        )
    for split in splits:
        for parts in _walk(Path(split.path), (split.name,)):
            suffix = PurePath(parts[-1]).suffix.lower()
            (images if suffix in IMAGE_SUFFIXES else others).append(parts)
    images.sort()
    depths = {len(parts) for parts in images}
    if not images:
        raise EmbedcalError(f"expected images under {shown}, found none: check the folder")
    if not depths <= {3, 4} or len(depths) > 1:
        usual = 4 if sum(len(p) == 4 for p in images) * 2 > len(images) else 3
        odd = next(parts for parts in images if len(parts) != usual)
        raise EmbedcalError(
            f"expected every image of {shown} at split/class/image, or every one at "
            f"split/class/attribute/image, found '{printable('/'.join(odd))}' beside others: "
            "move it to the depth of the others"
        )
    columns = {
        "path": tuple("/".join(parts) for parts in images),
        "split": tuple(parts[0] for parts in images),
        "y": tuple(parts[1] for parts in images),
    }
    if depths == {4}:
        columns["a"] = tuple(parts[2] for parts in images)
    first = printable("/".join(min(others))) if others else ""
    notes = (f"{len(others):,} files are no images by name; the first is '{first}'",)
    return Table(source=str(folder), columns=columns, notes=notes if others else ())


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as found:
            return [entry for entry in found if not entry.name.startswith(".")]
    except OSError as error:
        raise EmbedcalError(
            f"expected to list {printable(str(folder), longest=300)}, found: {error.strerror}: "
            "check the path and its permissions"
        ) from None


def _walk(folder: Path, parts: tuple[str, ...], deepest: int = 5) -> Iterable[tuple[str, ...]]:
    """Parts of the path of every file below ``folder``.

    The depth is bounded, because links to folders are followed and may form a ring.
    """
    for entry in _entries(folder):
        below = (*parts, entry.name)
        if not entry.is_dir():
            yield below
        elif len(below) < deepest:
            yield from _walk(Path(entry.path), below, deepest)
