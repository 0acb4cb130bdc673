"""SHA-256 of many files, in threads, with a side table that saves hashing a file twice.

The table is no part of any identity: it maps (path, size, times) to a digest, forgets a file as
soon as one of them changes, and may be deleted at any time. Files touched within the last seconds
are not entered, since a clock's step may hide a second change.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import sqlite3
import stat
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path

import numpy as np
import numpy.typing as npt

from embedcal.datasets.places import data_dir

log = logging.getLogger(__name__)

MAX_FILE_BYTES = 1 << 30  # a picture's file is smaller; a hostile one should not fill the memory
_SETTLED_NS = 2_000_000_000
_SCHEMA = (
    "CREATE TABLE IF NOT EXISTS digests "
    "(path BLOB PRIMARY KEY, size INTEGER, mtime_ns INTEGER, ctime_ns INTEGER, sha256 BLOB)"
)


def read_regular(path: Path) -> bytes:
    """All bytes of a regular file; OSError for anything else, pipes and huge files included."""
    with _open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        return file.read(size + 1)  # room for all that is asked for is taken first


def _open_regular(path: Path) -> BufferedReader:
    # Without O_NONBLOCK, a pipe would wait for its writer.
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    try:
        _refuse_odd(os.fstat(descriptor))
    except OSError:
        os.close(descriptor)
        raise
    return os.fdopen(descriptor, "rb")


def _refuse_odd(facts: os.stat_result) -> None:
    if stat.S_ISDIR(facts.st_mode):
        raise OSError(errno.EISDIR, os.strerror(errno.EISDIR))
    if not stat.S_ISREG(facts.st_mode):
        raise OSError(errno.EINVAL, "not a regular file")
    if facts.st_size > MAX_FILE_BYTES:
        raise OSError(errno.EINVAL, "larger than 1 GiB")


@dataclass(frozen=True)
class _Hashed:
    size: int
    mtime_ns: int
    ctime_ns: int
    sha256: bytes


def digest_files(
    paths: Sequence[Path],
    *,
    workers: int,
    table: Path | None = None,
    trust: bool = True,
    progress: Callable[[int], None] | None = None,
) -> npt.NDArray[np.uint8]:
    """(n, 32) digests in the order of ``paths``; zeros where no bytes can be read.

    ``trust`` False hashes every file again and renews the table.
    """
    began = time.time_ns()
    out = np.zeros((len(paths), 32), np.uint8)
    known = _load(table, paths) if trust else {}
    fresh: dict[bytes, _Hashed] = {}
    with ThreadPoolExecutor(workers) as pool:
        results = pool.map(lambda path: _digest(path, known.get(os.fsencode(path))), paths)
        for i, found in enumerate(results):
            if found is not None:
                out[i] = np.frombuffer(found.sha256, np.uint8)
                key = os.fsencode(paths[i])
                if found is not known.get(key):
                    fresh[key] = found
            if progress is not None:
                progress(i + 1)
    _save(table, fresh, began - _SETTLED_NS)
    return out


def digest_table() -> Path:
    """Where digests of files are remembered."""
    return data_dir() / "digests.sqlite"


def forget(table: Path, path: Path) -> None:
    """Drop one file from the table, after its digest turned out to be wrong."""
    try:
        with closing(sqlite3.connect(table)) as connection, connection:
            connection.execute("DELETE FROM digests WHERE path = ?", (os.fsencode(path),))
    except sqlite3.Error as error:
        log.warning("could not update %s: %s", table, error)


def _digest(path: Path, known: _Hashed | None) -> _Hashed | None:
    try:
        with _open_regular(path) as file:
            facts = os.fstat(file.fileno())
            now = (facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns)
            if known is not None and (known.size, known.mtime_ns, known.ctime_ns) == now:
                return known
            return _Hashed(*now, hashlib.file_digest(file, "sha256").digest())
    except (OSError, ValueError):
        return None


def _load(table: Path | None, paths: Sequence[Path]) -> dict[bytes, _Hashed]:
    if table is None or not table.exists():
        return {}
    found: dict[bytes, _Hashed] = {}
    query = "SELECT size, mtime_ns, ctime_ns, sha256 FROM digests WHERE path = ?"
    try:
        with closing(sqlite3.connect(table)) as connection:
            for path in paths:
                key = os.fsencode(path)
                row = connection.execute(query, (key,)).fetchone()
                if row is not None and isinstance(row[3], bytes) and len(row[3]) == 32:
                    found[key] = _Hashed(*row)
    except sqlite3.Error as error:
        log.warning("hashing every image, since %s cannot be read: %s", table, error)
        return {}
    return found


def _save(table: Path | None, fresh: dict[bytes, _Hashed], settled: int) -> None:
    """Remember what had not been changed since ``settled``, in ns since 1970, when it was read."""
    if table is None:
        return
    rows = [
        (key, found.size, found.mtime_ns, found.ctime_ns, found.sha256)
        for key, found in fresh.items()
        if max(found.mtime_ns, found.ctime_ns) < settled
    ]
    if not rows:
        return
    try:
        table.parent.mkdir(parents=True, exist_ok=True)
        with closing(sqlite3.connect(table)) as connection, connection:
            connection.execute(_SCHEMA)
            connection.executemany("INSERT OR REPLACE INTO digests VALUES (?, ?, ?, ?, ?)", rows)
    except (sqlite3.Error, OSError) as error:
        log.warning("digests are not remembered, since %s cannot be written: %s", table, error)
