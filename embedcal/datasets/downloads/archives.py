"""What is in an archive, member by member, and how much of it may be unpacked."""

from __future__ import annotations

import errno
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, cast

from embedcal.datasets.printable import printable
from embedcal.types import EmbedcalError

if TYPE_CHECKING:
    from tarfile import TarFile, TarInfo
    from zipfile import ZipFile

MEMBERS = 2_000_000  # ImageNet has 1.3 million
RATIO = 100  # of the bytes unpacked to those of the archive; photographs have 1, text perhaps 20
SMALL = 64 << 20  # bytes that are always allowed
HEADER = 1 << 20  # bytes of one member's header at most: tarfile reads it in one piece
FRAME = 4096  # bytes of a tar file for a member's usual header and padding
PIECE = 256 << 10


class RefusedError(Exception):
    """Why a member is not unpacked."""


@dataclass(frozen=True, kw_only=True)
class Member:
    """One member; ``before`` are the bytes of the archive that come before its own."""

    name: str
    is_folder: bool
    size: int
    before: int
    open: Callable[[], IO[bytes]]
    fault: str | None


@dataclass
class Allowed:
    """Bytes and members so far, until it is a bomb or more than the disk has room for."""

    most: int
    free: int
    bytes: int = 0
    members: int = 0

    def count(self, size: int) -> None:
        self.members += 1
        self.bytes += size
        self.check(self.bytes)
        if self.members > MEMBERS:
            raise RefusedError(f"more than {MEMBERS:,} members")

    def check(self, count: int) -> None:
        if count > self.most:
            raise RefusedError(f"more than the {self.most:,} bytes that are allowed")
        if count > self.free:
            raise OSError(errno.ENOSPC, "the archive is larger than the room on the disk")


@contextmanager
def open_archive(archive: Path, allowed: Allowed) -> Iterator[Iterator[Member]]:
    """The members of an archive in order; each must be read before the next one is asked for."""
    import gzip
    import tarfile
    import zipfile

    name = archive.name.lower()
    if name.endswith(".zip"):
        with zipfile.ZipFile(archive) as zipped:
            yield _zip_members(zipped)
    elif name.endswith((".tar", ".tar.gz", ".tgz")):
        with archive.open("rb") as raw:
            is_plain = name.endswith(".tar")
            plain = raw if is_plain else cast("IO[bytes]", gzip.GzipFile(fileobj=raw))
            stream = _Stream(plain, allowed)
            with tarfile.open(fileobj=cast("IO[bytes]", stream), mode="r:") as tar:
                yield _tar_members(tar, stream, raw)
    else:
        raise EmbedcalError(
            f"expected .zip, .tar, .tar.gz or .tgz, found {printable(archive.name)}: unpack it "
            "yourself"
        )


def _zip_members(zipped: ZipFile) -> Iterator[Member]:
    from zipfile import ZIP_DEFLATED, ZIP_STORED

    before = 0
    for info in zipped.infolist():
        name = info.orig_filename  # the other one ends at the first NUL
        kind = stat.S_IFMT(info.external_attr >> 16)
        fault = None
        if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            fault = "a link" if kind == stat.S_IFLNK else "a device or the like"
        elif info.flag_bits & 1:
            fault = "a file that is encrypted"
        elif info.compress_type not in (ZIP_STORED, ZIP_DEFLATED):
            fault = f"compression of kind {info.compress_type}"
        yield Member(
            name=name,
            is_folder=info.is_dir(),
            size=info.file_size,
            before=before,
            open=partial(zipped.open, info),
            fault=fault,
        )
        before += info.compress_size


def _tar_members(tar: TarFile, stream: _Stream, raw: IO[bytes]) -> Iterator[Member]:
    while (info := tar.next()) is not None:
        tar.members = []  # type: ignore[attr-defined]  # a kilobyte each
        fault = None
        if info.issym() or info.islnk():
            fault = "a link"
        elif info.issparse():
            fault = "a file with holes"
        elif not (info.isreg() or info.isdir()):
            fault = "a device or the like"
        elif info.size < 0:
            fault = "a size below nothing"
        yield Member(
            name=info.name,
            is_folder=info.isdir(),
            size=info.size if info.isreg() else 0,
            before=raw.tell(),
            open=partial(_extracted, tar, info),
            fault=fault,
        )
    # tarfile ends in silence at a header that is damaged or not there: the last must be empty.
    if stream.last != bytes(512):
        raise EOFError("it ends before its end mark")
    while stream.read(PIECE):  # gzip compares its checksum at the end
        pass


def _extracted(tar: TarFile, info: TarInfo) -> IO[bytes]:
    source = tar.extractfile(info)
    assert source is not None  # only for what is no file
    return source


class _Stream:
    """What tarfile reads from; bounded, as headers and padding are a bomb too."""

    def __init__(self, plain: IO[bytes], allowed: Allowed) -> None:
        self._plain = plain
        self._allowed = allowed
        self.last = b""

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= HEADER:
            raise RefusedError(f"a header of {size:,} bytes")
        piece = self._plain.read(size)
        self.last = piece or self.last
        self._allowed.check(self.tell() - HEADER - FRAME * self._allowed.members)
        return piece

    def seek(self, position: int) -> int:
        return self._plain.seek(position)

    def tell(self) -> int:
        return self._plain.tell()


def damage() -> tuple[type[Exception], ...]:
    """How the libraries say that an archive is not what it should be."""
    import gzip
    import tarfile
    import zipfile
    import zlib

    return (
        tarfile.TarError,
        zipfile.BadZipFile,
        gzip.BadGzipFile,
        zlib.error,
        EOFError,
        NotImplementedError,  # zipfile's for a compression that it does not know
        ValueError,
    )
