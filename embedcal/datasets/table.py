"""A table as it stands in a file: text cells under headers, each row with its line number."""

from __future__ import annotations

import csv
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath

from embedcal.datasets.labels import integer, split_code
from embedcal.datasets.printable import printable
from embedcal.datasets.problems import Problem, raise_any
from embedcal.types import EmbedcalError

IMAGE_SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"}
)


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Columns of text, all of one length; each a tuple, or in a file (``StoredText``).

    ``lines`` are file line numbers, header = 1.

    ``names`` holds, for columns whose values a source names itself, those names in the order of
    their labels. ``place`` says of a row where it is in files that hold the table between them.
    """

    source: str
    columns: Mapping[str, Sequence[str]]
    lines: tuple[int, ...] | None = None
    notes: tuple[str, ...] = ()
    names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    place: Callable[[int], str] | None = None

    def __len__(self) -> int:
        return len(next(iter(self.columns.values()))) if self.columns else 0

    def where(self, row: int) -> str:
        """How a message names ``row``: by its line in the file, else by its number from 1."""
        if self.lines is not None:
            return f"line {self.lines[row]}"
        return f"row {row + 1}" + (f", {self.place(row)}" if self.place is not None else "")

    def show(self, row: int, cell: str) -> str:
        """Where ``row`` is and what stands in it, safe to print."""
        return f"{self.where(row)} ('{printable(cell)}')"


@dataclass(frozen=True, kw_only=True)
class Table(Rows):
    """Rows in memory."""

    columns: Mapping[str, tuple[str, ...]]

    @classmethod
    def of(cls, columns: Mapping[str, Iterable[object]], *, source: str = "the table") -> Table:
        """A table of Python values, such as ``dict(frame.items())`` of a data frame.

        None and NaN become blank cells.
        """
        text = {str(name): tuple(map(cell_of, values)) for name, values in columns.items()}
        if len({len(cells) for cells in text.values()}) > 1:
            sizes = ", ".join(f"{name} {len(cells)}" for name, cells in text.items())
            raise EmbedcalError(
                f"expected columns of one length, found {printable(sizes)}: give each as many "
                "values as there are rows"
            )
        return cls(source=source, columns=text)


def cell_of(value: object) -> str:
    """One value as a CSV file would have it: None and NaN blank, 3.0 as 3, True as True."""
    if value is None or type(value).__name__ in ("NAType", "NaTType"):  # pandas' own
        return ""
    if isinstance(value, float):
        if value != value:
            return ""
        return str(int(value)) if value.is_integer() and abs(value) < 2**53 else repr(value)
    return str(value)


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
        raise EmbedcalError(
            f"expected a header and rows in {shown}, found an empty file: write column names into "
            "its first line, and a row for each image"
        )
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
    """The image files of a folder of folders as a table.

    Either ``split/class/image`` or ``split/class/attribute/image``, or, where no folder at the
    top is named like a split, ``class/image`` or ``class/attribute/image``. Columns are ``path``,
    ``y``, in the first two forms ``split``, and in the deeper ones ``a``. Rows are in the order
    of their paths, the same on every file system. Hidden files are passed over in silence, files
    with another suffix with a note. Folders called ``0``, ``1`` and ``2`` alone are splits, unless
    the images lie directly in them.
    """
    shown = printable(str(folder), longest=300)
    entries = _entries(folder)
    tops = [entry for entry in entries if entry.is_dir()]
    strange = sorted(entry.name for entry in tops if split_code(entry.name) is None)
    words = [e for e in tops if split_code(e.name) is not None and integer(e.name) is None]
    has_table = (folder / "metadata.csv").is_file()
    if not tops or (strange and (words or has_table)):
        hint = (
            f"; there is a metadata.csv: name that file, or a benchmark with {shown} as its root"
            if has_table
            else ""
        )
        raise EmbedcalError(
            f"expected folders train, val and test in {shown}, or folders of classes alone, found "
            f"{printable(', '.join(strange) or 'no folder')}: arrange them as split/class/image "
            f"or split/class/attribute/image, or without any split{hint}"
        )
    images: list[tuple[str, ...]] = []
    others: list[tuple[str, ...]] = []
    for top in tops:
        for parts in _walk(Path(top.path), (top.name,)):
            (images if _is_image(parts[-1]) else others).append(parts)
    if not images:
        raise EmbedcalError(f"expected images under {shown}, found none: check the folder")
    cut = not strange and (bool(words) or any(len(parts) != 2 for parts in images))
    if not cut:
        images += [(e.name,) for e in entries if not e.is_dir() and _is_image(e.name)]
    images.sort()
    deep = _depth(images, shown, "split/class" if cut else "class") == (4 if cut else 3)
    columns = {"path": tuple("/".join(parts) for parts in images)}
    if cut:
        columns["split"] = tuple(parts[0] for parts in images)
    columns["y"] = tuple(parts[cut] for parts in images)
    if deep:
        columns["a"] = tuple(parts[cut + 1] for parts in images)
    first = printable("/".join(min(others))) if others else ""
    notes = (f"{len(others):,} files are no images by name; the first is '{first}'",)
    return Table(source=str(folder), columns=columns, notes=notes if others else ())


def _is_image(name: str) -> bool:
    return PurePath(name).suffix.lower() in IMAGE_SUFFIXES


def _depth(images: list[tuple[str, ...]], shown: str, form: str) -> int:
    """The one depth of all images: that of ``form/image``, or one more."""
    shallow = form.count("/") + 2
    depths = {len(parts) for parts in images}
    if len(depths) > 1 or not depths <= {shallow, shallow + 1}:
        deep = sum(len(parts) == shallow + 1 for parts in images) * 2 > len(images)
        odd = next(parts for parts in images if len(parts) != shallow + deep)
        raise EmbedcalError(
            f"expected every image of {shown} at {form}/image, or every one at "
            f"{form}/attribute/image, found '{printable('/'.join(odd))}' beside others: "
            "move it to the depth of the others"
        )
    return depths.pop()


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as found:
            return [entry for entry in found if not entry.name.startswith(".")]
    except OSError as error:
        raise EmbedcalError(
            f"expected to list {printable(str(folder), longest=300)}, found: {error.strerror}: "
            "check the path and its permissions"
        ) from None


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _walk(folder: Path, parts: tuple[str, ...], deepest: int = 5) -> Iterable[tuple[str, ...]]:
    """Parts of the path of every file below ``folder``.

    The depth is bounded, because links to folders are followed and may form a ring.
    """
    for entry in _entries(folder):
        below = (*parts, entry.name)
        if not _is_folder(entry):
            yield below
        elif len(below) < deepest:
            yield from _walk(Path(entry.path), below, deepest)
