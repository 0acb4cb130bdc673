"""Files from stable public addresses, fetched once and checked."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from embedcal.datasets.downloads.unpacking import is_unpacked, locked, on_disk, unpack
from embedcal.datasets.files import leads_out, normalise
from embedcal.datasets.printable import printable
from embedcal.types import EmbedcalError

_DIGITS = {"sha256": 64, "md5": 32}


@dataclass(frozen=True, kw_only=True)
class Download:
    """One file: where it is, and how it is known to be the right one.

    ``sha256`` or ``md5`` of the whole file, in hex, and its ``size`` in bytes, where they are
    published. ``file`` is its name on disk. With ``unpack`` it is an archive, unpacked into
    ``folder`` below the data set's root.
    """

    url: str
    file: str
    sha256: str | None = None
    md5: str | None = None
    size: int | None = None
    unpack: bool = False
    folder: str = "."

    @property
    def known_hash(self) -> str | None:
        """The checksum as pooch writes it, ``sha256:...`` or ``md5:...``; None without one."""
        if self.sha256:
            return f"sha256:{self.sha256.lower()}"
        return f"md5:{self.md5.lower()}" if self.md5 else None


def obtain(
    name: str,
    downloads: Sequence[Download],
    folder: Path,
    manual: Sequence[str],
    progress: Callable[[str, int, int], None] | None = None,
) -> list[Path]:
    """All files of the data set ``name`` in ``folder``, its archives unpacked.

    Gives for each download its file, or the folder that it was unpacked into. What is there and
    right is not fetched again, an archive that was deleted after it was unpacked neither; archives
    are kept. ``progress`` gets a stage, bytes done and bytes in all. Raises EmbedcalError, which
    ends with the way by hand; ``manual`` are its steps where there is no download.
    """
    if not downloads:
        raise EmbedcalError(
            f"expected {name} to have an address to download it from, found none: "
            f"{'; '.join(manual) or 'obtain it from its authors'}"
        )
    folder = folder.expanduser().absolute()
    again = f"embedcal datasets get {name} --root {shlex.quote(str(folder))}"
    return [_obtain(each, folder, again, progress) for each in downloads]


def _obtain(
    download: Download,
    root: Path,
    again: str,
    progress: Callable[[str, int, int], None] | None,
) -> Path:
    fetched = root / download.file
    into = root / normalise(download.folder)
    _check(download)
    if download.unpack and not fetched.exists() and is_unpacked(fetched, into):
        return into

    def came(done: int, total: int | None) -> None:
        if progress:
            progress(download.file, done, done if total is None else total)

    def unpacked(done: int, total: int) -> None:
        if progress:
            progress(f"unpack {download.file}", done, total)

    get(download, root, progress=came, again=again)
    if not download.unpack:
        return fetched
    try:
        return unpack(fetched, into, progress=unpacked)
    except EmbedcalError as error:
        raise EmbedcalError(f"{error}{_by_hand(download, root, again)}") from None


def get(
    download: Download,
    folder: Path,
    *,
    progress: Callable[[int, int | None], None] | None = None,
    again: str = "the same command",
) -> Path:
    """The file of ``download`` in ``folder``, fetched where it is not there, or not the right one.

    What arrives is kept in a ``.part`` beside it: after a kill, a fault or a full disk the next
    call goes on from there, if the server's file is still the same one and the server can. A
    second process waits for the first. ``progress`` gets the bytes there are and, where known,
    the bytes in all. Without a checksum and a size, a file that is there counts as right. Raises
    EmbedcalError with the way by hand; ``again`` is the command to run after that.
    """
    _check(download)
    folder = folder.expanduser().absolute()
    target = folder / download.file
    by_hand = _by_hand(download, folder, again)
    try:
        with locked(target):
            _retrieve(download, target, progress)
    except EmbedcalError as error:
        raise EmbedcalError(f"{error}{by_hand}") from None
    except OSError as error:
        raise EmbedcalError(f"{on_disk(error, folder)}{by_hand}") from None
    return target


def _by_hand(download: Download, folder: Path, again: str) -> str:
    return (
        f"; by hand: download {printable(download.url, longest=300)} as {download.file} into "
        f"{printable(str(folder), longest=300)}, then run {again}"
    )


def _retrieve(
    download: Download, target: Path, progress: Callable[[int, int | None], None] | None
) -> None:
    """What is done under the lock: pooch looks, calls our downloader, compares and moves."""
    from embedcal.datasets.downloads.fetching import Fetch

    known_hash = download.known_hash
    if target.exists() and not target.is_file():
        raise EmbedcalError(f"expected a file, found a folder at {target}: move it away")
    if target.exists() and not known_hash and download.size not in (None, target.stat().st_size):
        raise EmbedcalError(
            f"expected {download.size:,} bytes in {target}, found {target.stat().st_size:,}: "
            "move it away"
        )
    fetch = Fetch(target, download.size, known_hash is not None, progress)
    with _quiet_pooch() as retrieve:
        try:
            retrieve(
                download.url,
                known_hash,
                fname=target.name,
                path=target.parent,
                downloader=fetch,
            )
        except ValueError:  # how pooch says that the checksum is another one; it has deleted it
            fetch.forget()
            raise EmbedcalError(
                f"expected {target.name} with {known_hash}, found another checksum and deleted "
                "it: the file was damaged on its way, or has changed there"
            ) from None
    fetch.forget()


@contextmanager
def _quiet_pooch() -> Iterator[Callable[..., str]]:
    """``pooch.retrieve`` without its lines on standard error; its users' setting comes back."""
    import logging

    import pooch  # type: ignore[import-untyped]

    logger = pooch.get_logger()
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield pooch.retrieve
    finally:
        logger.setLevel(level)


def _check(download: Download) -> None:
    """EmbedcalError where the facts about a download are not sound."""
    from embedcal.datasets.downloads.fetching import is_allowed

    name, fault = download.file, None
    if not name or not name.isprintable() or name != Path(name).name or name.startswith("."):
        fault = f"file = '{printable(name)}': write a plain file name"
    elif leads_out(normalise(download.folder)) or not download.folder.isprintable():
        fault = f"folder = '{printable(download.folder)}': name a folder below the root"
    elif not is_allowed(download.url, local=True):
        fault = f"url = '{printable(download.url)}': write an address with https://"
    elif download.size is not None and download.size < 0:
        fault = f"size = {download.size}: write the bytes of the file"
    for kind, digits in _DIGITS.items():
        text = getattr(download, kind)
        if text is not None and not re.fullmatch(rf"[0-9a-fA-F]{{{digits}}}", text):
            fault = f"{kind} = '{printable(text)}': write its {digits} hexadecimal digits"
    if fault:
        raise EmbedcalError(f"expected sound facts about a download, found {fault}")
