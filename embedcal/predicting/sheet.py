"""Predictions as a CSV file that grows batch by batch, and goes on where it was left."""

from __future__ import annotations

import csv
import errno
import io
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from io import FileIO
from pathlib import Path
from typing import TYPE_CHECKING

from embedcal.datasets.places import obstacle
from embedcal.datasets.printable import printable
from embedcal.datasets.spreadsheet import cell, path_cell
from embedcal.runs import room
from embedcal.types import EmbedcalError

if TYPE_CHECKING:
    from embedcal.predicting.prediction import Predicted

MADE = ("run", "rule", "temperature", "root")
COLUMNS = ("path", "class", "probability", "second", "margin", *MADE)
BESIDE = ("neighbour", "neighbour_class", "similarity")  # each with the neighbour's number
ANOTHER = "name another file with --csv"


@dataclass(frozen=True)
class Stamp:
    """What made a row: the run, the rule that chose its head, and the temperature.

    ``root`` is the folder that its path begins at, spelt in the one way that has no links.
    """

    run: str
    rule: str
    temperature: float
    root: str

    @property
    def cells(self) -> tuple[str, str, str, str]:
        return self.run, self.rule, f"{self.temperature:.9g}", cell(self.root)


def header(neighbours: int) -> tuple[str, ...]:
    """The columns of a file with so many neighbours a row."""
    beside = (f"{name}_{k}" for k in range(1, neighbours + 1) for name in BESIDE)
    return (*COLUMNS, *beside)


@dataclass
class Sheet:
    """An open file. ``done`` counts its rows by path, ``classes`` by class, as cells."""

    path: Path
    stamp: Stamp
    neighbours: int
    file: FileIO
    done: Counter[str] = field(default_factory=Counter)
    classes: Counter[str] = field(default_factory=Counter)

    def write(self, rows: Sequence[Predicted]) -> None:
        """Some rows at once; a killed process leaves whole lines and at most one torn."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        for each in rows:
            beside: list[str] = []
            for near in each.neighbours:
                beside += [cell(near.id), cell(near.class_name), f"{near.similarity:.6f}"]
            blank = [""] * (len(BESIDE) * self.neighbours - len(beside))
            writer.writerow(
                [
                    path_cell(each.name),
                    cell(each.class_name),
                    f"{each.probability:.6f}",
                    cell(each.second),
                    f"{each.margin:.6f}",
                    *self.stamp.cells,
                    *beside,
                    *blank,
                ]
            )
        self.put(text.getvalue().encode())

    def put(self, data: bytes) -> None:
        """Write bytes at the end, unbuffered; NoRoomError where the disk is full."""
        with room(self.path.absolute().parent):
            if self.file.write(data) < len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@contextmanager
def sheet(path: Path, stamp: Stamp, neighbours: int) -> Iterator[Sheet]:
    """The file of ``stamp``'s predictions, new or to be continued; nobody else writes it meanwhile.

    What is there must be rows of the same stamp under the same header; a torn last line is
    dropped. Raises EmbedcalError for any other file, which is left as it is.
    """
    from filelock import FileLock, Timeout

    if not path.absolute().parent.is_dir():  # a lock would make it
        raise EmbedcalError(
            f"expected a folder for {path}, found none: make it, or choose another place"
        )
    lock = FileLock(path.with_name(f".{path.name}.lock"), timeout=0)
    try:
        lock.acquire()
        # Made where it is not there; append mode could not cut a torn line off.
        file = FileIO(os.open(path, os.O_RDWR | os.O_CREAT, 0o644), "r+")
    except OSError as error:
        lock.release()
        barred = obstacle(path)  # where no lock can be made either, filelock says that it is held
        if isinstance(error, Timeout) and not barred:
            raise EmbedcalError(
                f"expected to be alone in writing {path}, found another process at it: wait for "
                f"it, or {ANOTHER}"
            ) from None
        raise EmbedcalError(
            f"expected to write {path}, found: {barred or error.strerror}: choose another place "
            "with --csv"
        ) from None
    try:
        with file:
            found = Sheet(path, stamp, neighbours, file)
            _go_on(found)
            yield found
    finally:
        with suppress(OSError):
            Path(lock.lock_file).unlink(missing_ok=True)
        lock.release()


def _go_on(found: Sheet) -> None:
    """Check what is there, count it, cut a torn line off, and stand at the end."""
    columns = header(found.neighbours)
    first = (",".join(columns) + "\n").encode()
    end = len(first)
    with found.path.open("rb") as there:
        start = there.read(len(first))
        if not first.startswith(start):
            raise _other(found.path, printable(start.decode(errors="replace").split("\n")[0]))
        if start != first:
            found.file.truncate(0)
            found.put(first)
            return
        for number, line in enumerate(there, 2):
            if not line.endswith(b"\n"):
                break
            _count(found, line, number, len(columns))
            end += len(line)
    found.file.truncate(end)
    found.file.seek(end)


def _count(found: Sheet, line: bytes, number: int, columns: int) -> None:
    try:
        (cells,) = csv.reader([line.decode().rstrip("\n")], strict=True)
    except (ValueError, csv.Error):  # UnicodeDecodeError is a ValueError
        cells = []
    if len(cells) != columns:
        raise EmbedcalError(
            f"expected {columns} cells in line {number} of {found.path}, found {len(cells)}: "
            f"delete that line, or {ANOTHER}"
        )
    stamp, made = found.stamp.cells, cells[COLUMNS.index(MADE[0]) : len(COLUMNS)]
    if made[:3] != [*stamp[:3]]:
        run, rule, temperature = map(printable, made[:3])
        raise EmbedcalError(
            f"expected predictions of run {stamp[0]} ({stamp[1]}, temperature {stamp[2]}) in "
            f"{found.path}, found run {run} ({rule}, temperature {temperature}) in line {number}: "
            f"{ANOTHER}"
        )
    if made[3] != stamp[3]:
        here, there = (printable(each, longest=300) for each in (stamp[3], made[3]))
        raise EmbedcalError(
            f"expected paths that begin at {here} in {found.path}, found {there} in line {number}: "
            f"{ANOTHER}"
        )
    found.done[cells[0]] += 1
    found.classes[cells[1]] += 1


def _other(path: Path, start: str) -> EmbedcalError:
    return EmbedcalError(
        f"expected {path} to be new, or predictions with as many neighbours a row, found a file "
        f"that begins with '{start}': {ANOTHER}"
    )
