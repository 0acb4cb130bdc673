"""The one writer of a cache file: nothing that was committed is ever lost.

HDF5 lays the file out once, empty but whole, and is then closed. Rows go in by plain writes at
known offsets, followed by a counter, so that a process killed at any moment leaves a well-formed
file and a true count. What a resumed build relies on is checked: a digest over everything but
the rows, and one CRC-32 a row.
"""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import shutil
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

import filelock
import numpy as np
import numpy.typing as npt

from embedcal.cache.checksums import (
    BLOCK,
    COUNTER,
    CRC,
    add_crc,
    count_sound,
    digest,
    row_paths,
    row_ranges,
)
from embedcal.cache.format import Head
from embedcal.cache.layout import Stored, StoredFile, write_exactly
from embedcal.cache.skeleton import Contents, lay_out
from embedcal.datasets.places import obstacle
from embedcal.types import EmbedcalError

log = logging.getLogger(__name__)

_FULL = (errno.ENOSPC, errno.EDQUOT)
COMMIT_SECONDS = 1.0  # a sync each second costs little, one each batch may cost much

Cut = Callable[[int], int]  # of so many leading rows that are there, how many to keep


def whole_batches(total: int, batch_size: int) -> Cut:
    """Keep whole batches, or all rows where all are there."""
    return lambda rows: rows if rows == total else rows - rows % batch_size


