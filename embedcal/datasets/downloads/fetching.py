"""One file over HTTPS into a ``.part`` that outlives a kill, as a downloader for pooch.

Imported only where something is fetched: requests takes a third of a second.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from urllib.parse import urlsplit

import requests
from requests.adapters import BaseAdapter, HTTPAdapter
from urllib3 import exceptions as faults
from urllib3.util import Retry

from embedcal import __version__
from embedcal.datasets.printable import printable
from embedcal.types import EmbedcalError

TIMEOUT = (10.0, 60.0)  # seconds: to connect, and between two pieces
REDIRECTS = 8
PIECE = 1 << 20
LOCAL = ("localhost", "127.0.0.1", "::1")

PASSING = (429, 500, 502, 503, 504)

# Before an answer comes, as the adapter does it. Not by status, nor with Retry-After: urllib3
# would read the body of every 503, however long it is, and wait for a day if told to.
CONNECTING = Retry(
    total=3, connect=2, read=1, backoff_factor=0.5, status=0, respect_retry_after_header=False
)
GOING_ON = Retry(total=3, backoff_factor=0.5)  # after 0, 1 and 2 seconds


def is_allowed(url: str, *, local: bool = False) -> bool:
    """Whether an address is HTTPS, or with ``local`` HTTP on this very machine."""
    try:
        parts = urlsplit(url)
        host = parts.hostname
    except ValueError:
        return False
    return bool(host) and (
        parts.scheme == "https" or (local and parts.scheme == "http" and host in LOCAL)
    )


class _Session(requests.Session):
    """Goes only where ``is_allowed``, in redirects too: requests asks for an adapter each time."""

    def __init__(self, *, local: bool) -> None:
        super().__init__()
        self._local = local
        self._adapter = HTTPAdapter(max_retries=CONNECTING)
        self.mount("https://", self._adapter)  # so that it is closed with the session
        self.hooks["response"].append(_drop_body)
        self.max_redirects = REDIRECTS
        # Bytes as they lie there: a length and a range mean nothing in a compressed answer.
        self.headers.update(
            {"User-Agent": f"embedcal/{__version__}", "Accept-Encoding": "identity"}
        )

    def get_adapter(self, url: str | bytes) -> BaseAdapter:
        url = url.decode("latin-1") if isinstance(url, bytes) else url
        if not is_allowed(url, local=self._local):
            raise EmbedcalError(
                f"expected an address with https://, found a redirect to {printable(url)}: see "
                "whether the address has changed"
            )
        return self._adapter


def _drop_body(answer: requests.Response, **_: object) -> None:
    """Close a redirect: requests would read its body into memory, however long it is."""
    if answer.is_redirect:
        answer.raw.close()


@dataclass(frozen=True)
class _Known:
    """What is known of the file that a ``.part`` is the beginning of.

    ``handed`` is the name under which the whole ``.part`` was given to pooch to be checked.
    """

    url: str
    etag: str | None = None
    modified: str | None = None
    total: int | None = None
    handed: str | None = None

    @property
    def is_sound(self) -> bool:
        """Whether the types are right; notes on a disk may be damaged."""
        texts = (self.etag, self.modified, self.handed)
        return type(self.total) in (int, type(None)) and all(
            type(text) in (str, type(None)) for text in texts
        )

    @property
    def validator(self) -> str | None:
        """What If-Range takes: a strong ETag, else a date."""
        strong = self.etag and not self.etag.startswith("W/")
        return self.etag if strong else self.modified


@dataclass
class Fetch:
    """Fetch a URL into ``target`` with ``.part`` after its name; pooch calls it, and moves it.

    ``size`` is the file's, where known, ``checked`` whether a checksum will be compared: then a
    ``.part`` may be gone on with although the server names nothing to know the file by.
    """

    target: Path
    size: int | None
    checked: bool
    progress: Callable[[int, int | None], None] | None
    known: _Known = field(init=False)

    @property
    def part(self) -> Path:
        return self.target.with_name(self.target.name + ".part")

    @property
    def _notes(self) -> Path:
        return self.target.with_name(f".{self.target.name}.part.json")

    def __call__(self, url: str, output_file: str, pooch: object) -> None:
        """Have the whole file in ``output_file``. Raises EmbedcalError, and OSError of the disk."""
        output = Path(output_file)
        output.unlink(missing_ok=True)  # pooch's, empty: it would stay behind after a kill
        self._recall(url)
        retries = GOING_ON
        with _Session(local=is_allowed(url, local=True)) as session:
            while not self._is_whole():
                try:
                    self._transfer(session, url)
                except (faults.HTTPError, requests.RequestException) as error:
                    if not isinstance(error, faults.ProtocolError):
                        raise EmbedcalError(self._told(error)) from None
                    try:
                        retries = retries.increment("GET", url, error=error)
                    except faults.MaxRetryError:
                        raise EmbedcalError(self._told(error)) from None
                    retries.sleep()
        # Noted before it is done, so that a kill while pooch checks it costs nothing.
        self._note(replace(self.known, handed=output.name))
        try:
            output.hardlink_to(self.part)  # pooch deletes its own when interrupted
        except OSError:  # no links on this file system
            self.part.replace(output)

    def forget(self) -> None:
        """Delete what was begun."""
        self.part.unlink(missing_ok=True)
        self._notes.unlink(missing_ok=True)

    # What is there

    def _have(self) -> int:
        return self.part.stat().st_size if self.part.is_file() else 0

    def _is_whole(self) -> bool:
        return self.part.is_file() and self._have() == self.known.total

    def _recall(self, url: str) -> None:
        """Take up what an earlier call began, or begin anew where it was another file."""
        try:
            self.known = _Known(**json.loads(self._notes.read_text("utf-8")))
        except (OSError, ValueError, TypeError):
            self.known = _Known(url="")
        if not self.known.is_sound:
            self.known = _Known(url="")
        handed = self.known.handed
        if handed and Path(handed).name == handed:
            lost = self.target.with_name(handed)
            if lost.is_file() and (not self.part.exists() or lost.samefile(self.part)):
                lost.replace(self.part)
                lost.unlink(missing_ok=True)  # to replace a link by itself does nothing
        same = self.known.url == url
        same = same and (self.size is None or self.known.total in (None, self.size))
        if not same:
            self.forget()
            self.known = _Known(url=url)

    def _note(self, known: _Known) -> None:
        self.known = known
        fresh = self._notes.with_suffix(".new")
        fresh.write_text(json.dumps(asdict(known)), "utf-8")
        fresh.replace(self._notes)

    # One connection

    def _transfer(self, session: requests.Session, url: str) -> None:
        """What one connection brings; returns early where the server has another file now."""
        have = self._have()
        validator = self.known.validator
        headers = {}
        if have and (validator or self.checked):
            headers["Range"] = f"bytes={have}-"
            if validator:
                headers["If-Range"] = validator
        with session.get(url, headers=headers, stream=True, timeout=TIMEOUT) as answer:
            found = _found(answer, url)
            status = answer.status_code
            if headers and (
                status == 416 or (status == 206 and not self._goes_on(answer, found, have))
            ):
                self.forget()
                self.known = _Known(url=url)
                return
            if status in PASSING:
                raise faults.ProtocolError(f"the server answers {_status(answer)}")
            if status not in (200, 206) or (status == 206 and not headers):
                raise EmbedcalError(
                    f"expected {printable(self.target.name)}, found that the server answers "
                    f"{_status(answer)}: see whether the address has changed"
                )
            if status == 206:  # it may leave out what we told it
                etag, modified = self.known.etag, self.known.modified
                found = replace(found, etag=etag, modified=modified)
            else:
                have = 0
                self.forget()
            self._check_size(found.total, have)
            self._note(found)
            self._write(answer, have)

    def _goes_on(self, answer: requests.Response, found: _Known, have: int) -> bool:
        """Whether a part of a file is what was asked for, of the file that was begun."""
        starts = answer.headers.get("Content-Range", "").startswith(f"bytes {have}-")
        return (
            starts
            and self.known.total in (None, found.total)
            and found.etag in (None, self.known.etag)
            and found.modified in (None, self.known.modified)
        )

    def _check_size(self, total: int | None, have: int) -> None:
        if self.size is not None and total not in (None, self.size):
            raise EmbedcalError(
                f"expected {self.size:,} bytes, found that the server has {total:,}: see whether "
                "the file has changed there"
            )
        need = (self.size or total or have) - have
        free = shutil.disk_usage(self.target.parent).free
        if need > free:
            raise EmbedcalError(
                f"expected {need:,} bytes of free space in "
                f"{printable(str(self.target.parent), longest=300)}, found {free:,}: make room"
            )

    def _write(self, answer: requests.Response, have: int) -> None:
        total = self.size if self.known.total is None else self.known.total
        # Read as it comes and flushed: what has arrived is there, whatever happens next.
        with self.part.open("ab") as file:
            while piece := answer.raw.read1(PIECE, decode_content=False):
                have += len(piece)
                if total is not None and have > total:
                    self.forget()
                    raise EmbedcalError(
                        f"expected {total:,} bytes, found that more came: see whether the file "
                        "has changed there"
                    )
                file.write(piece)
                file.flush()
                if self.progress:
                    self.progress(have, total)
        if total is not None and have < total:
            raise faults.ProtocolError(f"cut off after {have:,} of {total:,} bytes")
        self._note(replace(self.known, total=have))

    def _told(self, error: Exception) -> str:
        have, total = self._have(), self.known.total
        got = f" after {have:,}{f' of {total:,}' if total else ''} bytes" if have else ""
        return (
            f"expected {printable(self.target.name)} whole, found {_cause(error)}{got}: "
            f"run the same command again{', it goes on from there' if have else ''}"
        )


def _found(answer: requests.Response, url: str) -> _Known:
    """What an answer says of the whole file."""
    text = answer.headers.get("Content-Length", "")
    if answer.status_code == 206:
        text = answer.headers.get("Content-Range", "").rpartition("/")[2]
    total = int(text) if text.isascii() and text.isdigit() and len(text) < 19 else None
    etag, modified = (answer.headers.get(name) for name in ("ETag", "Last-Modified"))
    return _Known(url=url, etag=etag, modified=modified, total=total)


def _status(answer: requests.Response) -> str:
    return f"{answer.status_code} {printable(answer.reason or '')}".rstrip()


def _cause(error: BaseException) -> str:
    """Why a connection failed, without the classes that it is wrapped in."""
    inner: object = error
    ends = faults.TimeoutError | faults.NewConnectionError | faults.SSLError | faults.ProxyError
    while not isinstance(inner, ends):
        deeper = getattr(inner, "reason", None) or next(iter(getattr(inner, "args", ())), None)
        if not isinstance(deeper, BaseException):
            break
        inner = deeper
    if isinstance(inner, faults.NameResolutionError):
        return "no machine of that name (or no network)"
    if isinstance(inner, faults.ProxyError):
        return "no way through the proxy that the environment names"
    if isinstance(inner, faults.NewConnectionError):  # which calls itself a timeout too
        return "no connection (refused, or no network)"
    if isinstance(inner, faults.ConnectTimeoutError):
        return f"no connection within {TIMEOUT[0]:g} s"
    if isinstance(inner, faults.TimeoutError):
        return f"nothing coming for {TIMEOUT[1]:g} s"
    return f"a fault on the way ({printable(str(inner), longest=160)})"
