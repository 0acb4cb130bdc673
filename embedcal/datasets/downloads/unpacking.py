"""Archives into folders: whole or not at all, and nothing outside the folder."""

from __future__ import annotations

import errno
import json
import shutil
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PureWindowsPath

from embedcal.datasets.downloads.archives import (
    PIECE,
    RATIO,
    SMALL,
    Allowed,
    Member,
    RefusedError,
    damage,
    open_archive,
)
from embedcal.datasets.printable import printable
from embedcal.types import EmbedcalError


def unpack(
    archive: Path,
    folder: Path,
    *,
    limit: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Unpack a ``.zip``, ``.tar``, ``.tar.gz`` or ``.tgz`` into ``folder``, and return that.

    A folder that is not there yet appears whole, in one rename. Into one that is there the
    archive's own top folders and files are moved when all of them are unpacked, files last, and
    never over others; a move that was interrupted is finished by the next call. A note in the
    folder lets a second call with the same archive return at once.

    Refused, with the member named: a path outside the folder, a link of any kind, a device, an
    encrypted member, names with control characters or that differ only in case, a path twice,
    and more than ``limit`` bytes (else a hundred times the archive's own) or two million members.
    What is more than the disk has room for ends before the disk is full. ``progress`` gets the
    bytes of the archive read and those in all. Raises EmbedcalError, and then leaves nothing.
    """
    archive, folder = archive.expanduser().absolute(), folder.expanduser().absolute()
    shown = printable(str(archive), longest=300)
    if not archive.is_file():
        raise EmbedcalError(f"expected an archive, found no file {shown}: check its name")
    try:
        with locked(archive):
            if not is_unpacked(archive, folder):
                _unpack(archive, folder, limit, progress)
    except damage() as error:  # some are OSErrors too
        reason = printable(str(error) or type(error).__name__, longest=120)
        raise EmbedcalError(
            f"expected a whole archive, found {shown} damaged ({reason}): delete it and get it "
            "again; nothing was unpacked"
        ) from None
    except OSError as error:
        raise EmbedcalError(on_disk(error, folder)) from None
    return folder


def is_unpacked(archive: Path, folder: Path) -> bool:
    """Whether ``unpack`` did this before and everything is still there.

    The archive itself may be gone since then; where it is not, it must be the same.
    """
    tops = _noted(archive, folder)
    return tops is not None and all((folder / top).exists() for top in tops)


def _noted(archive: Path, folder: Path) -> list[str] | None:
    """What the note in ``folder`` says was unpacked of this very archive; None without one."""
    try:
        note = json.loads((folder / _note_name(archive)).read_text("utf-8"))
        found = archive.stat() if archive.exists() else None
        same = found is None or (found.st_size, found.st_mtime_ns) == (
            note["size"],
            note["mtime_ns"],
        )
        return list(map(str, note["tops"])) if same else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _note_name(archive: Path) -> str:
    return f".{archive.name}.unpacked"


def _unpack(
    archive: Path,
    folder: Path,
    limit: int | None,
    progress: Callable[[int, int], None] | None,
) -> None:
    is_fresh = not folder.exists()
    ready = folder / f".{archive.name}.ready"
    if _noted(archive, ready) is None:
        staged = (folder.parent if is_fresh else folder) / f".{archive.name}.unpacking"
        for stale in (ready, staged):
            if stale.exists():
                shutil.rmtree(stale)
        staged.mkdir(parents=True)
        try:
            _fill(archive, staged, None if is_fresh else folder, limit, progress)
            staged.rename(folder if is_fresh else ready)
        except BaseException:
            shutil.rmtree(staged, ignore_errors=True)
            raise
    if not is_fresh:
        _move(ready, folder, last=_note_name(archive))


def _move(ready: Path, folder: Path, *, last: str) -> None:
    """What is in ``ready`` into ``folder``: folders, then files such as tables, then the note."""
    for path in sorted(ready.iterdir(), key=lambda path: (path.name == last, path.is_file())):
        to = folder / path.name
        if path.name != last:
            _expect_free(to)
        path.replace(to)
    ready.rmdir()


def _expect_free(path: Path) -> None:
    if path.exists() or path.is_symlink():
        raise EmbedcalError(
            f"expected no {printable(path.name)} in {printable(str(path.parent), longest=300)}, "
            "found one: move it away or name another folder"
        )


def _fill(
    archive: Path,
    staged: Path,
    beside: Path | None,
    limit: int | None,
    progress: Callable[[int, int], None] | None,
) -> None:
    """Every member into ``staged``, which is new, and the note about them."""
    size = archive.stat().st_size
    most = max(RATIO * size, SMALL) if limit is None else limit
    allowed = Allowed(most=most, free=shutil.disk_usage(staged).free)
    names = _Names(own=_note_name(archive), beside=beside)
    name = "its beginning"
    try:
        with open_archive(archive, allowed) as members:
            for member in members:
                name = member.name
                if member.fault:
                    raise RefusedError(member.fault)
                allowed.count(member.size)
                parts = names.add(member)
                _write(member, staged.joinpath(*parts))
                if progress:
                    progress(member.before, size)
    except RefusedError as error:
        raise EmbedcalError(
            f"expected files and folders only in {printable(str(archive), longest=300)}, found "
            f"{error} at '{printable(name)}': nothing was unpacked; ask where the archive is from"
        ) from None
    if not names.tops:
        raise EOFError("nothing is in it")
    if progress:
        progress(size, size)
    found = archive.stat()
    note = {"size": found.st_size, "mtime_ns": found.st_mtime_ns, "tops": list(names.tops)}
    (staged / _note_name(archive)).write_text(json.dumps(note), "utf-8")


def _write(member: Member, path: Path) -> None:
    if member.is_folder:
        path.mkdir(parents=True, exist_ok=True)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    left = member.size
    with member.open() as source, path.open("xb") as target:
        while left and (piece := source.read(min(left, PIECE))):
            target.write(piece)
            left -= len(piece)
        if left:
            raise EOFError(f"'{member.name}' has not the length that it declares")


@dataclass
class _Names:
    """The paths so far, as a file system sees them that knows no case.

    ``tops`` are the first parts; none may be in the folder ``beside``, nor be called ``own``.
    """

    own: str
    beside: Path | None
    tops: dict[str, None] = field(default_factory=dict)
    _seen: dict[str, tuple[str, bool]] = field(default_factory=dict)

    def add(self, member: Member) -> tuple[str, ...]:
        """The parts of a member's path; none for the folder itself."""
        parts = _parts(member.name)
        if not parts and not member.is_folder:
            raise RefusedError("a file without a name")
        for depth in range(1, len(parts) + 1):
            path = "/".join(parts[:depth])
            is_folder = depth < len(parts) or member.is_folder
            key = unicodedata.normalize("NFC", path).casefold()
            before = self._seen.get(key)
            self._seen[key] = (path, is_folder)
            if before is None:
                continue
            if before[1] != is_folder:
                raise RefusedError("a path that is both a file and a folder")
            if before[0] != path:
                raise RefusedError(f"another spelling of '{printable(before[0])}'")
            if not is_folder:
                raise RefusedError("a file that was there before")
        if parts and parts[0] not in self.tops:
            if parts[0].casefold() == self.own.casefold():
                raise RefusedError("the name of the note that says that it is unpacked")
            if self.beside:
                _expect_free(self.beside / parts[0])
            self.tops[parts[0]] = None
        return parts


def _parts(name: str) -> tuple[str, ...]:
    if any(unicodedata.category(char) in ("Cc", "Cs") for char in name):
        raise RefusedError("a name with control characters, or not in UTF-8,")
    if "\\" in name:
        raise RefusedError("a name with a backslash")
    if name.startswith("/") or PureWindowsPath(name).drive:
        raise RefusedError("an absolute path")
    parts = tuple(part for part in name.split("/") if part not in ("", "."))
    if ".." in parts:
        raise RefusedError("a path outside the folder")
    return parts


# The disk


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Wait until no other process is at work on ``path``, and keep the others waiting."""
    import filelock

    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with filelock.FileLock(path.with_name(f".{path.name}.lock")):
            yield
    except NotImplementedError as error:  # some network file systems have no locks
        raise OSError(errno.ENOLCK, str(error)) from None


def on_disk(error: OSError, folder: Path) -> str:
    """One line about what the disk under ``folder`` could not do."""
    shown = printable(str(folder), longest=300)
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        there = next(path for path in (folder, *folder.parents) if path.exists())
        free = shutil.disk_usage(there).free
        return (
            f"expected room for what comes into {shown}, found {free:,} bytes free on that disk: "
            "make room and run the same command again"
        )
    reason = printable(error.strerror or str(error), longest=160)
    return f"expected to write into {shown}, found: {reason}: mend that or name another folder"
