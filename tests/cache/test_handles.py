"""Handles: how many files are open, which is closed for another, and that a name means one file."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from embedcal.cache.handles import MOST, Handles, room
from embedcal.types import EmbedcalError


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """Twelve files of 600 bytes, each of its own number."""
    paths = [tmp_path / f"{number}.h5" for number in range(12)]
    for number, path in enumerate(paths):
        path.write_bytes(bytes([number]) * 600)
    return paths


def number_in(handles: Handles, path: Path) -> int:
    with handles.held(path) as file:
        return os.pread(file.fileno(), 600, 0)[599]


@pytest.mark.parametrize("most", [1, 2, 5, 12])
def test_no_more_are_open_than_there_is_room_for(files: list[Path], most: int) -> None:
    before = len(list(Path("/dev/fd").iterdir()))
    handles = Handles(most)
    for _ in range(3):
        for number, path in enumerate(files):
            assert number_in(handles, path) == number
            assert len(handles) <= most
    assert len(handles) == most == len(list(Path("/dev/fd").iterdir())) - before
    handles.close()
    assert len(list(Path("/dev/fd").iterdir())) == before


def test_the_one_not_read_for_longest_makes_room(files: list[Path]) -> None:
    handles = Handles(2)
    first, second, third = files[:3]
    with handles.held(first) as kept:
        pass
    with handles.held(second) as gone:
        pass
    number_in(handles, first)
    number_in(handles, third)
    assert (kept.closed, gone.closed) == (False, True)
    handles.close()
    assert kept.closed


@pytest.mark.parametrize("change", ["its first bytes", "its length", "it is gone"])
def test_a_name_means_the_file_that_was_checked(files: list[Path], change: str) -> None:
    handles = Handles(1)
    number_in(handles, files[0])
    number_in(handles, files[1])  # so that the first is opened again
    kept = files[0].read_bytes()
    files[0].unlink()
    if change != "it is gone":
        files[0].write_bytes(kept + b"x" if change == "its length" else b"x" + kept[1:])
    with pytest.raises(EmbedcalError, match=r"0\.h5") as error:
        number_in(handles, files[0])
    assert "\n" not in str(error.value)
    files[0].write_bytes(kept)  # as a repair does, where the seal proves it
    assert number_in(handles, files[0]) == 0
    handles.close()


def test_while_it_is_open_it_is_read_whatever_takes_its_name(files: list[Path]) -> None:
    handles = Handles(2)
    number_in(handles, files[0])
    files[1].replace(files[0])
    assert number_in(handles, files[0]) == 0
    handles.close()


def test_nothing_is_opened_again_after_close(files: list[Path]) -> None:
    handles = Handles()
    number_in(handles, files[0])
    handles.close()
    handles.close()
    with pytest.raises(EmbedcalError, match=r"expected an open cache, found .*closed"):
        number_in(handles, files[0])


def test_a_relative_name_is_that_of_the_first_time(
    files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    handles = Handles(1)
    monkeypatch.chdir(tmp_path)
    assert [number_in(handles, Path(f"{number}.h5")) for number in (3, 4)] == [3, 4]
    monkeypatch.chdir("/")
    assert number_in(handles, Path("3.h5")) == 3
    handles.close()


def test_threads_do_not_close_what_another_reads(files: list[Path]) -> None:
    handles, found = Handles(1), list[int]()
    other = threading.Thread(target=lambda: found.append(number_in(handles, files[1])))
    with handles.held(files[0]) as file:
        other.start()
        other.join(0.2)
        assert os.pread(file.fileno(), 600, 0)[599] == 0
    other.join()
    assert found == [1]
    handles.close()


def test_room_is_a_quarter_of_the_limit() -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        for allowed, wanted in ((100, 25), (3, 1), (4 * MOST, MOST), (before[1], MOST)):
            resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, before[1]))
            assert room() == wanted
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


SIXTY = """
import resource
resource.setrlimit(resource.RLIMIT_NOFILE, (48, 48))
import os
import numpy as np
from embedcal.cache import join_shards, open_cache
from embedcal.cache.sharding import verify_any

shards = [f"{number}.h5" for number in range(1, 61)]
assert join_shards(shards, "linked.h5", virtual=True).shards == 60
assert verify_any("linked.h5").ok
join_shards(shards, "joined.h5")
with open_cache("single.h5") as single, open_cache("linked.h5") as linked:
    assert len(linked.stored.shards) == 60
    rows = np.random.default_rng(0).permutation(120)
    for level in ("embedding", "pooled", "tokens"):
        for some in np.split(rows, 6):
            assert np.array_equal(linked.take(level, some), single.take(level, some))
            open_now = os.listdir("/dev/fd")
            assert len(open_now) < 40, open_now
        assert np.array_equal(linked.read(level), single.read(level))
    assert linked.samples == linked.samples and linked.fingerprint == single.fingerprint
print("read")
"""


def test_sixty_shards_under_a_limit_of_forty_eight(tmp_path: Path) -> None:
    """Linked, verified, joined and read at random, in a process that may open fewer files."""
    from encoders_for_tests import OPTIONS, NumpyEncoder, make_images, make_manifest

    from embedcal.cache import BuildOptions, build_cache
    from embedcal.cache.sharding import Part

    manifest = make_manifest(tmp_path / "images", make_images(tmp_path / "images", 120))
    encoder, given = NumpyEncoder(), {**OPTIONS, "batch_size": 2}
    for part in (None, *(Part(number, 60) for number in range(1, 61))):
        name = "single" if part is None else part.number
        build_cache(
            manifest,
            encoder,
            options=BuildOptions(out=tmp_path / f"{name}.h5", **given),
            shard=part,
        )
    found = subprocess.run(
        [sys.executable, "-W", "error", "-c", SIXTY],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (found.stdout, found.returncode) == ("read\n", 0), found.stderr
    joined, single = ((tmp_path / name).read_bytes()[512:] for name in ("joined.h5", "single.h5"))
    assert joined == single
