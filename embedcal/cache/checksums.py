"""What notices a changed byte: one SHA-256 over the file, one CRC-32 over each row.

The SHA-256 is the promise of a finished file. The CRCs serve while a file is being built, when
there is no promise yet, and tell afterwards which rows a damage has hit.
"""

from __future__ import annotations

import hashlib
import os
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from embedcal.cache.format import USER_BLOCK, entry_for
from embedcal.cache.layout import Stored, StoredFile

BLOCK = 1 << 22  # bytes handled at once when hashing or copying
COUNTER = "/rows_done"
CRC = "/samples/crc32"


def add_crc(crc: npt.NDArray[np.uint32], array: npt.NDArray[Any]) -> None:
    """Carry each row's CRC-32 on over its bytes in ``array`` (rows first)."""
    rows = array.reshape(len(array), -1).view(np.uint8)
    for i, row in enumerate(rows):
        crc[i] = zlib.crc32(row, int(crc[i]))


def row_paths(arrays: Mapping[str, Stored]) -> list[str]:
    """The per-row arrays in a fixed order, without the checksum over them."""
    return sorted(
        path
        for path in arrays
        if path != CRC and (found := entry_for(path)) is not None and found[0].per_row
    )


def row_ranges(arrays: Mapping[str, Stored]) -> list[tuple[int, int]]:
    """Byte ranges that change while a file is built."""
    paths = [*row_paths(arrays), CRC, COUNTER]
    return sorted(
        (arrays[path].offset, arrays[path].offset + arrays[path].nbytes) for path in paths
    )


def blocks(total: int) -> list[tuple[int, int]]:
    return [(start, min(start + BLOCK, total)) for start in range(0, total, BLOCK)]


def digest(fd: int, length: int, without: list[tuple[int, int]]) -> str:
    """SHA-256 of everything behind the user block, leaving out some ranges."""
    state = hashlib.sha256()
    end = USER_BLOCK + length
    position = USER_BLOCK
    for start, stop in [*without, (end, end)]:
        for first, last in blocks(start - position):
            state.update(os.pread(fd, last - first, position + first))
        position = stop
    return state.hexdigest()


def sound_rows(file: StoredFile, upto: int) -> npt.NDArray[np.bool_]:
    """For each of the first ``upto`` rows whether its checksum holds."""
    paths = row_paths(file.arrays)
    crc = np.zeros(upto, "<u4")
    step = max(1, BLOCK // max(1, sum(file.arrays[path].row_bytes for path in paths)))
    for start in range(0, upto, step):
        stop = min(start + step, upto)
        for path in paths:
            add_crc(crc[start:stop], file.rows(path, start, stop))
    wanted = file.read(CRC)[:upto]
    return np.asarray(crc == wanted)


def count_sound(file: StoredFile) -> int:
    """How many leading rows are counted and intact."""
    total = file.arrays[CRC].shape[0]
    done = min(max(int(file.read(COUNTER)[0]), 0), total)
    sound = sound_rows(file, done)
    return done if sound.all() else int(np.argmin(sound))
