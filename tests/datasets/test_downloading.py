"""Downloads from a real server on this machine that does everything a server should not do."""

from __future__ import annotations

import hashlib
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from archives_for_tests import FILES, pack, tree

import embedcal
from embedcal.datasets.downloads import downloading
from embedcal.datasets.downloads.downloading import Download, get, obtain
from embedcal.types import EmbedcalError

BODY = os.urandom(300_000)
FILE = "set.bin"


@dataclass
class Site:
    """What the server has and how it misbehaves; ``served`` are the bytes of bodies that it sent.

    ``cuts`` are the numbers of bytes after which it ends, one an answer; None sends it all.
    """

    body: bytes = BODY
    etag: str | None = '"one"'
    modified: str | None = None
    ranges: bool = True
    heeds_if_range: bool = True
    length: int | None = -1  # -1: the true one; None: none
    cuts: list[int | None] = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)
    stalls: bool = False
    chunked: bool = False
    off: int = 0  # by how much it misses the beginning of a range
    location: str | None = None
    served: int = 0
    asked: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    url: str = ""
    go: threading.Event = field(default_factory=threading.Event)

    @property
    def requests(self) -> int:
        return len(self.asked)

    def range_of(self, number: int) -> str | None:
        return self.asked[number][1].get("Range")


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    site: Site

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        site = self.site
        site.asked.append((self.path, dict(self.headers.items())))
        self.close_connection = True
        status = site.statuses.pop(0) if site.statuses else 200
        if site.location and self.path != "/moved":
            self.send_response(302)
            self.send_header("Location", site.location)
            self.end_headers()
            if site.stalls:  # a redirect with a body that never ends
                with suppress(OSError):
                    while not site.go.is_set():
                        self.wfile.write(bytes(1 << 16))
            return
        if status != 200:
            self.send_response(status)
            self.send_header("Retry-After", "86400")
            self.end_headers()
            return
        start = 0
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        fresh = self.headers.get("If-Range") in (None, site.etag or site.modified)
        if asked and site.ranges and (fresh or not site.heeds_if_range):
            start = int(asked[1]) - site.off
        if start and start >= len(site.body):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(site.body)}")
            self.end_headers()
            return
        self.send_response(206 if start else 200)
        if start:
            self.send_header(
                "Content-Range", f"bytes {start}-{len(site.body) - 1}/{len(site.body)}"
            )
        if site.length is not None:
            length = len(site.body) - start if site.length == -1 else site.length
            self.send_header("Content-Length", str(length))
        for name, value in [("ETag", site.etag), ("Last-Modified", site.modified)]:
            if value:
                self.send_header(name, value)
        if site.chunked:
            self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        cut = site.cuts.pop(0) if site.cuts else None
        with suppress(OSError):
            body = site.body[start:] if cut is None else site.body[start:][:cut]
            if site.stalls and cut is not None:
                self._send(site, body[:-7])
                time.sleep(0.1)
                self._send(site, body[-7:])  # a piece so small that a buffer would hold it back
                site.go.wait(20)
                return
            self._send(site, body)
            if site.chunked and cut is None:
                self.wfile.write(b"0\r\n\r\n")

    def _send(self, site: Site, body: bytes) -> None:
        for at in range(0, len(body), 10_000):
            piece = body[at : at + 10_000]
            self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece) if site.chunked else piece)
            site.served += len(piece)
        self.wfile.flush()


@pytest.fixture
def serve() -> Iterator[Callable[..., Site]]:
    servers: list[tuple[ThreadingHTTPServer, Site]] = []

    def start(**how: Any) -> Site:
        site = Site(**how)
        handler = type("OneHandler", (Handler,), {"site": site})
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        site.url = f"http://127.0.0.1:{server.server_port}/{FILE}"
        servers.append((server, site))
        return site

    yield start
    for server, site in servers:
        site.go.set()
        server.shutdown()
        server.server_close()


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """No proxy, short waits."""
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    from embedcal.datasets.downloads import fetching

    monkeypatch.setattr(fetching, "TIMEOUT", (2.0, 0.5))
    monkeypatch.setattr(fetching, "CONNECTING", fetching.CONNECTING.new(backoff_factor=0))
    monkeypatch.setattr(fetching, "GOING_ON", fetching.GOING_ON.new(backoff_factor=0))