class CacheWriter:
    """Writes ``NAME.h5.part`` under a lock and renames it to ``NAME.h5`` when it is whole.

    Inside ``with CacheWriter(path) as writer`` either ``resume(part)`` or ``create(contents)``
    comes first, then ``write(batch)`` in row order from ``rows_done`` on, then ``finish()``.
    Leaving early keeps the ``.part`` with every row written so far.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.part = path.with_name(path.name + ".part")
        self.rows_done = 0
        self._committed = 0
        self._committed_at = 0.0
        self._fd = -1
        self._head: Head | None = None
        self._arrays: dict[str, Stored] = {}
        self._row_paths: list[str] = []
        self._lock = filelock.FileLock(path.with_name(path.name + ".lock"), timeout=0)
        self._holder = path.with_name(path.name + ".holder")

    # The lock

    def __enter__(self) -> CacheWriter:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise EmbedcalError(
                f"expected to make the folder {self.path.parent}, found: {error.strerror}: name a "
                "file elsewhere with --out"
            ) from None
        try:
            self._lock.acquire()
        except (OSError, NotImplementedError) as error:
            raise self._unlocked(error) from None
        me = {"pid": os.getpid(), "host": socket.gethostname()}
        with contextlib.suppress(OSError):  # a courtesy to the second writer, no more
            self._holder.write_text(json.dumps(me), encoding="utf-8")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        try:
            if self._fd >= 0:
                with contextlib.suppress(OSError, EmbedcalError):
                    self.commit()
                os.close(self._fd)
                self._fd = -1
        finally:
            self._holder.unlink(missing_ok=True)
            self._lock.release()

    def _unlocked(self, error: OSError | NotImplementedError) -> EmbedcalError:
        """Why there is no lock: another writer, a folder that takes no file, a disk without locks.

        filelock waits for its file wherever the system says that there is none, so that it tells
        of another holder also in a folder where none can be made, such as /proc.
        """
        barred = obstacle(self.path)
        if barred:
            return EmbedcalError(
                f"expected to write {self.path}, found: {barred}: make its folder writable, or "
                "name a file elsewhere with --out"
            )
        if isinstance(error, filelock.Timeout):
            return EmbedcalError(
                f"expected to be the only writer of {self.path}, found it held by "
                f"{self._read_holder()}: wait for it to end, or name another file with --out"
            )
        found = getattr(error, "strerror", None) or str(error)
        return EmbedcalError(
            f"expected to lock {self._lock.lock_file}, found: {found}: "
            "name a file on another disk with --out"
        )

    def _read_holder(self) -> str:
        try:
            found = json.loads(self._holder.read_text(encoding="utf-8"))
            return f"process {int(found['pid'])} on {str(found['host'])!r}"
        except (OSError, ValueError, KeyError, TypeError):
            return "another process"

    @property
    def row_arrays(self) -> Mapping[str, Stored]:
        """The arrays that ``write`` wants, by path; known once begun."""
        return {path: self._arrays[path] for path in self._row_paths}

    # Beginning

    def found(self) -> StoredFile | None:
        """An earlier ``.part`` whose labels, text and structure are intact; the caller closes it.

        None, with a warning, where there is one that cannot be trusted. Its rows have checksums of
        their own, which ``resume`` and ``create`` look at.
        """
        if not self.part.exists():
            return None
        try:
            part = StoredFile(self.part)
            # A file killed between seal and rename is already sealed as a whole.
            changing = [] if part.head.state == "complete" else row_ranges(part.arrays)
            if digest(part.fileno(), part.head.length, changing) == part.head.sha256:
                return part
            part.close()
            raise EmbedcalError(
                f"expected intact labels and text, found damage in {self.part}: its rows are "
                "encoded again"
            )
        except EmbedcalError as error:
            log.warning("starting anew: %s", error)
            return None

    def resume(self, part: StoredFile, cut: Cut = int) -> None:
        """Go on from what ``found`` gave.

        ``cut`` says how many of the leading intact rows to keep, so that a resumed build encodes
        the same batches as an undisturbed one.
        """
        self._adopt(part, cut(_count_sound(part)))
        self._open()

    def create(
        self, contents: Contents, *, rows_from: StoredFile | None = None, cut: Cut = int
    ) -> None:
        """Lay out a new ``.part``, replacing any old one only when the new one is whole.

        ``rows_from`` gives rows of the same encoding (a finished file or another ``.part``), which
        are copied with their checksums checked; nothing is encoded again.
        """
        self._check_space(contents.nbytes)
        fresh = self.part.with_name(self.part.name + ".new")
        fresh.unlink(missing_ok=True)
        try:
            lay_out(fresh, contents)
            with StoredFile(fresh) as found:
                self._adopt(found, 0)
            if rows_from is not None:
                self._copy_rows(fresh, rows_from, cut)
            fresh.replace(self.part)
        except (OSError, RuntimeError) as error:
            raise self._explained(error, contents.nbytes) from error
        finally:
            fresh.unlink(missing_ok=True)
        self._open()

    def publish(self, contents: Contents) -> Path:
        """A virtual cache, whole at once: its rows are in the shards beside it."""
        self._check_space(contents.nbytes)
        fresh = self.part.with_name(self.part.name + ".new")
        fresh.unlink(missing_ok=True)
        try:
            lay_out(fresh, contents)
            fresh.replace(self.path)
            self.part.unlink(missing_ok=True)  # of rows that were being joined into one file
            _sync_folder(self.path.parent)
        except (OSError, RuntimeError) as error:
            raise self._explained(error, contents.nbytes) from error
        finally:
            fresh.unlink(missing_ok=True)
        return self.path

    def _adopt(self, found: StoredFile, rows: int) -> None:
        self._head = found.head
        self._arrays = found.arrays
        self._row_paths = row_paths(found.arrays)
        self.rows_done = self._committed = rows

    def _open(self) -> None:
        self._fd = os.open(self.part, os.O_RDWR)
        self._committed_at = time.monotonic()
        self._write_counter()

    def _copy_rows(self, fresh: Path, source: StoredFile, cut: Cut) -> None:
        rows = cut(_count_sound(source))
        done = int(source.read(COUNTER)[0])
        if rows < done and source.head.state == "complete":
            raise EmbedcalError(
                f"expected intact features, found row {rows} of {source.path} changed: restore "
                "the file, or remove it to encode again"
            )
        fd = os.open(fresh, os.O_RDWR)
        try:
            for name in [*self._row_paths, CRC]:
                old, new = source.arrays[name], self._arrays[name]
                assert (old.dtype, old.shape) == (new.dtype, new.shape)
                step = max(1, BLOCK // old.row_bytes)
                for start in range(0, rows, step):
                    block = source.rows(name, start, min(start + step, rows))
                    write_exactly(fd, block, new.offset + start * new.row_bytes)
            os.fsync(fd)
            write_exactly(fd, np.array([rows], "<i8"), self._arrays[COUNTER].offset)
        finally:
            os.close(fd)
        self.rows_done = self._committed = rows

    # Writing

    def write(self, batch: Mapping[str, npt.NDArray[Any]]) -> None:
        """The next rows, one array for each per-row path, types and shapes as laid out."""
        assert set(batch) == set(self._row_paths), set(batch) ^ set(self._row_paths)
        count = len(next(iter(batch.values())))
        start = self.rows_done
        crc = np.zeros(count, "<u4")
        try:
            for name in self._row_paths:
                stored, array = self._arrays[name], np.ascontiguousarray(batch[name])
                assert array.dtype == stored.dtype, (name, array.dtype, stored.dtype)
                assert array.shape == (count, *stored.shape[1:]), (name, array.shape)
                assert start + count <= stored.shape[0]
                add_crc(crc, array)
                write_exactly(self._fd, array, stored.offset + start * stored.row_bytes)
            write_exactly(self._fd, crc, self._arrays[CRC].offset + 4 * start)
            self.rows_done += count
            if time.monotonic() - self._committed_at >= COMMIT_SECONDS:
                self.commit()
        except OSError as error:
            raise self._explained(error, self._remaining_bytes()) from error

    def commit(self) -> None:
        """Rows to the disk first, then the count of them: true after a kill or a power cut."""
        if self.rows_done == self._committed:
            return
        os.fsync(self._fd)
        self._write_counter()
        self._committed_at = time.monotonic()

    def _write_counter(self) -> None:
        offset = self._arrays[COUNTER].offset
        write_exactly(self._fd, np.array([self.rows_done], "<i8"), offset)
        self._committed = self.rows_done

    def finish(self) -> Path:
        """Seal the file: length and SHA-256 into the user block, then the rename."""
        assert self._head is not None
        assert self.rows_done == self._arrays[CRC].shape[0], "rows are missing"
        try:
            self.commit()
            os.fsync(self._fd)
            sealed = digest(self._fd, self._head.length, [])
            head = replace(self._head, state="complete", sha256=sealed)
            write_exactly(self._fd, head.render(), 0)
            os.fsync(self._fd)
            os.close(self._fd)
            self._fd = -1
            self.part.replace(self.path)
            _sync_folder(self.path.parent)
        except OSError as error:
            raise self._explained(error, self._remaining_bytes()) from error
        return self.path

    # A full disk

    def _check_space(self, needed: int) -> None:
        free = shutil.disk_usage(self.path.parent).free
        if free < needed:
            raise self._full(needed, free)

    def _remaining_bytes(self) -> int:
        rows = self._arrays[CRC].shape[0] - self.rows_done
        return rows * sum(self._arrays[name].row_bytes for name in [*self._row_paths, CRC])

    def _explained(self, error: OSError | RuntimeError, needed: int) -> EmbedcalError:
        # HDF5 reports the system's errors within its own text.
        number, text = getattr(error, "errno", None), str(error)
        if number in _FULL or any(f"errno = {full}," in text for full in _FULL):
            return self._full(needed, shutil.disk_usage(self.path.parent).free)
        found = " ".join(str(getattr(error, "strerror", None) or text).split())
        return EmbedcalError(
            f"expected to write {self.part}, found {found}: mend that and run "
            "the same command again; it resumes"
        )

    def _full(self, needed: int, free: int) -> EmbedcalError:
        return EmbedcalError(
            f"expected {needed} bytes of free space for {self.path}, found {free}: free some or "
            f"name a file elsewhere with --out; {self._committed} rows are safe and the same "
            "command resumes"
        )


def _count_sound(file: StoredFile) -> int:
    """Leading rows that are counted and intact, shard by shard where they lie in such."""
    rows = 0
    for shard in file.shards or (file,):
        sound = count_sound(shard)
        rows += sound
        if sound < shard.arrays[CRC].shape[0]:
            break
    return rows


def _sync_folder(folder: Path) -> None:
    with contextlib.suppress(OSError):  # not every system lets a folder be synced
        fd = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
