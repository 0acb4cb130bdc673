"""kill -9 while shards are joined or a cache is extended; a full disk; two that join at once."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from encoders_for_tests import OPTIONS, NumpyEncoder, make_images, make_manifest

import embedcal.cache.merging as merging
from embedcal.cache import BuildOptions, build_cache, open_cache
from embedcal.cache.format import USER_BLOCK
from embedcal.cache.merging import join_shards
from embedcal.cache.sharding import Part, verify_any
from embedcal.cache.writer import CacheWriter
from embedcal.types import EmbedcalError

ROWS = 96
OPTS = BuildOptions(**OPTIONS, workers=2)
START = """
import sys, time
sys.path.insert(0, sys.argv[1])
from pathlib import Path
import embedcal.cache.writer as writer
import embedcal.cache.merging as merging
import embedcal.cache.extending as extending
from encoders_for_tests import OPTIONS, NumpyEncoder, make_manifest
from embedcal.cache import BuildOptions, build_cache

folder, out = Path(sys.argv[2]), Path(sys.argv[3])
writer.COMMIT_SECONDS = 0.0
merging.BLOCK = extending.BLOCK = 2000  # a few rows at once
plain = writer.CacheWriter.write
def write(self, batch):
    time.sleep(0.02)
    plain(self, batch)
writer.CacheWriter.write = write
print("ready", flush=True)
"""
MERGE = START + "merging.join_shards(sorted(folder.glob('shard-*.h5')), out)\nprint('done')\n"
LINK = MERGE.replace(", out)", ", out, virtual=True)")
EXTEND = (
    START
    + """
root = folder / "images"
paths = sorted(p.relative_to(root).as_posix() for p in root.rglob("*.png"))
options = BuildOptions(**OPTIONS, workers=2, out=out)
build_cache(make_manifest(root, paths), NumpyEncoder(), options=options, extend=folder / "old.h5")
print("done")
"""
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images, their cache, its shards, and an older cache of two images in three."""
    folder = tmp_path_factory.mktemp("made")
    root = folder / "images"
    paths = sorted(make_images(root, ROWS))
    (root / paths[10]).write_bytes(b"not an image")
    manifest = make_manifest(root, paths)
    build_cache(manifest, NumpyEncoder(), options=replace(OPTS, out=folder / "calm.h5"))
    for number in range(1, 5):
        options = replace(OPTS, out=folder / f"shard-{number}.h5")
        build_cache(manifest, NumpyEncoder(), options=options, shard=Part(number, 4))
    old = make_manifest(root, [path for i, path in enumerate(paths) if i % 3])
    build_cache(old, NumpyEncoder(), options=replace(OPTS, out=folder / "old.h5"))
    options = replace(OPTS, out=folder / "grown.h5")
    build_cache(manifest, NumpyEncoder(), options=options, extend=folder / "old.h5")
    return folder


def again(folder: Path, out: Path, code: str):
    """The same request in this process, calmly."""
    if code is EXTEND:
        root = folder / "images"
        paths = sorted(p.relative_to(root).as_posix() for p in root.rglob("*.png"))
        options = replace(OPTS, out=out)
        manifest = make_manifest(root, paths)
        return build_cache(manifest, NumpyEncoder(), options=options, extend=folder / "old.h5")
    return join_shards(sorted(folder.glob("shard-*.h5")), out, virtual=code is LINK)


def kill_after(code: str, folder: Path, out: Path, seconds: float) -> None:
    run = [sys.executable, "-c", code, str(Path(__file__).parent), str(folder), str(out)]
    with subprocess.Popen(run, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        time.sleep(seconds)
        child.kill()


SEEDS = [*range(3), *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(3, 30))]


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(("code", "calm"), [(MERGE, "calm.h5"), (EXTEND, "grown.h5")])
def test_a_killed_merge_or_extension_ends_bit_for_bit_the_same(
    folder, tmp_path, code, calm, seed
) -> None:
    out, rng = tmp_path / "killed.h5", random.Random(f"{calm} {seed}")
    kill_after(code, folder, out, rng.uniform(0.0, 0.45))
    if not out.exists() and rng.random() < 0.4:
        kill_after(code, folder, out, rng.uniform(0.0, 0.3))  # and killed again
    found = again(folder, out, code)
    assert 0 <= found.resumed <= ROWS
    assert out.read_bytes()[USER_BLOCK:] == (folder / calm).read_bytes()[USER_BLOCK:]
    assert verify_any(out).ok
    assert sorted(p.name for p in tmp_path.iterdir()) == ["killed.h5", "killed.h5.lock"]