def of(site: Site, **more: Any) -> Download:
    return Download(url=site.url, file=FILE, **more)


def sha(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


def fails(download: Download, folder: Path, match: str) -> str:
    """The one line, which ends with the way by hand."""
    with pytest.raises(EmbedcalError, match=match) as raised:
        get(download, folder, again="embedcal datasets get x")
    line = str(raised.value)
    assert line.isprintable()
    assert line.endswith(
        f"; by hand: download {download.url} as {FILE} into {folder}, then run "
        "embedcal datasets get x"
    )
    return line


def only(folder: Path, *names: str) -> None:
    assert {path.name for path in folder.iterdir()} == {f".{FILE}.lock", *names}


def begun(site: Site, folder: Path, cut: int = 100_000) -> None:
    """A download that stalled after ``cut`` bytes."""
    site.cuts, site.stalls = [cut], True
    fails(of(site), folder, "nothing coming for 0.5 s")
    site.go.set()
    assert (folder / f"{FILE}.part").stat().st_size == cut


@pytest.mark.parametrize(
    "known",
    [
        {},
        {"sha256": sha(BODY)},
        {"sha256": sha(BODY).upper(), "size": len(BODY)},
        {"md5": hashlib.md5(BODY).hexdigest()},
        {"size": len(BODY)},
    ],
)
@pytest.mark.parametrize("how", [{}, {"chunked": True, "length": None}, {"length": None}])
def test_a_file_comes_whole_and_once(tmp_path, serve, known, how, capfd) -> None:
    site = serve(**how)
    told: list[tuple[int, int | None]] = []
    path = get(of(site, **known), tmp_path / "new", progress=lambda *at: told.append(at))
    assert path == tmp_path / "new" / FILE
    assert path.read_bytes() == BODY
    assert told == sorted(told, key=lambda at: at[0])
    total = len(BODY) if not how or "size" in known else None
    assert told[-1] == (len(BODY), total)
    assert get(of(site, **known), tmp_path / "new") == path
    assert site.requests == 1
    assert site.served == len(BODY)
    only(tmp_path / "new", FILE)
    assert capfd.readouterr() == ("", "")
    headers = site.asked[0][1]
    assert headers["User-Agent"] == f"embedcal/{embedcal.__version__}"
    assert headers["Accept-Encoding"] == "identity"


def test_an_empty_file(tmp_path, serve) -> None:
    site = serve(body=b"")
    assert get(of(site, size=0), tmp_path).read_bytes() == b""


def test_the_callers_umask_holds(tmp_path, serve) -> None:
    old = os.umask(0o022)
    try:
        assert get(of(serve()), tmp_path).stat().st_mode & 0o777 == 0o644
    finally:
        os.umask(old)


# Going on


@pytest.mark.parametrize("tag", [{}, {"etag": None, "modified": "Sun, 01 Jan 2023 00:00:00 GMT"}])
def test_a_stall_is_one_line_and_no_byte_comes_twice(tmp_path, serve, tag) -> None:
    site = serve(**tag)
    begun(site, tmp_path)
    only(tmp_path, f"{FILE}.part", f".{FILE}.part.json")
    told: list[int] = []
    assert get(of(site), tmp_path, progress=lambda done, _: told.append(done)).read_bytes() == BODY
    assert site.served == len(BODY)
    assert site.range_of(1) == "bytes=100000-"
    assert site.asked[1][1]["If-Range"] == (site.etag or site.modified)
    assert told[0] > 100_000
    only(tmp_path, FILE)


@pytest.mark.parametrize("how", [{"ranges": False}, {"etag": None}, {"etag": 'W/"weak"'}])
def test_a_server_without_ranges_or_tags_sends_it_all_again(tmp_path, serve, how) -> None:
    site = serve(**how)
    begun(site, tmp_path)
    assert get(of(site), tmp_path).read_bytes() == BODY
    assert site.served == len(BODY) + 100_000


def test_with_a_checksum_no_tag_is_needed(tmp_path, serve) -> None:
    site = serve(etag=None)
    begun(site, tmp_path)
    assert get(of(site, sha256=sha(BODY)), tmp_path).read_bytes() == BODY
    assert site.served == len(BODY)
    assert "If-Range" not in site.asked[1][1]


def test_another_total_is_another_file_even_without_a_tag(tmp_path, serve) -> None:
    site = serve(etag=None)
    begun(site, tmp_path)
    site.body = os.urandom(250_000)
    assert get(of(site, sha256=sha(site.body)), tmp_path).read_bytes() == site.body


@pytest.mark.parametrize("heeds", [True, False])
@pytest.mark.parametrize("size", [300_000, 250_000, 50_000])
def test_a_file_that_changed_meanwhile_is_not_mixed(tmp_path, serve, heeds, size) -> None:
    site = serve(heeds_if_range=heeds)
    begun(site, tmp_path)
    site.body, site.etag = os.urandom(size), '"two"'
    assert get(of(site), tmp_path).read_bytes() == site.body
    only(tmp_path, FILE)


def test_another_address_begins_anew(tmp_path, serve) -> None:
    begun(serve(), tmp_path)
    other = serve(body=BODY[::-1])
    assert get(of(other), tmp_path).read_bytes() == BODY[::-1]
    assert other.range_of(0) is None


@pytest.mark.parametrize(
    "notes",
    [
        "",
        "{}",
        "[1]",
        '{"url": 3, "handed": "../../etc"}',
        '{"url": "URL", "etag": 3}',
        '{"url": "URL", "total": "300000"}',
        '{"url": "URL", "handed": [1]}',
        "gone",
    ],
)
def test_damaged_notes_begin_anew(tmp_path, serve, notes) -> None:
    site = serve()
    begun(site, tmp_path)
    path = tmp_path / f".{FILE}.part.json"
    path.unlink() if notes == "gone" else path.write_text(notes.replace("URL", site.url))
    assert get(of(site), tmp_path).read_bytes() == BODY
    assert site.range_of(1) is None


def test_a_part_that_is_longer_than_the_file_begins_anew(tmp_path, serve) -> None:
    site = serve()
    begun(site, tmp_path)
    (tmp_path / f"{FILE}.part").write_bytes(bytes(len(BODY) + 1))
    assert get(of(site), tmp_path).read_bytes() == BODY


def test_broken_connections_are_gone_on_with_a_few_times(tmp_path, serve) -> None:
    site = serve(cuts=[50_000, 50_000, 0])
    assert get(of(site), tmp_path).read_bytes() == BODY
    assert (site.requests, site.served) == (4, len(BODY))
    site = serve(cuts=[50_000] * 9)
    folder = tmp_path / "two"
    line = fails(of(site), folder, "after 200,000 of 300,000 bytes: run the same command again")
    assert "it goes on from there" in line
    assert site.requests == 4
    site.cuts = []
    get(of(site), folder)
    assert site.served == len(BODY)


@pytest.mark.parametrize("chunked", [True, False])
def test_a_file_of_untold_length_that_breaks_off_is_gone_on_with(tmp_path, serve, chunked) -> None:
    site = serve(chunked=chunked, length=None, cuts=[50_000])
    assert get(of(site, size=len(BODY)), tmp_path).read_bytes() == BODY
    assert site.served == len(BODY)


CHILD = """
import sys
from pathlib import Path
from embedcal.datasets.downloads.downloading import Download, get

url, file, folder, sha = sys.argv[1:]
get(Download(url=url, file=file, sha256=sha or None), Path(folder))
"""


def child(site: Site, folder: Path, known: str = "", code: str = CHILD) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", code, site.url, FILE, str(folder), known])


def wait_for(true: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_killed_in_the_middle_no_byte_comes_twice(tmp_path, serve) -> None:
    site = serve(cuts=[123_457], stalls=True)
    part = tmp_path / f"{FILE}.part"
    with child(site, tmp_path) as process:
        wait_for(lambda: part.exists() and part.stat().st_size == 123_457)
        process.send_signal(signal.SIGKILL)
    site.go.set()
    only(tmp_path, f"{FILE}.part", f".{FILE}.part.json")
    assert get(of(site, sha256=sha(BODY)), tmp_path).read_bytes() == BODY
    assert site.served == len(BODY)
    only(tmp_path, FILE)


@pytest.mark.parametrize("links", [True, False])
def test_killed_while_it_is_checked_nothing_is_asked_for_again(tmp_path, serve, links) -> None:
    site = serve()
    code = "import pooch.core, time\npooch.core.hash_matches = lambda *_, **__: time.sleep(60)\n"
    if not links:
        code += "import pathlib\ndef none(*_): raise OSError\n"
        code += "pathlib.Path.hardlink_to = none\n"
    handed = tmp_path / f".{FILE}.part.json"
    with child(site, tmp_path, sha(BODY), code + CHILD) as process:
        wait_for(lambda: handed.exists() and '"handed": "tmp' in handed.read_text())
        wait_for(lambda: len(list(tmp_path.glob("tmp*"))) == 1)
        wait_for(lambda: links or not (tmp_path / f"{FILE}.part").exists())
        process.send_signal(signal.SIGKILL)
    assert get(of(site, sha256=sha(BODY)), tmp_path).read_bytes() == BODY
    assert (site.requests, site.served) == (1, len(BODY))
    only(tmp_path, FILE)


def test_interrupted_while_it_is_checked_nothing_is_asked_for_again(
    tmp_path, serve, monkeypatch
) -> None:
    import pooch.core

    site = serve()
    real = pooch.core.hash_matches

    def interrupted(*_: Any, **__: Any) -> bool:
        raise KeyboardInterrupt

    monkeypatch.setattr(pooch.core, "hash_matches", interrupted)
    with pytest.raises(KeyboardInterrupt):
        get(of(site, sha256=sha(BODY)), tmp_path)
    monkeypatch.setattr(pooch.core, "hash_matches", real)
    get(of(site, sha256=sha(BODY)), tmp_path)
    assert site.requests == 1
    only(tmp_path, FILE)


def test_two_processes_fetch_it_once(tmp_path, serve) -> None:
    site = serve(cuts=[100_000, None], stalls=True)
    with child(site, tmp_path, sha(BODY)) as process:
        wait_for(lambda: site.requests == 1)
        threading.Timer(0.3, site.go.set).start()
        assert get(of(site, sha256=sha(BODY)), tmp_path).read_bytes() == BODY
        assert process.wait(30) == 0
    assert site.served == len(BODY)
    only(tmp_path, FILE)


# What is wrong


def test_a_wrong_checksum_is_named_and_the_file_deleted(tmp_path, serve) -> None:
    site = serve()
    line = fails(of(site, sha256="0" * 64), tmp_path, "another checksum and deleted it")
    assert f"sha256:{'0' * 64}" in line
    only(tmp_path)
    assert site.requests == 1


def test_a_file_that_is_there_and_wrong_is_replaced_only_by_the_right_one(tmp_path, serve) -> None:
    site = serve(statuses=[404])
    (tmp_path / FILE).write_bytes(b"old")
    fails(of(site, sha256=sha(BODY)), tmp_path, "404")
    assert (tmp_path / FILE).read_bytes() == b"old"
    fails(of(site, size=len(BODY)), tmp_path, "expected 300,000 bytes in .* found 3: move it away")
    assert get(of(site), tmp_path).read_bytes() == b"old"  # nothing says that it is wrong
    assert get(of(site, sha256=sha(BODY)), tmp_path).read_bytes() == BODY


@pytest.mark.parametrize("size", [None, len(BODY)])
def test_a_length_that_is_too_long_is_a_broken_connection(tmp_path, serve, size) -> None:
    site = serve(length=len(BODY) + (0 if size else 1000), ranges=False, cuts=[1000] * 4)
    fails(of(site, size=size), tmp_path, "a fault on the way")
    assert site.requests == 4


def test_another_length_than_the_known_one_is_refused_before_a_byte_is_kept(
    tmp_path, serve
) -> None:
    for length in (10, len(BODY) + 1, 10**15):
        fails(of(serve(length=length), size=len(BODY)), tmp_path, f"the server has {length:,}")
        only(tmp_path)


@pytest.mark.parametrize("how", [{"chunked": True}, {}])
def test_more_than_the_known_size_is_never_written(tmp_path, serve, how) -> None:
    site = serve(length=None, body=bytes(5_000_000), **how)
    most = 0

    def told(done: int, _: int | None) -> None:
        nonlocal most
        most = max(most, done)

    with pytest.raises(EmbedcalError, match="expected 300,000 bytes, found that more came"):
        get(of(site, size=300_000), tmp_path, progress=told)
    assert most <= 300_000
    only(tmp_path)


@pytest.mark.parametrize("off", [1, -1])
def test_a_range_that_was_not_asked_for_begins_anew(tmp_path, serve, off) -> None:
    site = serve(off=off)
    begun(site, tmp_path)
    assert get(of(site), tmp_path).read_bytes() == BODY


@pytest.mark.parametrize("status", [401, 403, 404, 410])
def test_a_lasting_refusal_is_one_line_at_once(tmp_path, serve, status) -> None:
    site = serve(statuses=[status] * 9)
    fails(of(site), tmp_path, f"the server answers {status}")
    assert site.requests == 1


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_passing_refusal_is_tried_again_whatever_wait_it_asks_for(
    tmp_path, serve, status
) -> None:
    site = serve(statuses=[status, status])
    assert get(of(site), tmp_path).read_bytes() == BODY
    assert site.requests == 3
    site = serve(statuses=[status] * 9)
    fails(of(site), tmp_path / "two", f"the server answers {status} .*run the same command again")
    assert site.requests == 4


def test_no_server_is_one_line(tmp_path, serve, monkeypatch) -> None:
    gone = replace(of(serve()), url="http://127.0.0.1:9/x")
    fails(gone, tmp_path, r"no connection \(refused, or no network\)")
    nobody = replace(gone, url="https://nobody.invalid/x")
    fails(nobody, tmp_path, r"no machine of that name|no connection")


REDIRECTS = [
    "file:///etc/passwd",
    "http://example.org/x",
    "http://127.0.0.1.example.org/x",
    "http://127.0.0.1:80@example.org/x",
    "ftp://127.0.0.1/x",
    "//example.org/x",
    "data:,x",
]


@pytest.mark.parametrize("location", REDIRECTS)
def test_a_redirect_to_what_is_not_https_is_refused(tmp_path, serve, location) -> None:
    site = serve(location=location)
    line = fails(of(site), tmp_path, "expected an address with https://, found a redirect to")
    assert location in line
    only(tmp_path)


def test_redirects_are_followed_and_bounded(tmp_path, serve) -> None:
    site = serve(location="/moved")
    assert get(of(site), tmp_path).read_bytes() == BODY
    site = serve(location="/again")
    fails(of(site), tmp_path / "two", "Exceeded 8 redirects")


def test_the_body_of_a_redirect_is_not_read(tmp_path, serve) -> None:
    site = serve(location="/moved", stalls=True)
    assert get(of(site), tmp_path).read_bytes() == BODY


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"url": "http://example.org/x"}, "url = 'http://example.org/x'"),
        ({"url": "file:///etc/passwd"}, "url"),
        ({"url": "https:///x"}, "url"),
        ({"url": "https://["}, "url"),
        ({"file": "../x"}, "plain file name"),
        ({"file": "a/b"}, "plain file name"),
        ({"file": ".bashrc"}, "plain file name"),
        ({"file": "a\nb"}, "plain file name"),
        ({"file": ""}, "plain file name"),
        ({"folder": "../x"}, "below the root"),
        ({"folder": "/etc"}, "below the root"),
        ({"sha256": "abc"}, "64 hexadecimal digits"),
        ({"md5": "sha256:" + "0" * 64}, "32 hexadecimal digits"),
        ({"size": -1}, "size = -1"),
    ],
)
def test_facts_that_are_not_sound_are_named(tmp_path, change, why) -> None:
    download = replace(Download(url="https://example.org/x", file="x"), **change)
    with pytest.raises(EmbedcalError, match=why):
        get(download, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_proxy_is_used_as_requests_does(tmp_path, serve, monkeypatch) -> None:
    proxy = serve()
    monkeypatch.setenv("http_proxy", proxy.url.rsplit("/", 1)[0])
    monkeypatch.setenv("no_proxy", "")
    download = Download(url="http://localhost:1/far", file=FILE)
    assert get(download, tmp_path).read_bytes() == BODY
    assert proxy.asked[0][0] == "http://localhost:1/far"
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    fails(replace(download, url="http://localhost:1/new"), tmp_path / "two", "through the proxy")


# The disk


def test_a_disk_that_is_too_small_is_noticed_beforehand(tmp_path, serve, small_disk) -> None:
    site = serve(body=bytes(2_000_000))
    line = fails(of(site), small_disk, "expected 2,000,000 bytes of free space")
    assert re.search(r"found [\d,]+: make room", line)
    only(small_disk)


def test_a_disk_that_fills_up_is_one_line_and_it_goes_on_later(tmp_path, serve, small_disk) -> None:
    site = serve(body=os.urandom(2_000_000), length=None)
    fails(of(site), small_disk, r"found [\d,]+ bytes free on that disk: make room and run the same")
    have = (small_disk / f"{FILE}.part").stat().st_size
    assert have > 500_000
    subprocess.run(["mount", "-o", "remount,size=8m", str(small_disk)], check=True)
    assert get(of(site), small_disk).read_bytes() == site.body
    assert site.range_of(1) == f"bytes={have}-"


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path, serve) -> None:
    (tmp_path / "file").write_text("")
    fails(of(serve()), tmp_path / "file" / "below", "expected to write into")
    (tmp_path / "there" / FILE).mkdir(parents=True)
    fails(of(serve()), tmp_path / "there", "found a folder")


