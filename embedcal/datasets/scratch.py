"""Files without a name, for what has a part for every row: even a kill leaves nothing of them."""

from __future__ import annotations

import errno
import math
import mmap
import os
import tempfile
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from embedcal.datasets.places import data_dir
from embedcal.types import EmbedcalError

SMALL = 1 << 20  # bytes; an array of no more stays in memory
_MOST = 1 << 30  # bytes that one call to the system takes
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Scratch:
    """A file that is written at its end and read anywhere; it goes with the last who holds this.

    It lies in the user's data directory, or where temporary files do if that cannot be written,
    and is made by the first ``append``. EmbedcalError for a full disk.
    """

    def __init__(self) -> None:
        self._fd = -1
        self._end = 0

    def append(self, data: bytes) -> int:
        """Write ``data``; where it begins."""
        if self._fd < 0:
            self._fd = _open_unnamed()
            weakref.finalize(self, os.close, self._fd)
        start, view = self._end, memoryview(data)
        with _room():
            while view:
                done = os.pwrite(self._fd, view[:_MOST], self._end)
                self._end += done
                view = view[done:]
        return start

    def read(self, start: int, size: int) -> bytes:
        """``size`` bytes from ``start`` on, which an ``append`` wrote; safe in threads."""
        parts = []
        while size:
            part = os.pread(self._fd, min(size, _MOST), start)
            assert part, "beyond what was written"
            parts.append(part)
            start, size = start + len(part), size - len(part)
        return b"".join(parts)


def scratch_array(shape: tuple[int, ...], kind: npt.DTypeLike) -> npt.NDArray[Any]:
    """Zeros; where they are many, in pages of a file, which the system may take out of memory.

    EmbedcalError for a full disk.
    """
    dtype = np.dtype(kind)
    size = math.prod(shape) * dtype.itemsize
    if size <= SMALL:
        return np.zeros(shape, dtype)
    fd = _open_unnamed()
    try:
        with _room():
            _reserve(fd, size)
            pages = mmap.mmap(fd, size)
    finally:
        os.close(fd)
    return np.frombuffer(pages, dtype).reshape(shape)


def _reserve(fd: int, size: int) -> None:
    """Real blocks: a page for which there is no room would end the process at its first use."""
    os.ftruncate(fd, size)
    if hasattr(os, "posix_fallocate"):
        try:
            os.posix_fallocate(fd, 0, size)
        except OSError as error:
            if error.errno in _FULL:
                raise


def _open_unnamed() -> int:
    home = data_dir()
    try:
        home.mkdir(parents=True, exist_ok=True)
        return _unnamed_in(home)
    except OSError:  # a home that cannot be written is no reason not to read a table
        with _room():
            return _unnamed_in(None)


def _unnamed_in(folder: Path | None) -> int:
    with tempfile.TemporaryFile(dir=folder) as file:
        return os.dup(file.fileno())


@contextmanager
def _room() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise EmbedcalError(
            f"expected room for working files in {data_dir()}, found: {error.strerror or error}: "
            "make room there, or set EMBEDCAL_HOME to another folder"
        ) from None
