"""The idx format of MNIST's files: a magic number, big-endian sizes, then bytes."""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from io import BufferedIOBase
from pathlib import Path

import numpy as np
import numpy.typing as npt

from embedcal.datasets.printable import printable
from embedcal.types import EmbedcalError

_BYTES = 0x0800  # magic: two zeros, 8 for unsigned bytes, the number of axes
_MOST = 2**30  # bytes that a header may declare


def read_idx(path: Path, *, axes: int) -> npt.NDArray[np.uint8]:
    """The array of unsigned bytes in an idx file, plain or gzipped, with so many axes.

    Raises EmbedcalError in one line for another magic number, for a file that ends early or goes
    on, and for damaged gzip.
    """
    shown = printable(str(path), longest=300)
    try:
        with path.open("rb") as file:
            zipped = file.read(2) == b"\x1f\x8b"
        with gzip.open(path) if zipped else path.open("rb") as file:
            return _read(file, axes, shown)
    except (OSError, EOFError, zlib.error) as error:
        raise EmbedcalError(
            f"expected an idx file in {shown}, found: {printable(str(error))}: get the file again"
        ) from None


def _read(file: BufferedIOBase, axes: int, shown: str) -> npt.NDArray[np.uint8]:
    head = file.read(4 + 4 * axes)
    magic = int.from_bytes(head[:4], "big")
    if len(head) < 4 + 4 * axes or magic != _BYTES + axes:
        raise EmbedcalError(
            f"expected the magic number 0x{_BYTES + axes:08x} of an idx file with {axes} axes in "
            f"{shown}, found 0x{head[:4].hex()}: get the file again"
        )
    shape = struct.unpack(f">{axes}I", head[4:])
    size = math.prod(shape)
    if size > _MOST:
        raise EmbedcalError(
            f"expected at most {_MOST:,} bytes in {shown}, found {size:,} declared: get the file "
            "again"
        )
    data = file.read(size + 1)  # one more than declared shows whether it goes on
    if len(data) != size:
        found = "more" if len(data) > size else f"{len(data):,}"
        raise EmbedcalError(
            f"expected {size:,} bytes behind the header of {shown}, found {found}: get the file "
            "again"
        )
    return np.frombuffer(data, np.uint8).reshape(shape)
