"""kill -9 at a hundred random moments, two builders at once, readers meanwhile, stale locks."""

from __future__ import annotations

import json
import os
import random
import socket
import time
from pathlib import Path

import numpy as np
import pytest
from encoders_for_tests import NumpyEncoder
from faults_for_tests import BATCH, Stop, StoppingEncoder, build, child

import embedcal.cache.writer as writer
from embedcal.cache import open_cache, verify
from embedcal.cache.format import USER_BLOCK
from embedcal.types import EmbedcalError

PAUSE = 0.02


def committing_build(root: Path, out: Path) -> None:
    writer.COMMIT_SECONDS = 0.0  # each batch, so that each moment has something to lose
    build(root, out, NumpyEncoder(pause=PAUSE))


@pytest.fixture
def calm(root: Path, tmp_path: Path) -> tuple[bytes, float]:
    """What an undisturbed build writes, and how long one takes in a child."""
    began = time.perf_counter()
    one = child(committing_build, root, tmp_path / "calm.h5")
    one.join()
    assert one.exitcode == 0
    took = time.perf_counter() - began
    return (tmp_path / "calm.h5").read_bytes()[USER_BLOCK:], took


def committed(part: Path) -> int:
    """Rows that the file's own counter says are safe."""
    from embedcal.cache.layout import StoredFile

    try:
        with StoredFile(part) as file:
            return int(file.read("/rows_done")[0])
    except (EmbedcalError, OSError):  # gone meanwhile, as it is finished
        return 0


@pytest.mark.parametrize("kills", [8, pytest.param(100, marks=pytest.mark.slow)])
def test_killed_at_random_moments(root, tmp_path, calm, kills) -> None:
    """Nothing counted is encoded twice, and the end is to the bit the undisturbed file."""
    whole, took = calm
    rng = random.Random(kills)
    killed = in_the_middle = 0
    while killed < kills:
        out = tmp_path / f"{killed}.h5"
        part = out.with_name(out.name + ".part")
        for _ in range(rng.choice((1, 1, 2, 3))):
            one = child(committing_build, root, out)
            if rng.random() < 0.5:  # while rows are written, however slow the machine is
                while one.is_alive() and not committed(part):
                    time.sleep(0.001)
                one.join(rng.uniform(0, 4 * PAUSE))
            else:
                one.join(rng.uniform(0, 1.1 * took))
            one.kill()
            one.join()
            killed += 1
        safe = committed(part)
        encoder = NumpyEncoder()
        report = build(root, out, encoder)
        in_the_middle += 0 < report.resumed < 40
        assert report.resumed >= safe - safe % BATCH
        assert report.reused or encoder.image_rows == 40 - report.resumed
        assert out.read_bytes()[USER_BLOCK:] == whole
        assert verify(out).ok
        out.unlink()
    assert in_the_middle >= kills // 10, "the moments missed what they were for"


def test_two_builders_at_once_make_one_whole_file(root, tmp_path, calm) -> None:
    whole, _ = calm
    for number in range(4):
        out = tmp_path / f"{number}.h5"
        both = [child(committing_build, root, out) for _ in range(2)]
        for one in both:
            one.join()
        assert 0 in [one.exitcode for one in both]  # the other was told, or found it finished
        assert out.read_bytes()[USER_BLOCK:] == whole
        assert {p.name for p in tmp_path.glob(f"{number}.h5*")} == {out.name, f"{out.name}.lock"}


def test_two_builders_in_a_folder_of_caches(root, own_home, calm) -> None:
    """Named by their identity, so they want the same file without having been told to."""
    both = [child(build, root, None) for _ in range(2)]
    for one in both:
        one.join()
    (made,) = (own_home / "caches").glob("*.h5")
    assert made.read_bytes()[USER_BLOCK:] == calm[0]


def test_the_loser_is_told_in_one_line(root, tmp_path) -> None:
    one = child(lambda: build(root, tmp_path / "c.h5", NumpyEncoder(pause=1.0)))
    while not (tmp_path / "c.h5.part").exists():
        time.sleep(0.005)
    encoder = NumpyEncoder()
    with pytest.raises(EmbedcalError) as error:
        build(root, tmp_path / "c.h5", encoder)
    one.kill()
    one.join()
    assert f"held by process {one.pid} on" in str(error.value)
    assert "\n" not in str(error.value)
    assert encoder.image_rows == 0


