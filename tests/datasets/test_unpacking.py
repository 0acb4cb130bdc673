"""Archives: the same files out as in, and nothing at all from a hostile or a torn one."""

from __future__ import annotations

import contextlib
import gzip
import io
import os
import signal
import subprocess
import sys
import tarfile
import time
import zipfile
from pathlib import Path

import pytest
from archives_for_tests import FILES, pack, pack_list, tree
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from embedcal.datasets.downloads import archives, unpacking
from embedcal.datasets.downloads.unpacking import is_unpacked, unpack
from embedcal.types import EmbedcalError

KINDS = [".zip", ".tar", ".tar.gz", ".tgz"]


def assert_nothing(archive: Path, folder: Path) -> None:
    """No file, no folder, no leftovers."""
    left = {path for path in archive.parent.rglob("*") if not path.name.endswith(".lock")}
    assert left <= {archive, folder}
    assert not is_unpacked(archive, folder)


@pytest.fixture(params=["fresh", "there"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A folder to unpack into: one that is not there yet, and one that is."""
    made = tmp_path / "into"
    if request.param == "there":
        made.mkdir()
    return made


@pytest.mark.parametrize("kind", KINDS)
def test_what_comes_out_is_what_went_in(tmp_path, folder, kind) -> None:
    archive = pack(tmp_path / f"a{kind}", FILES, ("set", "set/empty"))
    told: list[tuple[int, int]] = []
    assert unpack(archive, folder, progress=lambda *at: told.append(at)) == folder
    assert tree(folder) == FILES
    assert (folder / "set" / "empty").is_dir()
    size = archive.stat().st_size
    assert told[-1] == (size, size)
    assert told == sorted(told)


def test_a_second_call_does_nothing_and_a_changed_archive_is_not_mixed_in(tmp_path, folder) -> None:
    archive = pack(tmp_path / "a.zip", FILES)
    unpack(archive, folder)
    before = (folder / "set/images/3.jpg").stat().st_mtime_ns
    unpack(archive, folder)
    assert (folder / "set/images/3.jpg").stat().st_mtime_ns == before
    archive.unlink()
    assert is_unpacked(archive, folder)
    pack(archive, {"set/metadata.csv": b"other"})
    assert not is_unpacked(archive, folder)
    with pytest.raises(EmbedcalError, match=r"expected no set in .*move it away"):
        unpack(archive, folder)
    assert tree(folder) == FILES


def test_into_the_archives_own_folder_without_touching_what_is_there(tmp_path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    archive = pack(tmp_path / "a.tar", FILES)
    unpack(archive, tmp_path)
    there = tree(tmp_path)
    assert there.pop("a.tar")
    assert there == {**FILES, "mine.txt": b"mine"}
    for path in ("set/metadata.csv", ".a.tar.unpacked"):
        (tmp_path / path).unlink()
    with pytest.raises(EmbedcalError, match="expected no set in"):
        unpack(archive, tmp_path)
    assert "set/metadata.csv" not in tree(tmp_path)


# Hostile members


def tar_of(path: Path, info: tarfile.TarInfo, content: bytes = b"") -> Path:
    with tarfile.open(path, "w:gz", format=tarfile.GNU_FORMAT) as tar:
        tar.addfile(tarfile.TarInfo("set/fine.txt"))
        tar.addfile(info, io.BytesIO(content))
    return path


def special(kind: bytes, name: str = "set/bad", link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info


SPECIAL = [
    (special(tarfile.SYMTYPE, link="/etc"), "a link"),
    (special(tarfile.SYMTYPE, link="fine.txt"), "a link"),
    (special(tarfile.LNKTYPE, link="set/fine.txt"), "a link"),
    (special(tarfile.LNKTYPE, link="../../secret"), "a link"),
    (special(tarfile.CHRTYPE), "a device"),
    (special(tarfile.BLKTYPE), "a device"),
    (special(tarfile.FIFOTYPE), "a device"),
]


@pytest.mark.parametrize(("info", "why"), SPECIAL)
def test_a_tar_member_that_is_no_file_is_refused(tmp_path, folder, info, why) -> None:
    archive = tar_of(tmp_path / "a.tar.gz", info)
    with pytest.raises(EmbedcalError, match=rf"found {why}.* at 'set/bad': nothing was unpacked"):
        unpack(archive, folder)
    assert_nothing(archive, folder)


@pytest.mark.parametrize("mode", [0o120777, 0o020600, 0o010600])
def test_a_zip_member_that_is_no_file_is_refused(tmp_path, folder, mode) -> None:
    archive = tmp_path / "a.zip"
    with zipfile.ZipFile(archive, "w") as zipped:
        info = zipfile.ZipInfo("set/bad")
        info.external_attr = mode << 16
        zipped.writestr(info, "/etc/passwd")
    with pytest.raises(EmbedcalError, match=r"a (link|device).* at 'set/bad'"):
        unpack(archive, folder)
    assert_nothing(archive, folder)


NAMES = [
    (["../out"], "outside the folder"),
    (["set/../../out"], "outside the folder"),
    (["set/..", "set/a"], "outside the folder"),
    (["/out"], "absolute"),
    (["//out"], "absolute"),
    (["C:/out"], "absolute"),
    (["set\\..\\..\\out"], "backslash"),
    (["set/a\x1b[31m"], "control characters"),
    (["set/a\nb"], "control characters"),
    (["set/a", "set/A"], "another spelling of 'set/a'"),
    (["set/a", "SET/b"], "another spelling of 'set'"),
    (["set/\u00e9", "set/e\u0301"], "another spelling"),
    (["set/a", "set/a"], "was there before"),
    (["set/a", "./set//a"], "was there before"),
    (["set/a", "set/a/b"], "both a file and a folder"),
    (["set/a/b", "set/a"], "both a file and a folder"),
    (["set/a", "set/a/"], "both a file and a folder"),
    ([".a.EXT.unpacked"], "the name of the note"),
]


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("kind", [".zip", ".tar"])
@pytest.mark.parametrize(("names", "why"), NAMES)
def test_a_name_that_does_harm_is_refused(tmp_path, folder, kind, names, why) -> None:
    names = [name.replace("EXT", kind[1:]) for name in names]
    archive = pack_list(tmp_path / f"a{kind}", [(name, b"") for name in names])
    with pytest.raises(EmbedcalError, match=why) as raised:
        unpack(archive, folder)
    assert str(raised.value).isprintable()
    assert_nothing(archive, folder)
    assert not (tmp_path / "out").exists()


def test_a_zip_name_that_goes_on_behind_a_nul_is_refused(tmp_path, folder) -> None:
    archive = pack(tmp_path / "a.zip", {"set/a_b": b"1"})
    archive.write_bytes(archive.read_bytes().replace(b"set/a_b", b"set/a\0b"))
    with pytest.raises(EmbedcalError, match="control characters"):
        unpack(archive, folder)
    assert_nothing(archive, folder)


def test_a_tar_name_that_is_not_utf_8_is_refused(tmp_path, folder) -> None:
    info = tarfile.TarInfo("set/\udce9")
    archive = tar_of(tmp_path / "a.tgz", info)
    with pytest.raises(EmbedcalError, match="not in UTF-8"):
        unpack(archive, folder)
    assert_nothing(archive, folder)


def test_an_encrypted_member_and_odd_compressions_are_refused(tmp_path, folder) -> None:
    archive = pack(tmp_path / "a.zip", {"set/a": b"1"})
    raw = bytearray(archive.read_bytes())
    raw[raw.index(b"PK\x01\x02") + 8] |= 1
    archive.write_bytes(raw)
    with pytest.raises(EmbedcalError, match="encrypted at 'set/a'"):
        unpack(archive, folder)
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_LZMA) as zipped:
        zipped.writestr("set/a", "1")
    with pytest.raises(EmbedcalError, match="compression of kind 14"):
        unpack(archive, folder)
    assert_nothing(archive, folder)


# Bombs


@pytest.mark.parametrize("kind", [".zip", ".tgz"])
def test_a_bomb_is_stopped_by_the_ratio_before_its_bytes_are_written(
    tmp_path, folder, kind
) -> None:
    zeros = {f"set/{i}": bytes(8 << 20) for i in range(10)}
    archive = pack(tmp_path / f"a{kind}", zeros)
    assert archive.stat().st_size < 100_000
    with pytest.raises(EmbedcalError, match=r"more than the 67,108,864 bytes.* at 'set/8'"):
        unpack(archive, folder)
    assert_nothing(archive, folder)
    unpack(archive, folder, limit=80 << 20)
    assert len(tree(folder)) == 10


@pytest.mark.parametrize("kind", KINDS)
def test_a_limit_is_of_bytes_unpacked_however_many_members_they_are_in(
    tmp_path, folder, kind, monkeypatch
) -> None:
    monkeypatch.setattr(archives, "HEADER", archives.PIECE)  # less than all headers together
    archive = pack(tmp_path / f"a{kind}", {f"set/{i}": b"xy" for i in range(300)})
    with pytest.raises(EmbedcalError, match="more than the 599 bytes"):
        unpack(archive, folder, limit=599)
    assert_nothing(archive, folder)
    unpack(archive, folder, limit=600)


@pytest.mark.parametrize("kind", [".zip", ".tar"])
def test_members_are_limited(tmp_path, folder, kind, monkeypatch) -> None:
    monkeypatch.setattr(archives, "MEMBERS", 2)
    archive = pack(tmp_path / f"a{kind}", {"set/1": b"", "set/2": b"", "set/3": b""})
    with pytest.raises(EmbedcalError, match="more than 2 members at 'set/3'"):
        unpack(archive, folder)
    assert_nothing(archive, folder)


def test_headers_and_gaps_of_a_tar_are_bounded_too(tmp_path, folder) -> None:
    archive = tmp_path / "a.tar.gz"
    long = tarfile.TarInfo("././@LongLink")
    long.type, long.size = tarfile.GNUTYPE_LONGNAME, 32 << 20
    with gzip.open(archive, "wb") as file:
        file.write(long.tobuf() + bytes(32 << 20) + bytes(1024))
    with pytest.raises(EmbedcalError, match="a header of 33,554,432 bytes at 'its beginning'"):
        unpack(archive, folder)
    with gzip.open(archive, "wb") as file:  # nothing but padding behind the end
        file.write(tarfile.TarInfo("a").tobuf() + bytes(80 << 20))
    with pytest.raises(EmbedcalError, match="more than the 67,108,864 bytes"):
        unpack(archive, folder)
    huge = tarfile.TarInfo("set/huge")
    huge.size = 1 << 50
    archive.write_bytes(gzip.compress(huge.tobuf(tarfile.GNU_FORMAT) + bytes(2048)))
    with pytest.raises(EmbedcalError, match="more than the 67,108,864 bytes"):
        unpack(archive, folder)
    below = tarfile.TarInfo("set/below")
    below.size = -512  # older Pythons read such a header for ever
    archive.write_bytes(gzip.compress(below.tobuf(tarfile.GNU_FORMAT) + bytes(2048)))
    with pytest.raises(EmbedcalError, match=r"below nothing|damaged"):
        unpack(archive, folder)
    assert_nothing(archive, folder)


# Torn, damaged, interrupted, a full disk


@pytest.mark.parametrize("kind", KINDS)
def test_every_cut_is_noticed(tmp_path, folder, kind) -> None:
    archive = pack(tmp_path / f"a{kind}", {"set/1.txt": b"one" * 300, "set/2.txt": b"two" * 300})
    whole = archive.read_bytes()
    ends = len(whole) if kind != ".tar" else 3584  # its end mark, and padding after that
    for cut in sorted({0, 1, 511, 512, 513, 1024, 1536, 2048, ends // 2, ends - 9, ends - 1}):
        if cut < ends:
            archive.write_bytes(whole[:cut])
            with pytest.raises(EmbedcalError, match="damaged"):
                unpack(archive, folder)
            assert_nothing(archive, folder)
    archive.write_bytes(whole)
    unpack(archive, folder)


@pytest.mark.parametrize("kind", [".zip", ".tgz"])
def test_a_changed_byte_of_a_file_is_noticed(tmp_path, folder, kind) -> None:
    content = os.urandom(100_000)
    archive = pack(tmp_path / f"a{kind}", {"set/a": content})
    raw = bytearray(archive.read_bytes())
    raw[len(raw) // 2] ^= 16
    archive.write_bytes(raw)
    with pytest.raises(EmbedcalError, match="damaged"):
        unpack(archive, folder)
    assert_nothing(archive, folder)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data(), kind=st.sampled_from([".zip", ".tar", ".tgz"]))
def test_whatever_the_bytes_it_is_files_or_one_line(tmp_path_factory, data, kind) -> None:
    home = tmp_path_factory.mktemp("fuzz")
    archive = pack(home / f"a{kind}", {"set/1": b"one", "set/2/3": b"two" * 50}, ("set/4",))
    raw = bytearray(archive.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(raw) - 1))
        raw[at] = data.draw(st.integers(0, 255))
    archive.write_bytes(raw)
    folder = home / "into"
    with contextlib.suppress(EmbedcalError):
        unpack(archive, folder)
    if not is_unpacked(archive, folder):
        assert_nothing(archive, folder)
    assert {path.name for path in home.iterdir()} <= {archive.name, "into", f".{archive.name}.lock"}


def test_what_is_no_archive(tmp_path) -> None:
    for name, why in [("a.gz", "expected .zip, .tar"), ("b.zip", "damaged"), ("b.tar", "damaged")]:
        (tmp_path / name).write_bytes(b"<html>not found</html>")
        with pytest.raises(EmbedcalError, match=why):
            unpack(tmp_path / name, tmp_path / "into")
    with pytest.raises(EmbedcalError, match="found no file"):
        unpack(tmp_path / "none.zip", tmp_path / "into")
    assert not (tmp_path / "into").exists()


CHILD = """
import sys, time
from pathlib import Path
from embedcal.datasets.downloads.unpacking import unpack

def told(done, total):
    print(done, flush=True)
    time.sleep(0.2)

unpack(Path(sys.argv[1]), Path(sys.argv[2]), progress=told)
"""


@pytest.mark.parametrize("kind", [".zip", ".tgz"])
def test_killed_in_the_middle_it_looks_unfinished_and_is_done_anew(tmp_path, folder, kind) -> None:
    archive = pack(tmp_path / f"a{kind}", FILES)
    command = [sys.executable, "-c", CHILD, str(archive), str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        child.stdout.readline()
        child.send_signal(signal.SIGKILL)
    seen = [path for path in tmp_path.rglob("*") if ".unpacking" not in str(path)]
    assert {path.name for path in seen} <= {archive.name, "into", f".{archive.name}.lock"}
    assert any(".unpacking" in path.name for path in tmp_path.rglob("*"))
    unpack(archive, folder)
    assert tree(folder) == FILES
    assert not any(".unpacking" in path.name for path in tmp_path.rglob("*"))


def test_a_move_that_was_interrupted_is_finished(tmp_path, monkeypatch) -> None:
    folder = tmp_path / "into"
    folder.mkdir()
    files = {"b.csv": b"table", "images/1.jpg": b"one", "masks/1.png": b"two"}
    archive = pack(tmp_path / "a.zip", files)
    replace = Path.replace

    def stops(self: Path, to: Path) -> Path:
        if self.name == "masks":
            raise KeyboardInterrupt
        return replace(self, to)

    monkeypatch.setattr(Path, "replace", stops)
    with pytest.raises(KeyboardInterrupt):
        unpack(archive, folder)
    assert (folder / "images/1.jpg").exists()
    assert not (folder / "b.csv").exists()  # tables come last
    assert not is_unpacked(archive, folder)
    monkeypatch.undo()
    monkeypatch.setattr(unpacking, "_fill", None)
    unpack(archive, folder)
    assert tree(folder) == files


def test_two_at_once_unpack_once(tmp_path) -> None:
    archive = pack(tmp_path / "a.tgz", FILES)
    command = [sys.executable, "-c", CHILD, str(archive), str(tmp_path / "into")]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        began = time.monotonic()
        unpack(archive, tmp_path / "into", progress=lambda *_: pytest.fail("it was done twice"))
        assert time.monotonic() - began > 0.2
    assert tree(tmp_path / "into") == FILES


@pytest.mark.parametrize("foreseen", [True, False])
@pytest.mark.parametrize("kind", [".zip", ".tgz"])
def test_a_full_disk_is_one_line_and_leaves_nothing(
    tmp_path, small_disk, kind, foreseen, monkeypatch
) -> None:
    free = 500_000 if foreseen else 1 << 40  # others may fill it meanwhile
    usage = type("Usage", (), {"free": free})
    monkeypatch.setattr(unpacking.shutil, "disk_usage", lambda _: usage)
    archive = pack(tmp_path / f"a{kind}", {f"set/{i}": os.urandom(300_000) for i in "abcd"})
    told: list[int] = []
    with pytest.raises(EmbedcalError, match=r"found [\d,]+ bytes free on that disk: make room"):
        unpack(archive, small_disk, progress=lambda done, _: told.append(done))
    assert len(told) == (1 if foreseen else 3)
    assert list(small_disk.iterdir()) == []
    monkeypatch.undo()
    subprocess.run(["mount", "-o", "remount,size=4m", str(small_disk)], check=True)
    unpack(archive, small_disk)
    assert len(tree(small_disk)) == 4
