"""WebDataset shards: tar files in which the members of one sample share the start of their names.

Read with the standard library. Nothing is extracted by name: a first pass takes the labels, and a
second copies the images' bytes out under names of our own. Of each pass one shard is in memory.
"""

from __future__ import annotations

import json
import re
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import repeat
from pathlib import Path
from typing import IO, Any

from embedcal.datasets.containers.members import LARGEST, states_of, unpack_members
from embedcal.datasets.containers.shards import (
    base_of,
    place_in,
    shards_below,
    split_in,
    splits_by_name,
)
from embedcal.datasets.options import ReadOptions
from embedcal.datasets.printable import printable
from embedcal.datasets.scratch import Scratch
from embedcal.datasets.stored_text import ColumnsWriter, TextWriter, gathered
from embedcal.datasets.table import IMAGE_SUFFIXES, Rows, cell_of
from embedcal.types import EmbedcalError

LABELS = ("cls", "label")  # what stands for y where there is no y, in this order
_LARGEST_LABEL = 1 << 20  # bytes of a .cls or .json member
_NAME = re.compile(r"((?:.*/)?[^./][^./]*)\.([^/]+)")  # key, and what follows its first dot


@dataclass(kw_only=True)
class _Sample:
    """One sample as the first pass fills it."""

    shard: Path
    key: str
    cells: dict[str, str] = field(default_factory=dict)
    image: tuple[str, int, int] | None = None  # its member, where its bytes begin, their number


@dataclass(frozen=True, kw_only=True)
class _Labels:
    """What the first pass found of the samples that hold an image, shard after shard.

    ``starts`` holds the first row of each shard; ``keys`` and each column have one cell a row.
    """

    shards: tuple[Path, ...]
    starts: tuple[int, ...]
    keys: Sequence[str]
    columns: dict[str, Sequence[str]]
    notes: tuple[str, ...]

    def spread(self, texts: Sequence[str]) -> Iterator[str]:
        """One text a shard, for each of its rows."""
        ends = (*self.starts[1:], len(self.keys))
        for text, start, end in zip(texts, self.starts, ends, strict=True):
            yield from repeat(text, end - start)


def webdataset_shards(path: Path) -> tuple[Path, ...]:
    """The shards of a folder, at its top or in folders of splits; nothing where it is another.

    A folder that has a folder without shards is another: an archive may lie beside what it holds.
    """
    try:
        folders = [f for f in path.iterdir() if f.is_dir() and f.name[0] != "."]
    except OSError:
        return ()
    inner: list[Path] = []
    for folder in sorted(folders):
        below = shards_below(folder, ".tar") if split_in(folder.name) else ()
        if not below:
            return ()
        inner += below
    return (*shards_below(path, ".tar"), *inner)


def read_webdataset(
    path: Path,
    *,
    root: Path | None = None,
    options: ReadOptions | None = None,
    shards: tuple[Path, ...] = (),
) -> tuple[Rows, Path]:
    """A ``.tar`` shard or a folder of them, and the folder that the table's paths begin at.

    ``shards`` are the files of ``path`` where that is a pattern.

    A sample is all members of a shard whose names are equal up to the first dot of the base name.
    Its image is the member with an image's suffix; its cells are those of the object in ``.json``
    by their keys, and the text of ``.cls``; other members are not read. ``y`` is the cell of that
    name, else ``cls``, else ``label``. ``split`` is the cell of that name in every sample, else
    what the shard's name or its folder's tells. ``id`` is the cell of that name, else the shard
    and the sample's key. Samples without an image are passed over with a note.

    The images are unpacked, see ``members``: that takes as much room again. In memory there is one
    shard's worth of labels at a time.

    Raises EmbedcalError for a shard that is cut short or damaged, labels that are no text or no
    JSON object, two images in a sample, a root, and members that are links, devices, absolute
    or lead out of the shard.
    """
    options = options or ReadOptions()
    shown = printable(str(path), longest=300)
    shards = shards or (webdataset_shards(path) if path.is_dir() else (path,))
    if not shards:
        raise EmbedcalError(f"expected .tar shards in {shown}, found none: check the folder")
    if root is not None:
        raise EmbedcalError(
            f"expected no root beside {shown}, which holds its images itself, found "
            f"{printable(str(root), longest=300)}: leave it out"
        )
    states = states_of(shards)
    found = _labels(shards)
    if not len(found.keys):
        raise EmbedcalError(
            f"expected samples with images in {shown}, found none: check the shards"
        )
    columns = _columns(found, base_of(path), options)
    members = unpack_members(lambda: _images(shards), name=path.resolve().name, states=states)
    columns[options.columns.get("path", "path")] = members.paths
    place = place_in(shards, found.starts, found.keys)
    table = Rows(source=str(path), columns=columns, notes=found.notes, place=place)
    return table, members.root


def _labels(shards: tuple[Path, ...]) -> _Labels:
    """The first pass."""
    columns, keys = ColumnsWriter(), TextWriter(Scratch())
    starts: list[int] = []
    without, first = 0, ""
    for shard in shards:
        starts.append(len(keys))
        for sample in _samples(shard):
            if sample.image is not None:
                columns.add(sample.cells)
                keys.add(sample.key)
                continue
            first = first or f"'{printable(sample.key)}' in {printable(shard.name)}"
            without += 1
    note = f"{without:,} samples hold no image and are passed over; the first is {first}"
    return _Labels(
        shards=shards,
        starts=tuple(starts),
        keys=keys.done(),
        columns=columns.done(),
        notes=(note,) if without else (),
    )