@pytest.mark.parametrize("seed", SEEDS[:1] + SEEDS[3:8])
def test_a_killed_virtual_merge_leaves_all_or_nothing(folder, seed) -> None:
    out, rng = folder / f"linked-{seed}.h5", random.Random(seed)
    kill_after(LINK, folder, out, rng.uniform(0.0, 0.08))
    if out.exists():
        assert verify_any(out).ok
    again(folder, out, LINK)
    with open_cache(out) as mine, open_cache(folder / "calm.h5") as theirs:
        assert mine.fingerprint == theirs.fingerprint
        assert mine.read().tobytes() == theirs.read().tobytes()
    assert not list(folder.glob(f"linked-{seed}.h5.*part*"))


def test_what_was_merged_is_not_copied_again(folder, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(merging, "BLOCK", 2000)
    out, seen = tmp_path / "all.h5", []

    def stop(done: int, total: int) -> None:
        seen.append(done)
        if done > 40:
            raise KeyboardInterrupt

    shards = sorted(folder.glob("shard-*.h5"))
    with pytest.raises(KeyboardInterrupt):
        join_shards(shards, out, progress=stop)
    assert join_shards(shards, out).resumed == seen[-1]
    assert out.read_bytes()[USER_BLOCK:] == (folder / "calm.h5").read_bytes()[USER_BLOCK:]


def test_an_unfinished_merge_of_other_shards_is_begun_anew(folder, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(merging, "BLOCK", 2000)
    root, out = folder / "images", tmp_path / "all.h5"
    paths = sorted(p.relative_to(root).as_posix() for p in root.rglob("*.png"))
    other = make_manifest(root, paths, classes=("x", "y"))
    shards = []
    for number in (1, 2):
        options = replace(OPTS, out=tmp_path / f"{number}.h5")
        shards.append(
            build_cache(other, NumpyEncoder(), options=options, shard=Part(number, 2)).path
        )

    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        join_shards(shards, out, progress=stop)
    assert join_shards(sorted(folder.glob("shard-*.h5")), out).resumed == 0
    assert out.read_bytes()[USER_BLOCK:] == (folder / "calm.h5").read_bytes()[USER_BLOCK:]


def test_the_second_that_merges_is_told_who_holds_the_file(folder, tmp_path) -> None:
    with CacheWriter(tmp_path / "all.h5"), pytest.raises(EmbedcalError, match="held by process"):
        join_shards(sorted(folder.glob("shard-*.h5")), tmp_path / "all.h5")


@pytest.mark.parametrize("virtual", [False, True])
def test_a_full_disk_is_one_line_and_leaves_nothing(folder, tmp_path, virtual) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(disk)]
    made = subprocess.run(mount, capture_output=True, text=True, check=False)
    if made.returncode:
        pytest.skip(f"mounting a small file system needs root: {made.stderr.strip()}")
    try:
        shards = []
        for path in sorted(folder.glob("shard-*.h5")):
            (disk / path.name).write_bytes(path.read_bytes())
            shards.append(disk / path.name)
        (disk / "ballast").write_bytes(bytes(200 * 1024 - 4 * shards[0].stat().st_size - 24_000))
        with pytest.raises(EmbedcalError, match=r"expected \d+ bytes of free space") as caught:
            join_shards(shards, disk / "all.h5", virtual=virtual)
        assert "\n" not in str(caught.value)
        assert not list(disk.glob("all.h5.part*"))
        (disk / "ballast").unlink()
        subprocess.run(["mount", "-o", "remount,size=4m", str(disk)], check=True)
        assert join_shards(shards, disk / "all.h5", virtual=virtual).rows == ROWS
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)
