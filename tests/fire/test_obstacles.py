"""What a machine does to a build: a clear end, nothing lost, and the same call goes on."""

from __future__ import annotations

import errno
import os
import resource
import time
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from encoders_for_tests import NumpyEncoder, make_images
from faults_for_tests import (
    BATCH,
    Stop,
    StoppingEncoder,
    build,
    images_below,
    powerless,
)

import embedcal.cache.digests as digests
import embedcal.cache.skeleton as skeleton
from embedcal.cache import open_cache, verify
from embedcal.cache.format import USER_BLOCK
from embedcal.types import EmbedcalError


def refused(*args: object, **how: object) -> str:
    with pytest.raises(EmbedcalError) as error:
        build(*args, **how)  # type: ignore[arg-type]
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.fixture
def calm(root: Path, tmp_path: Path) -> bytes:
    return build(root, tmp_path / "calm.h5").path.read_bytes()[USER_BLOCK:]


# The disk


@pytest.fixture
def at_most(request):
    """No file may become larger than so many bytes, until it is called with None."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def limit(size: int | None) -> None:
        soft = before[0] if size is None else size
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, before[1]))

    yield limit
    limit(None)


@pytest.mark.parametrize("size", [0, 300, 600, 4096, 20_000])
def test_a_limit_on_the_size_of_files(root, tmp_path, calm, at_most, size) -> None:
    """Wherever in the file it strikes; Python ignores the signal, so it is an error."""
    assert len(calm) + USER_BLOCK > 20_000
    at_most(size)
    encoder = NumpyEncoder()
    try:
        with pytest.raises(EmbedcalError, match=f"(?is){os.strerror(errno.EFBIG)}"):
            build(root, tmp_path / "c.h5", encoder)
    finally:
        at_most(None)
    assert not list(tmp_path.glob("c.h5.part*"))
    assert encoder.image_rows == 0  # before anything was encoded
    assert build(root, tmp_path / "c.h5").path.read_bytes()[USER_BLOCK:] == calm


def test_what_hdf5_says_is_told_in_one_line(root, tmp_path, at_most) -> None:
    at_most(4096)
    try:
        refused(root, tmp_path / "c.h5")
    finally:
        at_most(None)


def test_a_limit_that_comes_in_the_middle(root, tmp_path, calm, at_most, monkeypatch) -> None:
    monkeypatch.setattr(skeleton, "_reserve", lambda fd, size: None)
    out = tmp_path / "c.h5"
    said = refused(root, out, StoppingEncoder(3, harm=lambda: at_most(4096)))
    at_most(None)
    assert "the same command" in said
    report = build(root, out, encoder := NumpyEncoder())
    assert report.resumed >= BATCH
    assert encoder.image_rows == 40 - report.resumed
    assert out.read_bytes()[USER_BLOCK:] == calm


def test_a_folder_that_cannot_be_written(monkeypatch) -> None:
    with powerless() as folder:
        make_images(folder / "images", 40)
        monkeypatch.setenv("EMBEDCAL_HOME", str(folder / "home"))
        out = folder / "out"
        out.mkdir(mode=0o555)
        assert "Permission denied" in refused(folder / "images", out / "c.h5")
        out.chmod(0o755)
        with pytest.raises(Stop):
            build(folder / "images", out / "c.h5", StoppingEncoder(2))
        out.chmod(0o555)  # between start and resume
        assert "Permission denied" in refused(folder / "images", out / "c.h5")
        out.chmod(0o755)
        # The file could be written on, only not be given its name: all of it is there.
        assert build(folder / "images", out / "c.h5").resumed == 40


def test_a_folder_that_cannot_be_made(monkeypatch) -> None:
    with powerless() as folder:
        make_images(folder / "images", 4)
        monkeypatch.setenv("EMBEDCAL_HOME", str(folder / "home"))
        (folder / "out").mkdir(mode=0o555)
        assert "Permission denied" in refused(folder / "images", folder / "out" / "sub" / "c.h5")


def test_a_home_that_cannot_be_written(monkeypatch) -> None:
    """Digests are then not remembered, which is no reason to stop."""
    with powerless() as folder:
        make_images(folder / "images", 8)
        (folder / "home").mkdir(mode=0o555)
        monkeypatch.setenv("EMBEDCAL_HOME", str(folder / "home"))
        assert build(folder / "images", folder / "c.h5").rows == 8


# The images


def test_an_image_that_vanishes_in_the_middle(root, tmp_path, calm) -> None:
    out, last = tmp_path / "c.h5", root / images_below(root)[-1]
    kept = last.read_bytes()
    said = refused(root, out, StoppingEncoder(1, harm=last.unlink))
    assert last.name in said
    assert "run the same command again" in said
    last.write_bytes(kept)
    report = build(root, out)
    assert 0 < report.resumed < 40
    assert out.read_bytes()[USER_BLOCK:] == calm


@pytest.mark.parametrize("row", [3, 39], ids=["encoded already", "not yet encoded"])
def test_an_image_that_changes_between_start_and_resume(root, tmp_path, calm, row) -> None:
    """It is another data set then: nothing of the old one is passed off as of the new one."""
    out, path = tmp_path / "c.h5", root / images_below(root)[row]
    with pytest.raises(Stop):
        build(root, out, StoppingEncoder(2))
    path.write_bytes((root / images_below(root)[0]).read_bytes())
    report = build(root, out)
    assert report.resumed == 0
    assert any("unfinished file of another encoding" in note for note in report.notes)
    fresh = build(root, tmp_path / "fresh.h5").path
    assert out.read_bytes()[USER_BLOCK:] == fresh.read_bytes()[USER_BLOCK:] != calm
    with open_cache(out) as cache:
        digest = cache.meta.ingredients.rows
        np.testing.assert_array_equal(digest[row], digest[0])


def test_an_image_that_changes_while_the_old_one_is_kept_by_name(root, own_home) -> None:
    """In a folder of caches the unfinished file of the old images stays, for when they return."""
    path = root / images_below(root)[3]
    kept = path.read_bytes()
    with pytest.raises(Stop):
        build(root, None, StoppingEncoder(2))
    path.write_bytes(b"another")
    build(root, None)
    assert len(list((own_home / "caches").glob("*.part"))) == 1
    path.write_bytes(kept)
    assert build(root, None).resumed == 2 * BATCH


# The clock


class Clock:
    """A clock that goes backwards: an hour earlier each time that one looks."""

    def __init__(self) -> None:
        self.now = time.time()

    def time(self) -> float:
        self.now -= 3600
        return self.now

    def time_ns(self) -> int:
        return int(self.time() * 1e9)


def test_a_clock_that_goes_backwards(root, tmp_path, calm, monkeypatch) -> None:
    clock = Clock()

    class Backwards(datetime):
        @classmethod
        def now(cls, tz=None):
            return datetime.fromtimestamp(clock.time(), tz)

    monkeypatch.setattr(digests.time, "time_ns", clock.time_ns)
    monkeypatch.setattr(digests.time, "time", clock.time)
    monkeypatch.setattr(skeleton, "datetime", Backwards)
    out = tmp_path / "c.h5"
    with pytest.raises(Stop):
        build(root, out, StoppingEncoder(2))
    assert build(root, out).resumed == 2 * BATCH
    assert out.read_bytes()[USER_BLOCK:] == calm
    with open_cache(out) as cache:
        assert datetime.fromisoformat(cache.meta.created) < datetime.now(UTC)
    assert build(root, out).reused


def test_a_change_under_a_clock_that_was_set_back(root, tmp_path, monkeypatch) -> None:
    """The same size and the same time of change: only the file system's own time tells."""
    monkeypatch.setattr(digests, "_SETTLED_NS", 0)
    build(root, tmp_path / "c.h5")
    path = root / images_below(root)[3]
    facts, data = path.stat(), path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    with pytest.raises(EmbedcalError, match=r"another .*the bytes of 1 images differ"):
        build(root, tmp_path / "c.h5")


def test_images_from_the_future(root, tmp_path, calm) -> None:
    for path in images_below(root):
        os.utime(root / path, (4e9, 4e9))
    out = tmp_path / "c.h5"
    assert build(root, out).rows == 40
    assert out.read_bytes()[USER_BLOCK:] == calm
    assert verify(out).ok


# The encoder


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_bad_number_stops_and_what_was_good_is_kept(root, tmp_path, calm, value) -> None:
    class Broken(NumpyEncoder):
        def images(self, pixels, levels):
            out = super().images(pixels, levels)
            if self.image_rows > 2 * BATCH:
                out["pooled"][3, 1] = value
            return out

    out = tmp_path / "c.h5"
    said = refused(root, out, Broken())
    assert f"NaN or infinity at level pooled for 'id-{images_below(root)[19]}'" in said
    report = build(root, out)
    assert report.resumed == 2 * BATCH
    assert out.read_bytes()[USER_BLOCK:] == calm
