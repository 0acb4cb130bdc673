"""Images held inside other files, written out once, so that everything can open them by path."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from embedcal.datasets.places import data_dir
from embedcal.datasets.printable import printable
from embedcal.datasets.scratch import Scratch
from embedcal.datasets.stored_text import TextWriter
from embedcal.types import EmbedcalError

MARK, PATHS = "unpacked.json", "paths.txt"
FORM = 2  # raised when names of the files inside, or the mark, change
LARGEST = 1 << 30  # bytes of one image, as elsewhere in the pipeline
_IN_A_FOLDER = 1000

_BEGINNINGS = (
    (b"\xff\xd8\xff", ".jpg"),
    (b"\x89PNG\r\n", ".png"),
    (b"GIF8", ".gif"),
    (b"BM", ".bmp"),
    (b"II*\0", ".tif"),
    (b"MM\0*", ".tif"),
    (b"P5", ".pgm"),
    (b"P6", ".ppm"),
)


States = tuple[tuple[str, int, int], ...]  # path, bytes and time of change of files


@dataclass(frozen=True, kw_only=True)
class Members:
    """``paths`` one a row, relative to ``root``; a row without an image has a path to no file."""

    root: Path
    paths: Sequence[str]


def states_of(files: Sequence[Path]) -> States:
    """The present states of ``files``, to be taken before anything is read from them.

    Raises EmbedcalError for a file that is not there.
    """
    states = []
    for file in files:
        try:
            facts = file.stat()
        except OSError as error:
            raise EmbedcalError(
                f"expected to read {printable(str(file), longest=300)}, found: {error.strerror}: "
                "check the path and its permissions"
            ) from None
        states.append((str(file.resolve()), facts.st_size, facts.st_mtime_ns))
    return tuple(states)


def unpack_members(
    images: Callable[[], Iterable[bytes | None]],
    *,
    name: str,
    states: States,
    choice: str = "",
    progress: Callable[[int], None] | None = None,
) -> Members:
    """Write every image that ``images()`` gives into a folder of its own, byte for byte.

    The folder is ``unpacked/NAME-DIGEST`` in the user's data directory, where the digest is one of
    ``choice`` (what of the files was read) and of ``states``, which ``states_of`` gave before
    the first of them was read: the same files are unpacked once, and a file that changed makes
    another folder. It takes as much room as the images do in the files, once more; it may be
    deleted at any time and comes again at the next reading, but nothing deletes the folder of
    files that are gone.

    Files inside are called by their row, such as ``00001/row-00001234.png``, with a suffix by their
    first bytes; no name of the container is used. None stands for a row without an image.
    Whole or not at all: everything goes into a hidden folder beside it, which is then renamed,
    under a lock that other processes wait for. ``progress`` is called with the rows done.

    Raises EmbedcalError for a full disk, an image above 1 GiB, and files that change meanwhile.
    """
    seed = json.dumps([FORM, choice, states])
    digest = hashlib.sha256(seed.encode("utf-8", "surrogatepass")).hexdigest()[:16]
    safe = re.sub(r"[^A-Za-z0-9_-]+", "-", name)[:60].strip("-") or "unnamed"
    folder = data_dir() / "unpacked" / f"{safe}-{digest}"
    done = _finished(folder)
    if done is None:
        return _unpacked(images, folder, states, progress)
    _refuse_change(states)
    return done


def _unpacked(
    images: Callable[[], Iterable[bytes | None]],
    folder: Path,
    states: States,
    progress: Callable[[int], None] | None,
) -> Members:
    from filelock import FileLock

    with _writing(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder.parent / f".{folder.name}.lock")
        lock.acquire()
    try:
        done = _finished(folder)  # by the process that was waited for
        if done is not None:
            return done
        part = folder.parent / f".{folder.name}.part"
        shutil.rmtree(part, ignore_errors=True)  # of a process that was killed
        try:
            written = TextWriter(Scratch())
            with _writing(folder):
                part.mkdir()
            for row, data in enumerate(images()):
                written.add(_write(part, folder, row, data))
                if progress is not None:
                    progress(row + 1)
            _refuse_change(states)
            paths = written.done()
            with _writing(folder):
                with (part / PATHS).open("w", encoding="ascii") as lines:
                    lines.writelines(f"{path}\n" for path in paths)
                (part / MARK).write_text(json.dumps({"files": states, "rows": len(paths)}))
                part.rename(folder)
        except BaseException:
            shutil.rmtree(part, ignore_errors=True)
            raise
        return Members(root=folder, paths=paths)
    finally:
        lock.release()


def _refuse_change(states: States) -> None:
    if states_of([Path(path) for path, _, _ in states]) != states:
        raise EmbedcalError(
            f"expected {printable(states[0][0], longest=300)} and the files beside it to stay as "
            "they are while they are read, found a change: run the same command again"
        )


def _finished(folder: Path) -> Members | None:
    """What an earlier call made, or None where there is nothing."""
    if not folder.exists():
        return None
    paths = TextWriter(Scratch())
    try:
        rows = json.loads((folder / MARK).read_text())["rows"]
        with (folder / PATHS).open(encoding="ascii") as lines:
            paths.extend(line.rstrip("\n") for line in lines)
        if len(paths) != rows:
            raise ValueError
    except (OSError, ValueError, LookupError, TypeError):
        raise EmbedcalError(
            f"expected {MARK} in {folder}, found none that can be read: delete that folder and "
            "run the same command again"
        ) from None
    return Members(root=folder, paths=paths.done())


def _write(part: Path, folder: Path, row: int, data: bytes | None) -> str:
    if data is not None and len(data) > LARGEST:
        raise EmbedcalError(
            f"expected images of at most 1 GiB, found one of {len(data):,} bytes in row {row + 1}: "
            "leave it out"
        )
    path = f"{row // _IN_A_FOLDER:05d}/row-{row:08d}{_suffix(data or b'')}"
    with _writing(folder):
        if row % _IN_A_FOLDER == 0:
            (part / path).parent.mkdir()
        if data is not None:
            (part / path).write_bytes(data)
    return path


def _suffix(data: bytes) -> str:
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return ".webp"
    return next((suffix for start, suffix in _BEGINNINGS if data.startswith(start)), ".img")


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise EmbedcalError(
            f"expected to write the images into {folder}, found: {error.strerror or error}: make "
            "room there, or set EMBEDCAL_HOME to another folder"
        ) from None