# A whole data set


def test_obtain_fetches_unpacks_and_does_nothing_twice(tmp_path, serve) -> None:
    archive = pack(tmp_path / "a.tar.gz", FILES)
    packed, plain = serve(body=archive.read_bytes()), serve()
    downloads = [
        Download(url=packed.url, file="a.tar.gz", unpack=True, sha256=sha(packed.body)),
        Download(url=packed.url, file="b.tar.gz", unpack=True, folder="below/it"),
        Download(url=plain.url, file="labels.csv"),
    ]
    root = tmp_path / "root"
    told: list[tuple[str, int, int]] = []

    def run() -> list[Path]:
        return obtain("birds", downloads, root, [], lambda *at: told.append(at))

    assert run() == [root, root / "below/it", root / "labels.csv"]
    assert tree(root / "below/it") == FILES
    assert tree(root / "set") == {name[4:]: content for name, content in FILES.items()}
    assert {stage for stage, *_ in told} == {
        *("a.tar.gz", "unpack a.tar.gz", "b.tar.gz", "unpack b.tar.gz", "labels.csv"),
    }
    asked = (packed.requests, plain.requests)
    assert asked == (2, 1)
    told.clear()
    before = (root / "set/images/3.jpg").stat().st_mtime_ns
    assert run() == [root, root / "below/it", root / "labels.csv"]
    (root / "a.tar.gz").unlink()  # the user wants the room
    run()
    assert (packed.requests, plain.requests) == asked
    assert (root / "set/images/3.jpg").stat().st_mtime_ns == before
    assert told == []


