"""kill -9 at random moments: the same call goes on, and the result equals an undisturbed run's."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
from encoders_for_tests import NumpyEncoder, make_images, make_manifest

from embedcal.cache import BuildOptions, build_cache, open_cache, verify
from embedcal.cache.format import USER_BLOCK

ROWS, BATCH = 96, 8
CHILD = """
import sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from encoders_for_tests import NumpyEncoder, make_manifest
from embedcal.cache import BuildOptions, build_cache
import embedcal.cache.writer as writer

writer.COMMIT_SECONDS = 0.0
root, out = Path(sys.argv[2]), Path(sys.argv[3])
paths = sorted(p.relative_to(root).as_posix() for p in root.rglob("*.png"))
print("ready", flush=True)
build_cache(
    make_manifest(root, paths),
    NumpyEncoder(pause=0.02),
    options=BuildOptions(out=out, tokens=True, batch_size=int(sys.argv[4]), workers=2),
    progress=lambda stage, done, total: print(stage, done, flush=True),
)
print("done", flush=True)
"""


def request(root: Path, out: Path, **changes):
    paths = sorted(p.relative_to(root).as_posix() for p in root.rglob("*.png"))
    encoder = changes.pop("encoder", None) or NumpyEncoder()
    options = BuildOptions(out=out, tokens=True, batch_size=BATCH, workers=2)
    return build_cache(make_manifest(root, paths, **changes), encoder, options=options)


def kill_after(root: Path, out: Path, seconds: float = 0.0, line: str = "ready") -> bool:
    """Start a build, kill it some time after it says ``line``; True if it was still building."""
    run = [sys.executable, "-c", CHILD, str(Path(__file__).parent), str(root), str(out), str(BATCH)]
    with subprocess.Popen(run, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        while child.stdout.readline() != f"{line}\n":
            assert child.poll() is None
        time.sleep(seconds)
        os.kill(child.pid, signal.SIGKILL)
        return "done" not in child.stdout.read()


def contents(path: Path) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    with h5py.File(path, "r") as file:
        file.visititems(
            lambda name, item: (
                found.update({name: item[...].tobytes()})
                if isinstance(item, h5py.Dataset)
                else None
            )
        )
        found |= {f"@{name}": np.asarray(value).tobytes() for name, value in file.attrs.items()}
    return found


def damaged_images(root: Path) -> None:
    paths = make_images(root, ROWS)
    (root / paths[3]).write_bytes(b"not an image")
    for path in paths[16:24]:  # a whole batch
        (root / path).write_bytes(b"")


@pytest.mark.parametrize(
    "seed", [*range(5), *(pytest.param(s, marks=pytest.mark.slow) for s in range(5, 20))]
)
def test_a_killed_build_goes_on_and_ends_bit_for_bit_the_same(tmp_path, seed) -> None:
    root, out = tmp_path / "images", tmp_path / "killed.h5"
    damaged_images(root)
    calm = request(root, tmp_path / "calm.h5").path
    rng = random.Random(seed)
    building = kill_after(root, out, rng.uniform(0.0, 0.5))
    if building and not out.exists() and rng.random() < 0.5:
        building = kill_after(root, out, rng.uniform(0.0, 0.3))  # and killed again
    encoder = NumpyEncoder()
    report = request(root, out, encoder=encoder)
    assert report.reused or encoder.image_rows <= ROWS - report.resumed
    assert report.resumed % BATCH == 0
    assert verify(out).ok
    assert contents(out) == contents(calm)
    assert out.read_bytes()[USER_BLOCK:] == calm.read_bytes()[USER_BLOCK:]
    with open_cache(out) as mine, open_cache(calm) as theirs:
        assert mine.meta.sha256 == theirs.meta.sha256
    assert sorted(p.name for p in tmp_path.glob("killed*")) == ["killed.h5", "killed.h5.lock"]


def test_a_kill_loses_at_most_what_was_not_committed(tmp_path) -> None:
    """The child commits every batch; the rows that it counted are not encoded again."""
    root, out = tmp_path / "images", tmp_path / "killed.h5"
    make_images(root, ROWS)
    assert kill_after(root, out, line="images 40")
    encoder = NumpyEncoder()
    report = request(root, out, encoder=encoder)
    assert 0 < report.resumed < ROWS
    assert encoder.image_rows == ROWS - report.resumed == report.encoded
    assert encoder.text_rows == 0  # text had been written before the first row
