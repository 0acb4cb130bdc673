"""A folder of pictures made on the spot: whole or not at all, the same bytes on every machine."""

from __future__ import annotations

import csv
import json
import secrets
import shutil
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt

from embedcal.datasets.printable import printable
from embedcal.types import EmbedcalError

Pixels = npt.NDArray[np.uint8]
Picture = tuple[
    Mapping[str, object], Pixels
]  # cells of its row, ``filename`` among them; (h, w, 3)

TABLE, NOTES, MARK = "metadata.csv", "notes.txt", "made.json"
SEEDS = 2**32
_STORED = 65535  # bytes in one stored block of deflate


def write_folder(
    folder: Path,
    identity: Mapping[str, object],
    pictures: Iterable[Picture],
    *,
    count: int,
    notes: Sequence[str] = (),
    progress: Callable[[int], None] | None = None,
) -> Path:
    """Write ``count`` pictures and their table into ``folder``; done at once where they lie there.

    The folder holds the pictures, ``metadata.csv`` with their cells, ``notes.txt`` with a sentence
    a line where there are notes, and ``made.json`` with the ``identity``, which must decide every
    byte. Everything is written to a hidden folder beside it, which is then renamed. ``pictures``
    is read only where they are needed.

    Raises:
        EmbedcalError: the folder holds something else, or cannot be written.
    """
    with writing(folder, lambda: _holds(folder, identity, count)) as partial:
        if partial is not None:
            _write(partial, identity, pictures, count, notes, progress)
    return folder


def _write(
    partial: Path,
    identity: Mapping[str, object],
    pictures: Iterable[Picture],
    count: int,
    notes: Sequence[str],
    progress: Callable[[int], None] | None,
) -> None:
    rows = []
    for done, (cells, pixels) in enumerate(pictures, start=1):
        path = partial / str(cells["filename"])
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(pixels))
        rows.append(cells)
        if progress is not None:
            progress(done)
    assert len(rows) == count
    with (partial / TABLE).open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        table.writeheader()
        table.writerows(rows)
    if notes:
        text = "".join(f"{note}\n" for note in notes)
        (partial / NOTES).write_text(text, encoding="utf-8", newline="\n")
    (partial / MARK).write_text(json.dumps(identity) + "\n", encoding="utf-8", newline="\n")


@contextmanager
def writing(folder: Path, holds: Callable[[], bool]) -> Iterator[Path | None]:
    """A hidden folder that becomes ``folder`` when the block ends; None where it holds all already.

    Where somebody else finishes first theirs stands, if it is the same one, which ``holds`` tells.
    EmbedcalError for what keeps it from being written.
    """
    partial = folder.with_name(f".{folder.name}.part-{secrets.token_hex(4)}")
    try:
        if holds():
            yield None
            return
        partial.mkdir(parents=True)
        yield partial
        try:
            partial.rename(folder)
        except OSError:
            if not holds():
                raise
    except OSError as error:
        raise EmbedcalError(
            f"expected to write into {printable(str(folder.parent), longest=300)}, found: "
            f"{error.strerror or error}: free some space there, or set EMBEDCAL_HOME to another "
            "folder"
        ) from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def notes_of(folder: Path) -> tuple[str, ...]:
    """What a made folder says about itself, one sentence each."""
    path = folder / NOTES
    return tuple(path.read_text("utf-8").splitlines()) if path.is_file() else ()


def png(pixels: Pixels) -> bytes:
    """A PNG file of pixels (h, w, 3), uncompressed.

    Compressed bytes differ between the makes of zlib that Pillow may come with, and a cache's
    identity is the digest of its files; stored bytes are the same everywhere.
    """
    height, width, _ = pixels.shape
    lines = np.zeros((height, 1 + 3 * width), np.uint8)  # a leading 0: the line is not filtered
    lines[:, 1:] = pixels.reshape(height, 3 * width)
    raw = lines.tobytes()
    data = b"\x78\x01"  # zlib's header
    for start in range(0, len(raw), _STORED):
        block, last = raw[start : start + _STORED], start + _STORED >= len(raw)
        data += struct.pack("<BHH", last, len(block), len(block) ^ 0xFFFF) + block
    data += struct.pack(">I", zlib.adler32(raw))
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)  # 8 bits, RGB
    chunks = ((b"IHDR", header), (b"IDAT", data), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, body) for kind, body in chunks)


def checked(value: int | None, *, what: str, default: int, low: int, high: int) -> int:
    """``value``, or the default where there is none; EmbedcalError where it is out of range."""
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise EmbedcalError(
            f"expected {what} to be an integer from {low} to {high}, found {value!r}: choose one "
            "in that range"
        )
    return value


def share_out(counts: Sequence[int], rows: int) -> list[int]:
    """``rows`` in the proportions of ``counts``, by largest remainders; none above its count."""
    total = sum(counts)
    shares = [count * rows // total for count in counts]
    by_remainder = sorted(range(len(counts)), key=lambda i: -(counts[i] * rows % total))
    for i in by_remainder[: rows - sum(shares)]:
        shares[i] += 1
    return shares


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def _holds(folder: Path, identity: Mapping[str, object], count: int) -> bool:
    """Whether ``folder`` is that very one, complete; false where there is nothing yet."""
    shown = printable(str(folder), longest=300)
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return False
    try:
        found = json.loads((folder / MARK).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        found = None
    if found != dict(identity):
        what = (
            "something else" if found is None else f"another one ({printable(json.dumps(found))})"
        )
        raise EmbedcalError(
            f"expected {shown} to be new, empty, or to hold {json.dumps(identity)}, found {what}: "
            "name another folder, or remove it"
        )
    pictures = sum(1 for _ in folder.rglob("*.png"))
    if pictures != count or not (folder / TABLE).is_file():
        raise EmbedcalError(
            f"expected {count:,} PNG files and {TABLE} in {shown}, found {pictures:,}, or no "
            "table: remove the folder to have it made again"
        )
    return True
