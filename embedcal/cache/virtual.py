"""The rows of a virtual cache: which shard holds which, written and read back as HDF5 has it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import h5py


@dataclass(frozen=True)
class Piece:
    """Rows ``start`` to ``stop`` are the whole of the array in the file ``name`` beside."""

    name: str
    start: int
    stop: int


def is_bare(name: str) -> bool:
    """Whether a name can only mean a file in the same folder; to HDF5, % is a pattern."""
    return name not in ("", ".", "..") and not set("/\\%\0") & set(name)


def map_rows(
    creation: Any, path: str, shape: tuple[int, ...], sources: tuple[tuple[str, int], ...]
) -> None:
    """Make an array virtual: the arrays at ``path`` in the shards, one below the other."""
    creation.set_layout(h5py.h5d.VIRTUAL)
    start, tail = 0, shape[1:]
    for name, rows in sources:
        assert is_bare(name), name
        there = h5py.h5s.create_simple(shape)
        there.select_hyperslab((start, *(0 for _ in tail)), (rows, *tail))
        source = h5py.h5s.create_simple((rows, *tail))
        creation.set_virtual(there, name.encode(), path.encode(), source)
        start += rows
    assert start == shape[0]


def read_pieces(creation: Any, path: str) -> tuple[tuple[Piece, ...], tuple[int, ...]] | None:
    """The pieces of a virtual array in row order, and its shape; None unless ``map_rows`` made it.

    No file is opened to tell, as HDF5 would to find the extent of an unlimited mapping.
    """
    try:
        return _pieces(creation, path)
    except (ValueError, RuntimeError):  # a selection without bounds or a number of points
        return None


def _pieces(creation: Any, path: str) -> tuple[tuple[Piece, ...], tuple[int, ...]] | None:
    pieces: list[Piece] = []
    shape: tuple[int, ...] = ()
    for index in range(creation.get_virtual_count()):
        there, source = creation.get_virtual_vspace(index), creation.get_virtual_srcspace(index)
        name, array = creation.get_virtual_filename(index), creation.get_virtual_dsetname(index)
        shape = tuple(int(n) for n in there.get_simple_extent_dims())
        start, (first, last) = pieces[-1].stop if pieces else 0, there.get_select_bounds()
        stop = int(last[0]) + 1
        if (
            array != path
            or not is_bare(name)
            or source.get_select_type() != h5py.h5s.SEL_ALL
            or (first, last[1:])
            != ((start, *(0 for _ in shape[1:])), tuple(n - 1 for n in shape[1:]))
            or there.get_select_npoints() != (stop - start) * math.prod(shape[1:])
        ):
            return None
        pieces.append(Piece(name, start, stop))
    if not pieces or pieces[-1].stop != shape[0]:
        return None
    return tuple(pieces), shape
