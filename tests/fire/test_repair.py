"""repair: whatever fails is encoded again, and the seal of the damaged file proves the result."""

from __future__ import annotations

import shutil
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import h5py
import numpy as np
import pytest
from encoders_for_tests import NumpyEncoder
from faults_for_tests import BATCH, PLUGIN, build, child, flip, images_below, seal

from embedcal.cache import open_cache, verify
from embedcal.cache.checksums import add_crc, row_paths, sound_rows
from embedcal.cache.format import USER_BLOCK
from embedcal.cache.layout import StoredFile
from embedcal.cache.repairing import CHANGED, NOT_FINITE
from embedcal.reencoding import Source
from embedcal.repairing import ASKED, READABLE, Repair, repair
from embedcal.types import EmbedcalError

GONE = "set1/0010.png"  # the seventeenth, from 0


@pytest.fixture
def whole(root: Path, tmp_path: Path) -> Path:
    """A cache of 40 images of which two cannot be decoded and one is not there."""
    paths = images_below(root)
    (root / paths[6]).write_bytes(b"not an image")
    (root / paths[30]).write_bytes(b"nor this")
    from encoders_for_tests import OPTIONS, make_manifest

    from embedcal.cache import BuildOptions, build_cache

    (root / paths[17]).unlink()  # so that what stood at 30 is at 29 of those that are left
    options = BuildOptions(out=tmp_path / "whole.h5", **OPTIONS)
    return build_cache(make_manifest(root, paths), NumpyEncoder(), options=options).path


@pytest.fixture
def damaged(whole: Path) -> Path:
    return Path(shutil.copy(whole, whole.with_name("damaged.h5")))


def mend(path: Path, root: Path, **how: object) -> Repair:
    return repair(path, source=Source(root=root, backbone=PLUGIN), **how)  # type: ignore[arg-type]


def places(path: Path, name: str, row: int) -> int:
    with StoredFile(path) as file:
        stored = file.arrays[name]
        return stored.offset + row * stored.row_bytes


@pytest.mark.parametrize(
    ("name", "row"),
    [
        ("/images/embedding", 0),
        ("/images/pooled", 39),
        ("/images/tokens", 17),
        ("/samples/status", 12),
        ("/samples/reason", 6),
        ("/samples/crc32", 17),
    ],
)
@pytest.mark.parametrize("bit", [0, 7])
def test_damage_to_a_row_is_undone_to_the_bit(whole, damaged, root, name, row, bit) -> None:
    flip(damaged, places(damaged, name, row), bit)
    before = damaged.read_bytes()
    done = mend(damaged, root)
    assert done.rows == {row: CHANGED} or set(done.rows) == {row}
    assert damaged.read_bytes() == before
    assert verify(done.path).ok
    if row == 17:  # why it could not be read is not known any more
        assert not done.exact
        with open_cache(done.path) as cache, open_cache(whole) as first:
            assert cache.samples.reasons[17] == "could not be read when it was cached"
            np.testing.assert_array_equal(cache.read("tokens"), first.read("tokens"))
            assert cache.fingerprint == first.fingerprint
    else:
        assert done.exact
        assert not done.text
        assert done.path.read_bytes() == whole.read_bytes()


def test_many_rows_in_several_batches(whole, damaged, root) -> None:
    for row in (1, 2, 9, 38):
        flip(damaged, places(damaged, "/images/embedding", row) + 5, 3)
    steps: list[tuple[int, int]] = []
    done = mend(damaged, root, progress=lambda *step: steps.append(step))
    assert list(done.rows) == [1, 2, 9, 38]
    assert done.path.read_bytes() == whole.read_bytes()
    assert steps == [(3, 6), (4, 6), (5, 6), (6, 6)]  # with those that may be readable now
    left = images_below(root)
    assert [row[1] for row in done.unreadable] == [left[6], GONE, left[29]]


def test_only_the_batches_of_failing_rows_are_encoded(damaged, root, monkeypatch) -> None:
    import embedcal.reencoding as reencoding

    asked: list[int] = []
    read = reencoding._pixels
    monkeypatch.setattr(
        reencoding,
        "_pixels",
        lambda pictures, row, how: asked.append(row) or read(pictures, row, how),
    )
    flip(damaged, places(damaged, "/images/embedding", 9), 3)
    mend(damaged, root)
    wanted = {*range(BATCH, 2 * BATCH), *range(BATCH), *range(24, 32)}  # 6 and 30 are tried again
    assert set(asked) == wanted


@pytest.mark.parametrize("name", ["/text/class/embedding", "/projection/image_weight"])
def test_damage_to_text_or_projection_is_undone_to_the_bit(whole, damaged, root, name) -> None:
    flip(damaged, places(damaged, name, 0) + 2, 6)
    done = mend(damaged, root)
    assert (done.rows, done.text, done.exact) == ({}, True, True)
    assert done.path.read_bytes() == whole.read_bytes()


