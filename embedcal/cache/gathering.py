"""Some rows of the features through read-only pages of the file, or of a virtual cache's shards."""

from __future__ import annotations

import math
import mmap
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from embedcal.cache.layout import StoredFile
from embedcal.types import EmbedcalError, FloatArray, IntArray

CHUNK = 1 << 18  # bytes read and checked at once: what fits into a core's own cache


def gather(stored: StoredFile, level: str, rows: IntArray) -> npt.NDArray[np.float32]:
    """Rows (n, ...) of a level in the order asked for, float32, converted block by block.

    They are read in the order of the file. Nothing stays mapped, so that what is resident is the
    result and no more. Non-finite features are refused with their row numbers.
    """
    path = f"/images/{level}"
    shape = stored.arrays[path].shape[1:]
    out = np.empty((len(rows), *shape), np.float32)
    flat = out.reshape(len(rows), math.prod(shape))
    for places, source, first in _parts(stored, path, rows):
        step = max(1, CHUNK // max(1, source[:1].nbytes))
        for start in range(0, len(places), step):
            some = places[start : start + step]
            block = source.take(rows[some] - first, axis=0).astype(np.float32, copy=False)
            check_finite(block, rows[some], level)
            flat[some] = block
    return out


def stored_rows(stored: StoredFile, path: str, rows: IntArray) -> npt.NDArray[Any]:
    """Rows (n, ...) of any array of rows in the order asked for, as stored."""
    out = np.empty((len(rows), *stored.arrays[path].shape[1:]), stored.arrays[path].dtype)
    flat = out.reshape(len(rows), math.prod(out.shape[1:]))
    for places, source, first in _parts(stored, path, rows):
        flat[places] = source[rows[places] - first]
    return out


def _parts(
    stored: StoredFile, path: str, rows: IntArray
) -> Iterator[tuple[IntArray, npt.NDArray[Any], int]]:
    """Places in ``rows``, the array (m, w) that those rows lie in, and its first row's number."""
    order = np.argsort(rows, kind="stable")
    pieces = stored.arrays[path].pieces
    if not pieces:
        yield order, pages(stored, path), 0
        return
    begin = 0
    ends = np.searchsorted(rows, [piece.stop for piece in pieces], sorter=order).tolist()
    for piece, shard, end in zip(pieces, stored.shards, ends, strict=True):
        if begin < end:
            yield order[begin:end], pages(shard, path), piece.start
        begin = end


def pages(stored: StoredFile, path: str) -> npt.NDArray[Any]:
    """An array (n, w) of one file as pages of it, which cannot be written to.

    Pages that may be written to count as memory that is promised, and the system refuses to promise
    more than it has: only these may be larger than that.
    """
    array = stored.arrays[path]
    skip = array.offset % mmap.ALLOCATIONGRANULARITY
    with stored.held() as file:  # the pages have a handle of their own, until they are let go
        mapped = mmap.mmap(
            file.fileno(),
            array.nbytes + skip,
            access=mmap.ACCESS_READ,
            offset=array.offset - skip,
        )
    flat = np.frombuffer(mapped, array.dtype, math.prod(array.shape), offset=skip)
    return flat.reshape(array.shape[0], math.prod(array.shape[1:]))


def check_finite(block: FloatArray, rows: IntArray, level: str) -> None:
    """EmbedcalError that names those of ``rows`` (n,) whose features (n, w) are not finite."""
    flat = block.reshape(-1)
    with np.errstate(all="ignore"):
        # A sum of squares is finite only if all terms are, and costs less than looking at each.
        if np.isfinite(np.dot(flat, flat)):
            return
    bad = rows[~np.isfinite(block).all(axis=1)]
    if len(bad):
        listed = ", ".join(str(int(row)) for row in bad[:10])
        raise EmbedcalError(
            f"expected finite features, found NaN or infinity at level {level} in rows {listed}"
            f"{' and more' if len(bad) > 10 else ''}: encode them again in fp32"
        )


def finite(array: FloatArray, what: str) -> FloatArray:
    """The array itself, or EmbedcalError where it has NaN or infinity."""
    if not np.isfinite(array).all():
        raise EmbedcalError(
            f"expected finite features, found NaN or infinity in {what}: make the cache again"
        )
    return array