def test_obtain_unpacks_what_was_put_there_by_hand(tmp_path, serve) -> None:
    site = serve(statuses=[404] * 9)
    download = Download(url=site.url, file="a.zip", unpack=True)
    root = tmp_path / "my data"
    with pytest.raises(EmbedcalError) as raised:
        obtain("birds", [download], root, [], None)
    line = str(raised.value)
    assert line.endswith(
        f"; by hand: download {site.url} as a.zip into {root}, then run "
        f"embedcal datasets get birds --root '{root}'"
    )
    pack(root / "a.zip", FILES)
    assert obtain("birds", [download], root, [], None) == [root]
    assert (root / "set/metadata.csv").is_file()


def test_a_hostile_archive_leaves_nothing_and_says_the_way_by_hand(tmp_path, serve) -> None:
    site = serve(body=pack(tmp_path / "x.zip", {"../out": b"1"}).read_bytes())
    download = Download(url=site.url, file="a.zip", unpack=True)
    with pytest.raises(EmbedcalError, match=r"outside the folder at '\.\./out'.*; by hand: down"):
        obtain("birds", [download], tmp_path / "root", [], None)
    assert not (tmp_path / "out").exists()
    assert {path.name for path in (tmp_path / "root").iterdir()} == {"a.zip", ".a.zip.lock"}


def test_without_an_address_the_steps_are_said(tmp_path) -> None:
    with pytest.raises(EmbedcalError, match="found none: sign; then download"):
        obtain("celeba", [], tmp_path, ["sign", "then download"], None)


def test_pooch_keeps_its_own_logging(tmp_path, serve) -> None:
    import pooch

    level = pooch.get_logger().level
    get(of(serve()), tmp_path)
    assert pooch.get_logger().level == level


def test_the_modules_cost_nothing_at_import() -> None:
    code = (
        "import sys, embedcal.datasets.downloads.downloading\n"
        "assert not {'pooch', 'requests', 'urllib3', 'tarfile', 'zipfile'} & set(sys.modules)"
    )
    assert downloading
    subprocess.run([sys.executable, "-c", code], check=True)
