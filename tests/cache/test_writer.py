"""Two writers, a full disk, stale and damaged unfinished files."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import filelock
import numpy as np
import pytest
from encoders_for_tests import NumpyEncoder, make_images, make_manifest
from test_kill import BATCH, CHILD, ROWS, contents, request

from embedcal.cache import BuildOptions, CacheWriter, build_cache, open_cache, verify
from embedcal.cache import skeleton as skeleton_module
from embedcal.cache.format import USER_BLOCK
from embedcal.cache.layout import StoredFile
from embedcal.types import EmbedcalError


class Stop(Exception):
    pass


class StoppingEncoder(NumpyEncoder):
    """Stops the build after some batches, as Ctrl-C would."""

    def __init__(self, batches: int) -> None:
        super().__init__()
        self.left = batches

    def images(self, pixels, levels):
        if self.left == 0:
            raise Stop
        self.left -= 1
        return super().images(pixels, levels)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    make_images(tmp_path / "images", ROWS)
    return tmp_path / "images"


def interrupted(root: Path, out: Path, batches: int = 5) -> Path:
    with pytest.raises(Stop):
        request(root, out, encoder=StoppingEncoder(batches))
    return out.with_name(out.name + ".part")


def test_an_interrupted_build_keeps_what_it_wrote(root, tmp_path) -> None:
    out = tmp_path / "c.h5"
    part = interrupted(root, out)
    assert part.exists()
    assert not out.exists()
    with pytest.raises(EmbedcalError, match=r"still being built.*resumes"):
        open_cache(part)
    assert "unfinished" in verify(part).reason
    report = request(root, out)
    assert report.resumed == 5 * BATCH
    assert contents(out) == contents(request(root, tmp_path / "calm.h5").path)


def test_the_second_writer_is_told_who_holds_the_file(root, tmp_path) -> None:
    out = tmp_path / "c.h5"
    slow = CHILD.replace("pause=0.02", "pause=0.5")
    here = str(Path(__file__).parent)
    run = [sys.executable, "-c", slow, here, str(root), str(out), str(BATCH)]
    with subprocess.Popen(run, stdout=subprocess.PIPE, text=True) as child:
        try:
            assert child.stdout is not None
            child.stdout.readline()
            for _ in range(600):
                if out.with_name("c.h5.holder").exists() and out.with_name("c.h5.part").exists():
                    break
                subprocess.run(["sleep", "0.01"], check=True)
            encoder = NumpyEncoder()
            with pytest.raises(EmbedcalError, match=f"held by process {child.pid} on '"):
                request(root, out, encoder=encoder)
            assert encoder.image_rows == 0
        finally:
            child.kill()
    assert request(root, out).rows == ROWS  # a dead holder holds nothing


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="no folder that takes no file")
def test_a_folder_that_takes_no_file_is_not_another_writer() -> None:
    with (
        pytest.raises(EmbedcalError, match=r"expected to write /proc/c\.h5, found: .* with --out$"),
        CacheWriter(Path("/proc/c.h5")),
    ):
        raise AssertionError


def test_a_disk_without_locks_is_not_another_writer(tmp_path, monkeypatch) -> None:
    def none(self: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(filelock.FileLock, "acquire", none)
    with (
        pytest.raises(EmbedcalError, match=r"expected to lock .*c\.h5\.lock, found: No locks"),
        CacheWriter(tmp_path / "c.h5"),
    ):
        raise AssertionError


def test_a_lock_is_given_back_after_an_error(tmp_path) -> None:
    with pytest.raises(Stop), CacheWriter(tmp_path / "c.h5"):
        raise Stop
    with CacheWriter(tmp_path / "c.h5") as writer:
        assert writer.found() is None
    assert not (tmp_path / "c.h5.holder").exists()


def test_an_unfinished_file_of_another_encoding_is_replaced_and_said_so(root, tmp_path) -> None:
    out = tmp_path / "c.h5"
    interrupted(root, out)
    report = request(root, out, encoder=NumpyEncoder(seed=1))
    assert report.resumed == 0
    assert "another encoding" in report.notes[0]
    assert contents(out) == contents(
        request(root, tmp_path / "calm.h5", encoder=NumpyEncoder(seed=1)).path
    )


def test_an_unfinished_file_with_other_labels_keeps_its_rows(root, tmp_path) -> None:
    out = tmp_path / "c.h5"
    interrupted(root, out)
    encoder = NumpyEncoder()
    y = np.arange(ROWS) // 3 % 2
    report = request(root, out, encoder=encoder, y=y)
    assert report.resumed == 5 * BATCH
    assert (encoder.image_rows, encoder.text_rows) == (ROWS - 5 * BATCH, 0)
    assert contents(out) == contents(request(root, tmp_path / "calm.h5", y=y).path)


def test_another_batch_size_goes_on_and_is_recorded_as_varying(root, tmp_path) -> None:
    out = tmp_path / "c.h5"
    interrupted(root, out)
    manifest = make_manifest(
        root, sorted(p.relative_to(root).as_posix() for p in root.rglob("*.png"))
    )
    report = build_cache(
        manifest, NumpyEncoder(), options=BuildOptions(out=out, tokens=True, batch_size=6)
    )
    assert report.resumed == 36  # whole batches of the new size
    with open_cache(out) as cache:
        assert cache.meta.batch_size == 0


@pytest.mark.parametrize("where", ["row", "checksum", "text", "structure", "user block", "cut"])
def test_a_damaged_unfinished_file_is_not_trusted(root, tmp_path, where) -> None:
    out = tmp_path / "c.h5"
    part = interrupted(root, out)
    with StoredFile(part) as file:
        row = file.arrays["/images/pooled"]
        byte = {
            "row": row.offset + 21 * row.row_bytes + 2,
            "checksum": file.arrays["/samples/crc32"].offset + 21 * 4,
            "text": file.arrays["/text/class/embedding"].offset + 1,
            "structure": USER_BLOCK + 3,
            "user block": 40,
        }.get(where)
    if byte is None:
        os.truncate(part, part.stat().st_size - 100)
    else:
        with part.open("r+b") as raw:
            raw.seek(byte)
            old = raw.read(1)[0]
            raw.seek(byte)
            raw.write(bytes([old ^ 4]))
    report = request(root, out)
    assert report.resumed == (2 * BATCH if where in ("row", "checksum") else 0)
    assert contents(out) == contents(request(root, tmp_path / "calm.h5").path)


def test_a_file_killed_between_seal_and_rename_is_finished(root, tmp_path) -> None:
    out = tmp_path / "c.h5"
    request(root, out)
    whole = out.read_bytes()
    out.rename(tmp_path / "c.h5.part")
    encoder = NumpyEncoder()
    report = request(root, out, encoder=encoder)
    assert (report.resumed, encoder.image_rows) == (ROWS, 0)
    assert out.read_bytes()[USER_BLOCK:] == whole[USER_BLOCK:]


@pytest.fixture
def small_disk(tmp_path: Path):
    """A file system of one MiB that is really full when it is full."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    made = subprocess.run(mount, capture_output=True, text=True, check=False)
    if made.returncode:
        pytest.skip(f"mounting a small file system needs root: {made.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(folder: Path, leaving: int = 0) -> None:
    """Ballast until the disk is full, then some of it away."""
    fd = os.open(folder / "ballast", os.O_CREAT | os.O_WRONLY)
    try:
        while True:
            try:
                os.write(fd, bytes(4096))
            except OSError:
                break
        os.ftruncate(fd, os.fstat(fd).st_size - leaving)
    finally:
        os.close(fd)


def grow(folder: Path) -> None:
    subprocess.run(["mount", "-o", "remount,size=8m", str(folder)], check=True)


def test_a_disk_that_is_too_small_is_noticed_before_encoding(root, small_disk) -> None:
    (small_disk / "ballast").write_bytes(bytes(1000 << 10))
    encoder = NumpyEncoder()
    with pytest.raises(EmbedcalError, match=r"expected \d+ bytes of free space.*found \d+"):
        request(root, small_disk / "c.h5", encoder=encoder)
    assert encoder.image_rows == 0
    assert not list(small_disk.glob("*.part*"))


def test_space_is_reserved_so_that_a_disk_filled_later_does_no_harm(root, small_disk) -> None:
    class Wide(StoppingEncoder):
        def __init__(self, batches: int) -> None:
            super().__init__(batches)
            self.meta = replace(self.meta, shapes={"embedding": (1500,)})

        def images(self, pixels, levels):
            super().images(pixels, ["embedding"])
            return {"embedding": np.ones((len(pixels), 1500), np.float32)}

        def projection(self):
            return None

    out = small_disk / "c.h5"
    paths = sorted(p.relative_to(root).as_posix() for p in root.rglob("*.png"))
    manifest = make_manifest(root, paths, prompts={})
    options = BuildOptions(out=out, batch_size=BATCH)
    with pytest.raises(Stop):
        build_cache(manifest, Wide(2), options=options)
    fill(small_disk)
    assert build_cache(manifest, Wide(99), options=options).resumed == 2 * BATCH
    assert verify(out).ok


def test_a_disk_that_fills_up_loses_nothing_that_was_written(
    root, small_disk, tmp_path, monkeypatch
) -> None:
    """Without reserved space, as on file systems that cannot reserve."""
    monkeypatch.setattr(skeleton_module, "_reserve", lambda fd, size: None)
    out = small_disk / "c.h5"
    part = interrupted(root, out, batches=2)
    fill(small_disk)
    with pytest.raises(EmbedcalError) as error:
        request(root, out)
    assert "bytes of free space" in str(error.value)
    assert "\n" not in str(error.value)
    assert part.exists()
    grow(small_disk)
    report = request(root, out)
    assert report.resumed >= 2 * BATCH
    assert contents(out) == contents(request(root, tmp_path / "calm.h5").path)


@pytest.mark.parametrize("leaving", [4096, 3 * 4096, 6 * 4096])
def test_a_disk_that_lies_about_its_space(root, small_disk, monkeypatch, leaving) -> None:
    """Full while the file is laid out, wherever in that: one line, and nothing left behind."""
    fill(small_disk, leaving)
    monkeypatch.setattr(CacheWriter, "_check_space", lambda self, needed: None)
    with pytest.raises(EmbedcalError) as error:
        request(root, small_disk / "c.h5")
    assert "bytes of free space" in str(error.value)
    assert "\n" not in str(error.value)
    assert not list(small_disk.glob("*.part*"))
    monkeypatch.undo()
    (small_disk / "ballast").unlink()
    monkeypatch.setenv("EMBEDCAL_HOME", str(root / "home"))
    assert request(root, small_disk / "c.h5").rows == ROWS