def _columns(found: _Labels, base: Path, options: ReadOptions) -> dict[str, Sequence[str]]:
    """The cells of all samples by column, with the label, split and id that names tell."""
    columns = dict(found.columns)
    label = next((name for name in ("y", *LABELS) if name in columns), None)
    if "y" not in options.columns and label is not None:
        columns["y"] = columns[label]
    split = options.columns.get("split", "split")
    if options.split is None and not all(columns.get(split, ("",))):
        named = splits_by_name(found.shards, base=base)
        if named is not None:
            old = columns.get(split, repeat("", len(found.keys)))
            pairs = zip(old, found.spread(named), strict=True)
            columns[split] = gathered(cell or own for cell, own in pairs)
    key = options.columns.get("id", "id")
    if key not in columns:
        stems = [s.relative_to(base).with_suffix("").as_posix() for s in found.shards]
        pairs = zip(found.spread(stems), found.keys, strict=True)
        columns[key] = gathered(f"{stem}/{name}" for stem, name in pairs)
    return columns


def _samples(shard: Path, *, labels: bool = True) -> list[_Sample]:
    """Every sample of a shard in order, its image found and its labels read, unless without."""
    samples: dict[str, _Sample] = {}
    with _reading(shard), shard.open("rb") as file:
        for member in _members(file, shard):
            parts = _NAME.fullmatch(member.name)
            if parts is None:
                continue
            key, suffix = parts[1], parts[2].lower()
            if f".{suffix}" not in IMAGE_SUFFIXES and suffix not in ("cls", "json"):
                continue
            sample = samples.setdefault(key, _Sample(shard=shard, key=key))
            if f".{suffix}" in IMAGE_SUFFIXES:
                if sample.image is not None:
                    raise _odd(shard, member.name, f"beside {sample.image[0]}, one image a sample")
                if member.size > LARGEST:
                    raise _odd(shard, member.name, "above 1 GiB")
                sample.image = (member.name, member.offset_data, member.size)
                continue
            if not labels:
                continue
            if member.size > _LARGEST_LABEL:
                raise _odd(shard, member.name, f"{member.size:,} bytes long, too much for a label")
            text = _text(_bytes(file, member.offset_data, member.size), shard, member.name)
            if suffix == "cls":
                sample.cells["cls"] = text.strip()
            else:
                sample.cells = {**_json(text, shard, member.name), **sample.cells}
    return list(samples.values())


def _members(file: IO[bytes], shard: Path) -> Iterator[tarfile.TarInfo]:
    """The regular files of a shard; raises for whatever has no business there."""
    with tarfile.open(fileobj=file, mode="r:", errorlevel=2) as archive:
        before = 0
        while True:
            member = archive.next()
            archive.members = []  # type: ignore[attr-defined]  # millions of them would be felt
            if member is None:
                break
            if member.size < 0 or archive.offset <= before:
                raise _odd(shard, member.name, "of an impossible size")
            before = archive.offset
            if member.isdir():
                continue
            if not member.isreg() or member.issparse():
                raise _odd(shard, member.name, "a link, a device or a sparse file")
            _plain(member.name, shard, member.name)
            if member.name.startswith("/") or ".." in member.name.split("/"):
                raise _odd(shard, member.name, "a path that leads out of the shard")
            yield member
        # tarfile ends without a word at a damaged header and at the end of a file cut short.
        file.seek(archive.offset)
        if file.read(tarfile.BLOCKSIZE) != tarfile.NUL * tarfile.BLOCKSIZE:
            raise tarfile.ReadError(f"no end mark at byte {archive.offset:,}")


@contextmanager
def _reading(shard: Path) -> Iterator[None]:
    try:
        yield
    except (tarfile.TarError, OSError, ValueError, OverflowError, RecursionError) as error:
        said = printable(" ".join(str(error).split()), longest=200)
        raise EmbedcalError(
            f"expected {printable(str(shard), longest=300)} to be a whole tar file, not a "
            f"compressed one, found: {said}: it may be cut short or damaged; get it again"
        ) from None


def _text(data: bytes, shard: Path, name: str) -> str:
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        raise _odd(shard, name, "no text in UTF-8") from None
    return _plain(text, shard, name)


def _plain(text: str, shard: Path, name: str) -> str:
    """``text``, unless no file format could store it."""
    if "\0" in text:
        raise _odd(shard, name, "a NUL character")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise _odd(shard, name, "no text in UTF-8") from None
    return text


def _json(text: str, shard: Path, name: str) -> dict[str, str]:
    """The object's plain values as cells; lists and objects within are left out."""
    try:
        found: Any = json.loads(text)
    except (ValueError, RecursionError):
        raise _odd(shard, name, "no JSON") from None
    if not isinstance(found, dict):
        raise _odd(shard, name, f"a {type(found).__name__}, not an object")
    plain = {key: value for key, value in found.items() if not isinstance(value, list | dict)}
    return {
        _plain(key, shard, name): _plain(cell_of(value), shard, name)
        for key, value in plain.items()
    }


def _images(shards: tuple[Path, ...]) -> Iterator[bytes]:
    """The second pass: the images' bytes, shard by shard.

    Where they lie is found anew: to look costs less than to remember it of every row.
    """
    for shard in shards:
        places = [s.image for s in _samples(shard, labels=False) if s.image is not None]
        with _reading(shard), shard.open("rb") as file:
            for _, start, size in places:
                yield _bytes(file, start, size)


def _bytes(file: IO[bytes], start: int, size: int) -> bytes:
    file.seek(start)
    data = file.read(size)
    if len(data) != size:
        raise tarfile.ReadError(f"{size - len(data):,} bytes too few at byte {start:,}")
    return data


def _odd(shard: Path, name: str, found: str) -> EmbedcalError:
    return EmbedcalError(
        f"expected samples of an image and its labels in {printable(str(shard), longest=300)}, "
        f"found the member '{printable(name)}': {found}; write the shard without it"
    )