@pytest.mark.parametrize("name", ["/samples/y", "/samples/id", "/samples/sha256", "/classes"])
def test_damaged_labels_are_beyond_repair(damaged, root, name) -> None:
    flip(damaged, places(damaged, name, 0), 0)
    nowhere = Source(root=root, backbone="absent.py:Encoder")  # told before anything is encoded
    with pytest.raises(EmbedcalError, match=r"labels, ids or facts.*restore the file"):
        repair(damaged, source=nowhere)
    assert {path.name for path in damaged.parent.glob("*repair*")} == {"damaged-repaired.h5.lock"}


@pytest.mark.parametrize("name", ["/samples/path", "/warnings"])
def test_damage_that_no_row_and_no_text_accounts_for_is_not_sealed_in(damaged, root, name) -> None:
    """No fingerprint has these: without this, a new seal would be put over what has changed."""
    flip(damaged, places(damaged, name, 0) + 1, 0)
    with pytest.raises(EmbedcalError, match="labels, ids or facts"):
        mend(damaged, root)
    assert {path.name for path in damaged.parent.glob("*repair*")} == {"damaged-repaired.h5.lock"}


def test_a_damaged_user_block_or_structure_is_beyond_repair(damaged, root) -> None:
    flip(damaged, 30, 2)
    with pytest.raises(EmbedcalError, match="user block"):
        mend(damaged, root)
    flip(damaged, 30, 2)
    flip(damaged, USER_BLOCK + 1, 2)
    with pytest.raises(EmbedcalError, match="intact HDF5 structure"):
        mend(damaged, root)


def test_rows_that_are_not_finite(damaged, root) -> None:
    """In a file with a seal that fits, so nothing proves the result but its own new seal."""
    with h5py.File(damaged, "r+") as file:
        file["images/embedding"][11, 2] = np.nan
    with StoredFile(damaged) as file:
        crc = file.arrays["/samples/crc32"].offset
    with StoredFile(damaged) as file:
        now = np.zeros(1, "<u4")
        for path in row_paths(file.arrays):
            add_crc(now, np.ascontiguousarray(file.map(path)[11:12]))
    with damaged.open("r+b") as raw:
        raw.seek(crc + 44)
        raw.write(now.tobytes())
    seal(damaged)
    assert verify(damaged).ok  # a checksum says nothing of numbers
    done = mend(damaged, root)
    assert done.rows == {11: NOT_FINITE}
    assert verify(done.path).ok
    with open_cache(done.path) as cache:
        assert np.isfinite(cache.read()).all()


def test_an_image_that_could_not_be_decoded_and_now_can(whole, root, monkeypatch) -> None:
    """As with a codec that was missing: the bytes are the same, so the identity is too."""
    from PIL import Image

    import embedcal.reencoding as reencoding

    decode = reencoding.decode

    def better(data, prepare):
        return (
            prepare(Image.new("RGB", (9, 9), "red"))
            if data == b"nor this"
            else decode(data, prepare)
        )

    assert not mend(whole, root).written
    monkeypatch.setattr(reencoding, "decode", better)
    done = mend(whole, root)
    assert done.rows == {30: READABLE}
    assert not done.exact
    with open_cache(done.path) as cache, open_cache(whole) as first:
        assert cache.read()[30].any()
        assert cache.meta.identity == first.meta.identity
        assert cache.meta.fingerprint == first.meta.fingerprint
        assert cache.fingerprint != first.fingerprint  # a run over it has another row to read
        assert cache.samples.reasons[30] == ""
        with StoredFile(done.path) as file:
            assert sound_rows(file, 40).all()
        others = np.arange(40) != 30
        np.testing.assert_array_equal(cache.read()[others], first.read()[others])


@pytest.mark.parametrize("now", ["gone", "another"])
def test_an_image_that_was_never_decoded_is_no_hindrance(whole, damaged, root, now) -> None:
    """Rows 6 and 30 have no features to lose; row 31 has."""
    for row in (6, 30):
        path = root / images_of(whole)[row]
        path.unlink() if now == "gone" else path.write_bytes(b"something else")
    assert not mend(whole, root).written
    flip(damaged, places(damaged, "/images/embedding", 31), 3)
    done = mend(damaged, root)
    assert done.rows == {31: CHANGED}
    assert done.path.read_bytes() == whole.read_bytes()


def test_an_image_of_a_row_that_fails_is_needed(whole, damaged, root) -> None:
    (root / images_of(whole)[31]).unlink()
    flip(damaged, places(damaged, "/images/embedding", 31), 3)
    with pytest.raises(EmbedcalError, match="expected"):
        mend(damaged, root)


def images_of(path: Path) -> tuple[str, ...]:
    with open_cache(path) as cache:
        return cache.samples.paths


def test_rows_that_are_named(whole, root) -> None:
    done = mend(whole, root, rows=[3, 4])
    assert done.rows == {3: ASKED, 4: ASKED}
    assert done.path.read_bytes() == whole.read_bytes()  # they were right
    with pytest.raises(EmbedcalError, match="rows between 0 and 39, found 40"):
        mend(whole, root, rows=[40], out=whole.with_name("other.h5"))