@pytest.mark.parametrize("host", [socket.gethostname(), "another.example"], ids=["here", "there"])
@pytest.mark.parametrize("pid", ["own", "dead", "no number"])
def test_a_stale_lock_holds_nothing(root, tmp_path, calm, host, pid) -> None:
    """A lock is the kernel's: what a dead process left, and whose number runs again, is a file."""
    gone = child(time.sleep, 0)
    gone.join()
    number = {"own": os.getpid(), "dead": gone.pid, "no number": "x"}[pid]
    (tmp_path / "c.h5.lock").write_text(str(number))
    (tmp_path / "c.h5.holder").write_text(json.dumps({"pid": number, "host": host}))
    assert build(root, tmp_path / "c.h5").rows == 40
    assert (tmp_path / "c.h5").read_bytes()[USER_BLOCK:] == calm[0]
    assert not (tmp_path / "c.h5.holder").exists()


def test_an_unfinished_file_is_no_cache_to_a_reader(root, tmp_path) -> None:
    out, seen = tmp_path / "c.h5", []

    def look() -> None:
        part = tmp_path / "c.h5.part"
        with pytest.raises(EmbedcalError, match="still being built"):
            open_cache(part)
        with pytest.raises(EmbedcalError, match="No such file"):
            open_cache(out)
        assert not verify(part).ok
        seen.append(1)

    build(root, out, StoppingEncoder(2, harm=look))
    assert seen == [1]


def test_a_reader_keeps_what_it_opened(root, tmp_path) -> None:
    """While the file is made anew with other labels under the same name."""
    out = tmp_path / "c.h5"
    build(root, out)
    with open_cache(out) as reader:
        fingerprint = reader.fingerprint
        build(root, out, y=np.arange(40) // 3 % 2)
        assert reader.fingerprint == fingerprint
        np.testing.assert_array_equal(reader.samples.y, np.arange(40) % 2)
        assert np.isfinite(reader.read()).all()
        with open_cache(out) as later:
            assert later.fingerprint != fingerprint
            np.testing.assert_array_equal(later.samples.y, np.arange(40) // 3 % 2)
            np.testing.assert_array_equal(later.read("tokens"), reader.read("tokens"))


def test_a_file_that_vanishes_while_it_is_opened(root, tmp_path, monkeypatch) -> None:
    import embedcal.cache.layout as layout

    path = build(root, tmp_path / "c.h5").path
    read = layout._read_structure

    def vanishing(*args, **how):
        found = read(*args, **how)
        path.unlink()
        return found

    monkeypatch.setattr(layout, "_read_structure", vanishing)
    with pytest.raises(EmbedcalError, match="found"):
        open_cache(path)


def relabel(root: Path, out: Path, times: int) -> None:
    for number in range(times):
        build(root, out, y=(np.arange(40) + number) // 3 % 2)


def test_readers_see_one_whole_file_or_another(root, tmp_path) -> None:
    out = tmp_path / "c.h5"
    build(root, out)
    with open_cache(out) as cache:
        features = cache.read()
    one, seen, refused, tries = child(relabel, root, out, 5), set(), set(), 0
    while one.is_alive() or tries < 10:
        tries += 1
        try:
            with open_cache(out) as cache:
                seen.add(cache.fingerprint)
                np.testing.assert_array_equal(cache.read(), features)
        except EmbedcalError as error:
            refused.add(str(error))
    one.join()
    assert one.exitcode == 0
    # A name may change between two looks at it.
    assert all("found it replaced while it was opened" in said for said in refused)
    assert len(seen) > 1


def test_stopped_again_and_again(root, tmp_path, calm) -> None:
    """One batch a try, as on a machine that is taken away each minute."""
    out = tmp_path / "c.h5"
    for _ in range(4):
        with pytest.raises(Stop):
            build(root, out, StoppingEncoder(1))
    report = build(root, out, encoder := NumpyEncoder())
    assert (report.resumed, encoder.image_rows) == (32, 8)
    assert out.read_bytes()[USER_BLOCK:] == calm[0]
