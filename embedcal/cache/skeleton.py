"""The file before its first row: laid out by HDF5 once, then never touched by HDF5 again."""

from __future__ import annotations

import errno
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import h5py
import numpy as np
import numpy.typing as npt

from embedcal.cache.checksums import COUNTER, CRC, digest, row_ranges
from embedcal.cache.format import (
    ATTRIBUTES,
    FORMAT,
    FORMAT_VERSION,
    USER_BLOCK,
    Head,
    canonical,
    entry_for,
    schema_order,
)
from embedcal.cache.layout import StoredFile, write_exactly
from embedcal.cache.virtual import map_rows
from embedcal.types import EmbedcalError


@dataclass(frozen=True, kw_only=True)
class Contents:
    """All that is known before the first row.

    ``attributes`` are the root attributes, ``fixed`` whole arrays by path, ``rows`` the type and
    full shape of each array that is filled batch by batch (``/samples/crc32`` adds itself).
    ``sources`` are the shards, by name and number of rows, that hold those arrays of a virtual
    cache; empty for any other file.
    """

    attributes: Mapping[str, Any]
    fixed: Mapping[str, npt.NDArray[Any]]
    rows: Mapping[str, tuple[np.dtype[Any], tuple[int, ...]]]
    sources: tuple[tuple[str, int], ...] = ()

    @property
    def nbytes(self) -> int:
        """Bytes that the file will take, with room for HDF5's own structures."""
        arrays = sum(array.nbytes for array in self.fixed.values())
        rows = sum(dtype.itemsize * math.prod(shape) for dtype, shape in self.rows.values())
        rows = 512 * len(self.sources) * len(self.rows) if self.sources else rows
        return arrays + rows + 1024 * (len(self.fixed) + len(self.rows)) + (1 << 16)


def lay_out(path: Path, contents: Contents) -> None:
    """Write the file whole but for its rows: structure, fixed arrays, user block, real blocks.

    A virtual cache has no rows of its own, so it is complete at once.
    """
    names = [attribute.name for attribute in ATTRIBUTES]
    attributes = {"format": FORMAT, "format_version": FORMAT_VERSION, **contents.attributes}
    assert set(attributes) == set(names), set(attributes) ^ set(names)
    n = contents.fixed["/samples/id"].shape[0]
    done = n if contents.sources else 0
    given = {COUNTER: np.array([done], "<i8"), **contents.fixed}
    # In one order whoever brings them: equal contents are equal bytes.
    fixed = {name: given[name] for name in sorted(given, key=schema_order)}
    rows = {**contents.rows, CRC: (np.dtype("<u4"), (n,))}
    # Aligned arrays can be used in place by whatever wants whole cache lines.
    aligned = {"alignment_threshold": 256, "alignment_interval": 64}
    with h5py.File(path, "w", userblock_size=USER_BLOCK, **aligned) as file:
        for name in names:
            value = attributes[name]
            scalar = np.array(value, "<i8") if isinstance(value, int) else _text_scalar(value)
            file.attrs.create(name, scalar, dtype=scalar.dtype)
        for name, array in fixed.items():
            _preallocate(file, name, array.dtype, array.shape)
        for name in sorted(rows, key=schema_order):  # last, so that what they need stands before
            dtype, shape = rows[name]
            _preallocate(file, name, dtype, shape, contents.sources)
    size = path.stat().st_size
    head = Head(
        state="building",
        length=size - USER_BLOCK,
        sha256="0" * 64,
        identity=attributes["identity"],
        fingerprint=attributes["fingerprint"],
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    fd = os.open(path, os.O_RDWR)
    try:
        if hasattr(os, "posix_fallocate"):
            _reserve(fd, size)
        write_exactly(fd, head.render(), 0)
        with StoredFile(path, linked="ignore") as found:
            for name, array in fixed.items():
                write_exactly(fd, np.ascontiguousarray(array), found.arrays[name].offset)
            changing = [] if contents.sources else row_ranges(found.arrays)
        state: Literal["building", "complete"] = "complete" if contents.sources else "building"
        sealed = digest(fd, head.length, changing)
        write_exactly(fd, replace(head, state=state, sha256=sealed).render(), 0)
        os.fsync(fd)
    finally:
        os.close(fd)


def _preallocate(
    file: Any,
    name: str,
    dtype: np.dtype[Any],
    shape: tuple[int, ...],
    sources: tuple[tuple[str, int], ...] = (),
) -> None:
    """One contiguous array whose place in the file is fixed now and whose bytes come later.

    With ``sources`` the array is virtual: its rows are those of the shards, one after another.
    """
    assert entry_for(name) is not None, name
    creation = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    if sources:
        map_rows(creation, name, shape, sources)
    else:
        creation.set_layout(h5py.h5d.CONTIGUOUS)
        creation.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
        creation.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    creation.set_obj_track_times(False)  # equal contents are equal bytes
    linking = h5py.h5p.create(h5py.h5p.LINK_CREATE)
    linking.set_create_intermediate_group(True)
    stored = h5py.string_dtype("utf-8", dtype.itemsize) if dtype.kind == "S" else dtype
    h5py.h5d.create(
        file.id,
        name.encode("utf-8"),
        h5py.h5t.py_create(stored, logical=True),
        h5py.h5s.create_simple(shape),
        creation,
        linking,
    )


def _reserve(fd: int, size: int) -> None:
    """Real blocks for the whole file, so that a disk that fills up later cannot stop the build."""
    try:
        os.posix_fallocate(fd, 0, size)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise


def _text_scalar(value: Any) -> npt.NDArray[np.bytes_]:
    raw = (value if isinstance(value, str) else canonical(value)).encode("utf-8")
    if len(raw) > 60_000:  # an HDF5 object header ends at 64 KiB
        raise EmbedcalError(
            f"expected at most 60000 bytes in one root attribute of a cache, found {len(raw)}: "
            "shorten the encoder's preprocessing record or the attribute names"
        )
    return np.array(raw, dtype=h5py.string_dtype("utf-8", max(1, len(raw))))
