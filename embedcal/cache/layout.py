"""Where every array of a cache file lies, after checking that nothing else lies in it.

The arrays are contiguous, so HDF5 is needed only to learn offset, type and shape. They are then
read and written as plain bytes: no data passes through HDF5's caches, a killed writer cannot leave
HDF5's own structures half written, and reading costs what reading a file costs.
"""

from __future__ import annotations

import json
import math
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

import h5py
import numpy as np
import numpy.typing as npt

from embedcal.cache.format import (
    ATTRIBUTES,
    DESCRIBED,
    ENTRIES,
    LOCAL,
    TEXT,
    USER_BLOCK,
    Entry,
    Head,
    canonical,
    entry_for,
    is_group,
    parse_head,
)
from embedcal.cache.handles import Handles, is_at
from embedcal.cache.virtual import Piece, read_pieces
from embedcal.datasets.printable import printable
from embedcal.errors import UnjudgedError
from embedcal.types import EmbedcalError

_MALFORMED = (OSError, RuntimeError, KeyError, ValueError, TypeError, AttributeError)


@dataclass(frozen=True)
class Stored:
    """One contiguous array: its first byte in the file (user block included), type and shape.

    Rows of a virtual cache lie in its shards: then ``pieces`` says in which, and ``offset`` is 0.
    """

    offset: int
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    pieces: tuple[Piece, ...] = ()

    @property
    def row_bytes(self) -> int:
        return math.prod(self.shape[1:]) * self.dtype.itemsize

    @property
    def nbytes(self) -> int:
        return self.shape[0] * self.row_bytes