def test_nothing_to_do(whole, root) -> None:
    done = mend(whole, root)
    assert (done.written, done.path, done.rows) == (False, whole, {})
    assert not list(whole.parent.glob("*repaired.h5"))


def test_what_stands_in_the_way(damaged, root, tmp_path) -> None:
    flip(damaged, places(damaged, "/images/embedding", 9), 3)
    with pytest.raises(EmbedcalError, match=r"expected no file at .*whole.h5"):
        mend(damaged, root, out=tmp_path / "whole.h5")
    (root / images_below(root)[9]).write_bytes(b"another picture")
    with pytest.raises(EmbedcalError, match=r"expected the bytes that damaged.h5 was made from"):
        mend(damaged, root)
    assert not list(tmp_path.glob("*.repairing"))
    with open_cache(damaged):  # as it was
        pass


def test_another_image_missing_does_not_stop_a_repair(whole, damaged, root) -> None:
    """A neighbour in the batch is only there for the size of the batch."""
    flip(damaged, places(damaged, "/images/embedding", 9), 3)
    (root / images_below(root)[10]).unlink()
    done = mend(damaged, root)
    with open_cache(done.path) as cache, open_cache(whole) as first:
        np.testing.assert_allclose(cache.read(), first.read(), rtol=0.05, atol=0.2)


def test_a_killed_repair_leaves_the_cache_and_no_half_file(whole, damaged, root, tmp_path) -> None:
    for row in range(0, 40, 3):
        flip(damaged, places(damaged, "/images/embedding", row), 3)
    before, out = damaged.read_bytes(), tmp_path / "damaged-repaired.h5"
    seen = 0
    for tenth in range(12):
        killed = child(mend, damaged, root)
        time.sleep(0.004 * tenth)
        killed.kill()
        killed.join()
        assert damaged.read_bytes() == before
        if out.exists():
            seen += 1
            assert out.read_bytes() == whole.read_bytes()
            out.unlink()
    assert mend(damaged, root).exact
    assert out.read_bytes() == whole.read_bytes()
    assert not list(tmp_path.glob("*.repairing"))


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


@pytest.mark.parametrize("room", [0, 2000, 20_000])
def test_a_full_disk_leaves_the_cache_and_no_half_file(
    whole, damaged, root, small_disk, room
) -> None:
    """Wherever the copy is cut short; with room again, the same call mends it."""
    flip(damaged, places(damaged, "/images/embedding", 9), 3)
    before, out = damaged.read_bytes(), small_disk / "mended.h5"
    assert len(before) > 20_000
    ballast = small_disk / "ballast"
    with ballast.open("wb", buffering=0) as file:
        with suppress(OSError):
            while file.write(bytes(4096)) == 4096:
                pass
        file.truncate(ballast.stat().st_size - room)
    with pytest.raises(EmbedcalError, match=r"(?i)no space left") as error:
        mend(damaged, root, out=out)
    assert "\n" not in str(error.value)
    assert damaged.read_bytes() == before
    assert {path.name for path in small_disk.iterdir()} <= {"ballast", "mended.h5.lock"}
    ballast.unlink()
    assert mend(damaged, root, out=out).exact
    assert out.read_bytes() == whole.read_bytes()


def test_two_repairs_at_once(damaged, root) -> None:
    flip(damaged, places(damaged, "/images/embedding", 9), 3)
    from embedcal.cache import CacheWriter

    with (
        CacheWriter(damaged.with_name("damaged-repaired.h5")),
        pytest.raises(EmbedcalError, match="held by process"),
    ):
        mend(damaged, root)


def test_build_fixture_has_a_neighbour_effect(root, tmp_path) -> None:
    """Without it, encoding rows alone would give the same bytes and prove nothing."""
    encoder = NumpyEncoder()
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 8, 3), dtype=np.uint8)
    together, alone = encoder.images(pixels, ["pooled"]), encoder.images(pixels[:1], ["pooled"])
    assert not np.array_equal(together["pooled"][:1], alone["pooled"])
    assert build(root, tmp_path / "c.h5").rows == 40


@pytest.mark.slow
def test_a_real_encoder_gives_the_same_bytes_again(birds, tmp_path, monkeypatch) -> None:
    """The tiny CLIP over the birds: nothing has to be named, and damage is undone to the bit."""
    from embedcal.reencoding import reencode

    monkeypatch.setenv("EMBEDCAL_HOME", str(birds.parents[1]))  # where the images were drawn
    found = reencode(birds, 50)
    assert found.ok
    assert found.cosine > 0.999999
    damaged = Path(shutil.copy(birds, tmp_path / "damaged.h5"))
    for name, row in (("/images/embedding", 3), ("/images/pooled", 599), ("/samples/crc32", 300)):
        flip(damaged, places(damaged, name, row), 4)
    flip(damaged, places(damaged, "/text/class/embedding", 0), 4)
    done = repair(damaged)
    assert list(done.rows) == [3, 300, 599]
    assert done.text
    assert done.path.read_bytes() == birds.read_bytes()
