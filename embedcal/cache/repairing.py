"""A cache written anew beside itself with other bytes for some rows, and sealed again.

The damaged file is never written to. Everything goes into a copy, whose name nothing else opens,
and the copy gets its real name when it is whole: a process killed at any moment leaves the
damaged file as it was.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from embedcal.cache.checksums import (
    BLOCK,
    CRC,
    add_crc,
    blocks,
    digest,
    row_paths,
    sound_rows,
)
from embedcal.cache.format import UNREADABLE
from embedcal.cache.layout import StoredFile, write_exactly
from embedcal.types import EmbedcalError

CHANGED = "its bytes have changed"
NOT_FINITE = "it has NaN or infinity"


def failing_rows(file: StoredFile) -> dict[int, str]:
    """Rows whose per-row bytes fail their own checksum or are not finite, with the reason."""
    n = file.arrays[CRC].shape[0]
    failing = dict.fromkeys(np.flatnonzero(~sound_rows(file, n)).tolist(), CHANGED)
    for path in row_paths(file.arrays):
        if path.startswith("/images/"):
            step = max(1, BLOCK // max(1, file.arrays[path].row_bytes))
            for start in range(0, n, step):
                block = file.rows(path, start, min(start + step, n))
                bad = start + np.flatnonzero(
                    ~np.isfinite(block.reshape(len(block), -1)).all(axis=1)
                )
                failing |= {row: NOT_FINITE for row in bad.tolist() if row not in failing}
    return dict(sorted(failing.items()))


class WorkCopy:
    """A copy of a cache's bytes as ``work``, to be changed and then given its name.

    Inside ``with WorkCopy(source, work) as copy``: ``file`` is the copy, ``write_rows`` and
    ``write_whole`` change it, ``seal`` gives it a user block that fits, ``publish`` its name.
    Leaving without ``publish`` removes the copy. Raises EmbedcalError for a full disk, and for a
    source whose structure cannot be read.
    """

    def __init__(self, source: Path, work: Path) -> None:
        self.work = work
        self._fd = -1
        with StoredFile(source) as original:  # refuses here what cannot be mended
            assert not original.shards, source  # each of them is a file to be mended
            try:
                self._fd = os.open(work, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o666)
                size = os.fstat(original.fileno()).st_size
                for start, stop in blocks(size):
                    write_exactly(self._fd, os.pread(original.fileno(), stop - start, start), start)
            except OSError as error:
                self._discard()
                raise _explained(error, work) from error
        try:
            self.file = StoredFile(work)
        except BaseException:
            self._discard()
            raise

    def __enter__(self) -> WorkCopy:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()
        self._discard()

    def _discard(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        self.work.unlink(missing_ok=True)

    def blank(self, rows: Sequence[int]) -> None:
        """Make rows unreadable ones without a reason, so that no byte of theirs is believed."""
        arrays = self.file.arrays
        empty = {
            path: np.zeros((len(rows), *arrays[path].shape[1:]), arrays[path].dtype)
            for path in row_paths(arrays)
        }
        empty["/samples/status"] = np.full(len(rows), UNREADABLE, "|u1")
        self.write_rows(rows, empty)

    def write_rows(self, rows: Sequence[int], arrays: Mapping[str, npt.NDArray[Any]]) -> None:
        """``arrays[path][i]`` into row ``rows[i]`` of every per-row array, and its checksum."""
        paths = row_paths(self.file.arrays)
        assert set(arrays) == set(paths), set(arrays) ^ set(paths)
        crc = np.zeros(len(rows), "<u4")
        for path in paths:
            stored, array = self.file.arrays[path], np.ascontiguousarray(arrays[path])
            assert array.dtype == stored.dtype, (path, array.dtype, stored.dtype)
            assert array.shape == (len(rows), *stored.shape[1:]), (path, array.shape)
            add_crc(crc, array)
            self._write_each(rows, array, path)
        self._write_each(rows, crc, CRC)

    def _write_each(self, rows: Sequence[int], array: npt.NDArray[Any], path: str) -> None:
        stored = self.file.arrays[path]
        for i, row in enumerate(rows):
            self._write(array[i : i + 1], stored.offset + row * stored.row_bytes)

    def write_whole(self, path: str, array: npt.NDArray[Any]) -> None:
        """Another content for one whole array, type and shape as they are."""
        stored = self.file.arrays[path]
        assert (array.dtype, array.shape) == (stored.dtype, stored.shape), path
        self._write(np.ascontiguousarray(array), stored.offset)

    def _write(self, data: npt.NDArray[Any], offset: int) -> None:
        try:
            write_exactly(self._fd, data, offset)
        except OSError as error:
            raise _explained(error, self.work) from error

    def seal(self) -> bool:
        """A user block that fits; True where these are the very bytes that were first sealed."""
        old = self.file.head
        sealed = digest(self._fd, old.length, [])
        exact = sealed == old.sha256
        head = replace(old, sha256=sealed)
        if not exact:
            head = replace(head, created=datetime.now(UTC).isoformat(timespec="seconds"))
        self._write(np.frombuffer(head.render(), np.uint8), 0)
        return exact

    def publish(self, out: Path) -> None:
        """The copy under its real name, on the disk."""
        try:
            os.fsync(self._fd)
            self.work.replace(out)
        except OSError as error:
            raise _explained(error, self.work) from error


def _explained(error: OSError, work: Path) -> EmbedcalError:
    return EmbedcalError(
        f"expected to write {work}, found {(error.strerror or str(error)).lower()}: make room or "
        "name a file elsewhere with -o; the cache itself is as it was"
    )
