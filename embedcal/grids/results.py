"""A folder of runs, read from its lines: fast, tolerant of what a killed process left behind."""

from __future__ import annotations

import gc
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from embedcal.asked import add, asked_of
from embedcal.runs import RESULTS
from embedcal.types import EmbedcalError

FAILED = "failed.json"


@dataclass
class Results:
    """The latest line of every run of a folder; :meth:`refresh` reads what was added since.

    A torn or damaged line is passed over and counted: its run, if it is there, is found by its
    folder when the grid is resumed.
    """

    folder: Path
    records: dict[str, dict[str, Any]] = field(default_factory=dict)
    damaged: int = 0
    _read: int = 0

    def refresh(self) -> None:
        """Read the lines that were added since the last time; a line without its end can wait."""
        try:
            file = (self.folder / RESULTS).open("rb")
        except FileNotFoundError:
            return
        with file, no_garbage():
            file.seek(self._read)
            for line in file:
                if not line.endswith(b"\n"):
                    break
                self._read += len(line)
                if line.isspace():
                    continue
                try:
                    record = orjson.loads(line)
                    self.records[record["id"]] = record
                except (ValueError, KeyError, TypeError):
                    self.damaged += 1

    @property
    def asked(self) -> dict[str, dict[str, Any]]:
        """The records that some command asked for, in order; runs that are only stages are not.

        All of them where the folder has no ``grid.json``, a folder of single fits.
        """
        named = asked_of(self.folder)
        if named is None:
            return self.records
        return {name: self.records[name] for name in named if name in self.records}


@contextmanager
def no_garbage() -> Iterator[None]:
    """Without the search for cycles, which goes over every record again and again."""
    running = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if not gc.get_freeze_count():  # what was read is old at once, and not gone over now
            gc.freeze()
            gc.unfreeze()
        if running:
            gc.enable()


def load(folder: str | Path) -> Results:
    """The results of a folder of runs; EmbedcalError where there are none."""
    folder = Path(folder).expanduser()
    if not (folder / RESULTS).is_file():
        raise EmbedcalError(
            f"expected a folder of runs with {RESULTS}, found none in {folder}: give the folder "
            "that embedcal grid or fit wrote into"
        )
    results = Results(folder)
    results.refresh()
    return results


def ask(folder: Path, ids: Iterable[str], command: Mapping[str, Any] | None = None) -> None:
    """Add runs, and the command that asks for them, to ``grid.json``, whoever else does so.

    Runs that were in the folder before it had one count as asked for, unless others start from
    them. EmbedcalError where the folder cannot be written to, or its disk is full.
    """

    def there() -> list[str]:
        results = Results(folder)
        results.refresh()
        firsts = {record.get("stage") for record in results.records.values()}
        return [name for name in results.records if name not in firsts]

    add(folder, ids, command, begin=there)