class StoredFile:
    """A cache file opened for reading, checked against the schema; complete or being built.

    ``shards`` are the files that hold the rows of a virtual cache, each held against its recorded
    digest, and open by turns; empty for any other. ``linked`` says what is done about them: a shard
    itself may have none, and who writes such a file looks at its structure alone. A file that
    shares ``handles`` with others is open while it is ``held``; any other until it is closed.
    """

    def __init__(
        self,
        path: Path,
        *,
        linked: Literal["open", "ignore", "refuse"] = "open",
        handles: Handles | None = None,
    ) -> None:
        self.path = path
        self.shards: tuple[StoredFile, ...] = ()
        self._joined: dict[str, IO[bytes]] = {}
        self._shares = handles is not None
        self._handles = Handles() if handles is None else handles
        self._below = Handles()  # of the shards
        try:
            with self.held() as file:
                self.head, size = _read_head(file.fileno(), path)
                self.arrays, self.attributes = _read_structure(
                    path, size, version=self.head.version, virtual=linked != "refuse"
                )
                if not is_at(file, path):
                    raise UnjudgedError(
                        f"expected one file at {path}, found it replaced while it was opened: try "
                        "again"
                    )
            if linked == "open":
                self._open_shards()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> StoredFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._below.close()
        if not self._shares:
            self._handles.close()
        for rows in self._joined.values():
            rows.close()

    def held(self) -> AbstractContextManager[IO[bytes]]:
        """The open file while inside; EmbedcalError that says so once it is closed."""
        return self._handles.held(self.path)

    def fileno(self) -> int:
        """The descriptor of a file that shares its handles with no other, so that it stays open."""
        assert not self._shares
        with self.held() as file:
            return file.fileno()

    def read(self, path: str) -> npt.NDArray[Any]:
        """A whole array, as stored."""
        return self.rows(path, 0, self.arrays[path].shape[0])

    def rows(self, path: str, start: int, stop: int) -> npt.NDArray[Any]:
        """Rows ``start`` to ``stop`` of an array, as stored."""
        stored = self.arrays[path]
        out = np.empty((stop - start, *stored.shape[1:]), stored.dtype)
        if not stored.pieces:
            view = memoryview(out.reshape(-1).view(np.uint8))
            with self.held() as file:
                read_exactly(file.fileno(), view, stored.offset + start * stored.row_bytes)
        for piece, shard in zip(stored.pieces, self.shards, strict=False):
            first, last = max(start, piece.start), min(stop, piece.stop)
            if first < last:
                found = shard.rows(path, first - piece.start, last - piece.start)
                out[first - start : last - start] = found
        return out

    def map(self, path: str) -> npt.NDArray[Any]:
        """The array as pages of the file, or of a virtual cache's rows in memory; what is written
        to them stays with the caller."""
        stored = self.arrays[path]
        with self.held() as file:
            if stored.pieces and path not in self._joined:
                self._joined[path] = self._join(path)
            source: Any = self._joined.get(path, file)
            pages = np.memmap(
                source, dtype=stored.dtype, mode="c", offset=stored.offset, shape=stored.shape
            )
        return np.asarray(pages)

    def _join(self, path: str) -> IO[bytes]:
        """An array of a virtual cache as a file without a name, in memory where there are such."""
        stored = self.arrays[path]
        if hasattr(os, "memfd_create"):
            file: IO[bytes] = os.fdopen(os.memfd_create("embedcal"), "w+b")
        else:
            file = tempfile.TemporaryFile()  # noqa: SIM115 - it lives as long as this object
        step = max(1, (1 << 22) // max(1, stored.row_bytes))
        for start in range(0, stored.shape[0], step):
            rows = self.rows(path, start, min(start + step, stored.shape[0]))
            file.write(rows.reshape(-1).view(np.uint8))
        file.flush()
        return file

    def text(self, path: str) -> tuple[str, ...]:
        """An array of strings, row by row; empty where the file has none."""
        if path not in self.arrays:
            return ()
        try:
            return tuple(value.decode("utf-8") for value in self.read(path).reshape(-1).tolist())
        except UnicodeDecodeError:
            raise EmbedcalError(
                f"expected UTF-8 in {path}, found other bytes in {self.path}: run 'embedcal verify'"
            ) from None

    def texts(self, path: str) -> tuple[tuple[str, ...], ...]:
        """An array (n, m) of strings as n tuples of m; empty where the file has none."""
        flat = self.text(path)
        step = self.arrays[path].shape[1] if flat else 1
        return tuple(flat[start : start + step] for start in range(0, len(flat), step))

    def _open_shards(self) -> None:
        """The shards of a virtual cache, each what it was when they were joined."""
        virtual = {path: stored for path, stored in self.arrays.items() if stored.pieces}
        names, digests = self.text("/shards/name"), self.text("/shards/sha256")
        if not virtual and not names:
            return
        rows = {path for path in self.arrays if (at := entry_for(path)) and at[0].per_row}
        listed = {tuple(piece.name for piece in stored.pieces) for stored in virtual.values()}
        if virtual.keys() != rows or listed != {names} or len(digests) != len(names):
            raise _refused(self.path, "/shards/name", "another list than the virtual arrays have")
        for number, (name, wanted) in enumerate(zip(names, digests, strict=True)):
            shard = StoredFile(self.path.with_name(name), linked="refuse", handles=self._below)
            self.shards += (shard,)
            if shard.head.state != "complete" or shard.head.sha256 != wanted:
                raise EmbedcalError(
                    f"expected {shard.path} with SHA-256 {wanted} as a shard of {self.path}, found "
                    f"{shard.head.sha256}: restore it, or join the shards again with "
                    "'embedcal merge'"
                )
            for path, stored in virtual.items():
                piece, there = stored.pieces[number], shard.arrays.get(path)
                shape = (piece.stop - piece.start, *stored.shape[1:])
                if there is None or (there.dtype, there.shape) != (stored.dtype, shape):
                    raise _refused(self.path, path, f"other rows than those of {name}")

    def below(self, prefix: str) -> list[str]:
        """What stands right below a path: ``below("/text/")`` lists the banks."""
        names = {
            path[len(prefix) :].split("/")[0] for path in self.arrays if path.startswith(prefix)
        }
        return sorted(names)


def read_exactly(fd: int, view: memoryview, offset: int) -> None:
    """Fill ``view`` from the file; a file that ends too early is an error."""
    done = 0
    while done < len(view):
        got = os.preadv(fd, [view[done : done + (1 << 30)]], offset + done)
        if got == 0:
            raise EmbedcalError(
                "expected the whole cache file, found it cut short while it was read: "
                "restore it or make it again"
            )
        done += got


def write_exactly(fd: int, data: npt.NDArray[Any] | bytes, offset: int) -> None:
    """Write all of ``data`` at ``offset``."""
    view = memoryview(data if isinstance(data, bytes) else data.reshape(-1).view(np.uint8))
    done = 0
    while done < len(view):
        done += os.pwrite(fd, view[done : done + (1 << 30)], offset + done)


def _read_head(fd: int, path: Path) -> tuple[Head, int]:
    head = parse_head(os.pread(fd, USER_BLOCK, 0).ljust(USER_BLOCK, b"\0"), str(path))
    size = os.fstat(fd).st_size
    if size != USER_BLOCK + head.length:
        raise EmbedcalError(
            f"expected {USER_BLOCK + head.length} bytes, found {size} in {path}: the file was cut "
            "short or added to; restore it or make the cache again"
        )
    return head, size


def _read_structure(
    path: Path, size: int, *, version: int, virtual: bool
) -> tuple[dict[str, Stored], dict[str, Any]]:
    try:
        # Complete files are never changed in place, so no lock: read-only and network disks work.
        with h5py.File(path, "r", locking=False) as file:
            if file.userblock_size != USER_BLOCK:
                raise _refused(path, "/", f"a user block of {file.userblock_size} bytes")
            arrays = {
                name: _stored(path, name, dset, size=size, virtual=virtual)
                for name, dset in _walk(path, version, file.id)
            }
            attributes = _root_attributes(path, file.id)
    except _MALFORMED as error:
        detail = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise EmbedcalError(
            f"expected an intact HDF5 structure, found damage in {path} ({detail}): "
            "restore the file or make the cache again"
        ) from None
    if attributes["format_version"] != version:
        raise _refused(path, "attribute format_version", "another number than in the user block")
    _check_shapes(path, arrays)
    return arrays, attributes


def _refused(path: Path, where: str, found: str) -> EmbedcalError:
    return EmbedcalError(
        f"expected only what the cache format allows, found {found} at {printable(where)} in "
        f"{path}: do not use this file; make the cache again"
    )


def _walk(path: Path, version: int, group: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every data set with its path. Links are judged before what they lead to is opened."""
    for raw in group:
        name = f"{prefix}/{raw.decode('utf-8', 'backslashreplace')}"
        known_group, found = is_group(name), entry_for(name)
        known_array = found is not None and found[0].since <= version
        if not (known_group or known_array):
            raise _refused(path, name, "an unknown name")
        if group.links.get_info(raw).type != h5py.h5l.TYPE_HARD:
            raise _refused(path, name, "a soft or external link")
        item = h5py.h5o.open(group, raw)
        if known_group and isinstance(item, h5py.h5g.GroupID):
            if h5py.h5a.get_num_attrs(item):
                raise _refused(path, name, "attributes below the root")
            yield from _walk(path, version, item, name)
        elif known_array and isinstance(item, h5py.h5d.DatasetID):
            yield name, item
        else:
            raise _refused(path, name, "another kind of object")


def _stored(path: Path, name: str, dset: Any, *, size: int, virtual: bool) -> Stored:
    found = entry_for(name)
    assert found is not None
    creation = dset.get_create_plist()
    mapped = None
    if virtual and found[0].per_row and creation.get_layout() == h5py.h5d.VIRTUAL:
        mapped = read_pieces(creation, name)
    if creation.get_layout() != h5py.h5d.CONTIGUOUS and mapped is None:
        raise _refused(path, name, "a chunked, compact or virtual array")
    if creation.get_external_count() or creation.get_nfilters():
        raise _refused(path, name, "external storage or filters")
    if h5py.h5a.get_num_attrs(dset):
        raise _refused(path, name, "attributes below the root")
    dtype = _plain_dtype(path, name, dset.get_type(), found[0])
    shape = tuple(int(n) for n in dset.shape)
    if mapped is not None:
        if mapped[1] != shape:
            raise _refused(path, name, "a virtual array of another shape than its parts")
        return Stored(0, dtype, shape, mapped[0])
    stored = Stored(dset.get_offset() or 0, dtype, shape)
    if not shape or min(shape) < 1:
        raise _refused(path, name, f"an array of shape {shape}")
    if not USER_BLOCK <= stored.offset <= size - stored.nbytes:
        raise _refused(path, name, f"an array of {stored.nbytes} bytes in a file of {size}")
    return stored


def _plain_dtype(path: Path, name: str, kind: Any, entry: Entry) -> np.dtype[Any]:
    """The NumPy type of exactly these bytes, or a refusal: they are read without HDF5."""
    if entry.dtypes == (TEXT,):
        if (
            isinstance(kind, h5py.h5t.TypeStringID)
            and not kind.is_variable_str()
            and kind.get_strpad() == h5py.h5t.STR_NULLPAD
        ):
            return np.dtype(f"S{kind.get_size()}")
    else:
        for code in entry.dtypes:
            if kind.equal(h5py.h5t.py_create(np.dtype(code))):
                return np.dtype(code)
    raise _refused(path, name, f"a type other than {' or '.join(entry.dtypes)}")


def _root_attributes(path: Path, root: Any) -> dict[str, Any]:
    known = {attribute.name: attribute.kind for attribute in ATTRIBUTES}
    values: dict[str, Any] = {}
    for index in range(h5py.h5a.get_num_attrs(root)):
        attr = h5py.h5a.open(root, index=index)
        name = attr.name.decode("utf-8", "backslashreplace")
        kind, type_id = known.get(name), attr.get_type()
        if kind is None:
            raise _refused(path, f"attribute {name}", "an unknown name")
        text = isinstance(type_id, h5py.h5t.TypeStringID) and not type_id.is_variable_str()
        integer = isinstance(type_id, h5py.h5t.TypeIntegerID)
        if attr.shape != () or not (integer if kind == "int" else text):
            raise _refused(path, f"attribute {name}", "another type")
        value = np.empty((), np.int64 if kind == "int" else np.dtype(f"S{type_id.get_size()}"))
        attr.read(value, mtype=None if kind == "int" else type_id)
        values[name] = value.item() if kind == "int" else value.item().decode("utf-8")
        if kind == "json":
            values[name] = json.loads(values[name])
            canonical(values[name]).encode()  # ValueError for NaN, and for half a character
            if not isinstance(values[name], list if name == "attributes" else dict):
                raise _refused(path, f"attribute {name}", "another type")
    if missing := known.keys() - values.keys():
        raise _refused(path, "/", f"no attribute {sorted(missing)[0]}")
    return values


def _check_shapes(path: Path, arrays: Mapping[str, Stored]) -> None:
    """Equal letters must be equal numbers, and every required array must be there."""
    sizes: dict[tuple[str, str], int] = {}
    for name, stored in arrays.items():
        found = entry_for(name)
        assert found is not None
        entry, own = found
        if entry.shape == "*":
            continue
        letters = entry.shape.split()
        if len(letters) != len(stored.shape):
            raise _refused(path, name, f"shape {stored.shape} where the format has {entry.shape}")
        local = DESCRIBED if f"/text/{own}/text" in arrays else LOCAL
        for letter, number in zip(letters, stored.shape, strict=True):
            key = (letter, own if letter in local else "")
            expected = int(letter) if letter.isdecimal() else sizes.setdefault(key, number)
            if number != expected:
                raise _refused(path, name, f"{number} where {letter} is {expected}")
    for entry in ENTRIES:
        if entry.required and entry.path not in arrays:
            raise _refused(path, entry.path, "nothing")
