"""Many files to be read, of which no more are open at once than there is room for."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from embedcal.cache.format import USER_BLOCK
from embedcal.errors import UnjudgedError
from embedcal.types import EmbedcalError

MOST = 64  # files open at once, where the process may have four times as many


def room() -> int:
    """How many may be open: a quarter of what this process is allowed, at most ``MOST``."""
    try:
        import resource

        allowed = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    except (ImportError, OSError):  # no such limit here
        return MOST
    return MOST if allowed == resource.RLIM_INFINITY else max(1, min(MOST, allowed // 4))


def is_at(file: IO[bytes], path: Path) -> bool:
    """Whether the file at a path is still the one that was opened."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


class Handles:
    """Files by path; the one that was not read for longest is closed to make room for another.

    A file that is opened again must be the one that was checked: its length and its first 512
    bytes, which hold the digest of all others, are those of the first time.
    """

    def __init__(self, most: int | None = None) -> None:
        self._most = room() if most is None else most
        self._open: OrderedDict[Path, IO[bytes]] = OrderedDict()
        self._known: dict[Path, tuple[Path, int, bytes]] = {}
        self._closed = False
        self._lock = threading.RLock()

    def __len__(self) -> int:
        """How many are open now."""
        return len(self._open)

    @contextmanager
    def held(self, path: Path) -> Iterator[IO[bytes]]:
        """The open file; inside, no other thread closes it to make room.

        EmbedcalError where it cannot be opened or is another file now, and after ``close``.
        """
        with self._lock:
            if self._closed:
                raise EmbedcalError(
                    f"expected an open cache, found {path} closed: open it again with open_cache"
                )
            file = self._open.pop(path, None) or self._opened(path)
            self._open[path] = file  # the last to be closed
            yield file

    def _opened(self, path: Path) -> IO[bytes]:
        while len(self._open) >= self._most:
            self._open.popitem(last=False)[1].close()
        known = self._known.get(path)
        where = path.absolute() if known is None else known[0]  # wherever the process is by now
        try:
            file = where.open("rb", buffering=0)
        except OSError as error:
            raise UnjudgedError(
                f"expected a readable cache file, found {error.strerror} for {path}: check the path"
            ) from None
        try:
            descriptor = file.fileno()
            found = where, os.fstat(descriptor).st_size, os.pread(descriptor, USER_BLOCK, 0)
            if self._known.setdefault(path, found) != found:
                raise EmbedcalError(
                    f"expected {path} as it was when the cache was opened, found another file of "
                    "that name: open the cache again"
                )
        except BaseException:
            file.close()
            raise
        return file

    def close(self) -> None:
        """Let go of all of them, for good."""
        with self._lock:
            self._closed = True
            while self._open:
                self._open.popitem()[1].close()
