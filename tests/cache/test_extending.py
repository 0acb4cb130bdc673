"""A grown data set: what is copied, what is encoded, and that the result is a fresh build's."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from encoders_for_tests import OPTIONS, NumpyEncoder, make_images, make_manifest

from embedcal.cache import BuildOptions, build_cache, open_cache, verify
from embedcal.cache.format import USER_BLOCK
from embedcal.cache.layout import StoredFile
from embedcal.cache.merging import join_shards
from embedcal.cache.sharding import Part
from embedcal.datasets.manifest import Manifest
from embedcal.types import EmbedcalError

OPTS = BuildOptions(**OPTIONS)


class RowEncoder(NumpyEncoder):
    """Features of a row do not depend on its batch, so any two builds are equal to the bit."""

    def images(self, pixels, levels):
        out = [
            super(RowEncoder, self).images(pixels[i : i + 1], levels) for i in range(len(pixels))
        ]
        return {level: np.concatenate([each[level] for each in out]) for level in levels}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    make_images(tmp_path / "images", 60)
    return tmp_path / "images"


@pytest.fixture
def old(root: Path, tmp_path: Path) -> Path:
    """Every other image of the first 40, one of them broken."""
    (root / paths(root)[6]).write_bytes(b"not an image")
    return build(some(root, range(0, 40, 2)), tmp_path / "old.h5").path


def paths(root: Path) -> list[str]:
    return sorted(
        (p.relative_to(root).as_posix() for p in root.rglob("*.png")), key=lambda p: p[-8:]
    )


def some(root: Path, rows, **changes: object) -> Manifest:
    every = paths(root)
    return make_manifest(root, [every[row] for row in rows], **changes)


def build(manifest: Manifest, out: Path, **how):
    encoder = how.pop("encoder", None) or RowEncoder()
    options = replace(OPTS, out=out, **how.pop("options", {}))
    return build_cache(manifest, encoder, options=options, **how)


def behind(path: Path) -> bytes:
    return path.read_bytes()[USER_BLOCK:]


ROWS = [*range(1, 15), 38, *range(20, 30), 0, 40, 41, 59, 2, 2, 8]


def test_it_equals_a_fresh_build_and_encodes_only_what_is_new(root, old, tmp_path) -> None:
    manifest = some(root, ROWS, ids=tuple(map(str, range(len(ROWS)))))
    calm = build(manifest, tmp_path / "calm.h5")
    before, encoder = old.read_bytes(), RowEncoder()
    report = build(manifest, tmp_path / "new.h5", encoder=encoder, extend=old)
    known = sum(row % 2 == 0 and row < 40 and row != 6 for row in ROWS)
    assert (report.copied, report.encoded) == (known, len(ROWS) - known)
    assert encoder.image_rows == report.encoded
    assert encoder.text_rows == 0
    assert behind(report.path) == behind(calm.path)
    assert report.skipped == calm.skipped
    assert old.read_bytes() == before
    assert verify(report.path).ok


def test_copied_rows_are_the_old_ones_to_the_bit(root, old, tmp_path) -> None:
    """Also where features depend on the batch, which is another one in a fresh build."""
    rows = range(40)
    first = build(some(root, rows[::2]), tmp_path / "first.h5", encoder=NumpyEncoder()).path
    manifest = some(root, rows)
    report = build(manifest, tmp_path / "new.h5", encoder=NumpyEncoder(), extend=first)
    with open_cache(first) as theirs, open_cache(report.path) as mine:
        good = [row for row in range(0, 40, 2) if row != 6]
        np.testing.assert_array_equal(mine.read()[good], theirs.read()[[r // 2 for r in good]])


@pytest.mark.parametrize("rows", [range(0, 40, 2), range(1, 20, 2), [1, 0], [0, 1]], ids=str)
def test_all_none_first_or_last(root, old, tmp_path, rows) -> None:
    manifest = some(root, rows, y=np.arange(len(rows)) // 2 % 2)
    report = build(manifest, tmp_path / "new.h5", extend=old)
    assert report.encoded + report.copied == len(rows)
    assert behind(report.path) == behind(build(manifest, tmp_path / "calm.h5").path)


def test_an_unreadable_row_is_tried_again(root, old, tmp_path) -> None:
    report = build(some(root, range(0, 40, 2)), tmp_path / "new.h5", extend=old)
    assert (report.copied, report.encoded, len(report.skipped)) == (19, 1, 1)


def test_missing_images_are_never_taken_for_each_other(root, tmp_path) -> None:
    """No bytes is no content: two files that are not there have nothing in common."""
    every = paths(root)
    (root / every[3]).unlink()
    old = build(make_manifest(root, every[:8]), tmp_path / "old.h5").path
    (root / every[5]).unlink()
    report = build(make_manifest(root, every[:8]), tmp_path / "new.h5", extend=old)
    assert (report.copied, report.encoded, len(report.skipped)) == (6, 2, 2)


def test_other_prompts_are_encoded_and_images_are_not(root, old, tmp_path) -> None:
    manifest = some(root, range(0, 40, 2), prompts={"class": ("a cat", "a dog")})
    encoder = RowEncoder()
    report = build(manifest, tmp_path / "new.h5", encoder=encoder, extend=old)
    assert (encoder.text_rows, report.copied) == (4, 19)
    assert behind(report.path) == behind(build(manifest, tmp_path / "calm.h5").path)


def test_fewer_levels_are_copied_and_more_are_refused(root, old, tmp_path) -> None:
    manifest = some(root, range(0, 44, 2))
    report = build(manifest, tmp_path / "few.h5", options={"tokens": False}, extend=old)
    assert report.copied == 19
    with pytest.raises(EmbedcalError, match=r"same encoding in .*few\.h5.*stored type of tokens"):
        build(manifest, tmp_path / "new.h5", extend=report.path)


def test_another_encoder_is_refused(root, old, tmp_path) -> None:
    with pytest.raises(EmbedcalError, match="weights_sha256") as caught:
        build(some(root, [1, 2]), tmp_path / "new.h5", encoder=RowEncoder(seed=1), extend=old)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "new.h5").exists()


def test_a_damaged_old_cache_is_refused(root, old, tmp_path) -> None:
    with StoredFile(old) as file:
        byte = file.arrays["/images/tokens"].offset + 5
    data = bytearray(old.read_bytes())
    data[byte] ^= 1
    old.write_bytes(data)
    with pytest.raises(EmbedcalError, match="intact cache to extend"):
        build(some(root, range(44)), tmp_path / "new.h5", extend=old)


def test_the_old_cache_is_not_overwritten(root, old) -> None:
    before = old.read_bytes()
    with pytest.raises(EmbedcalError, match=r"same encoding in .*old\.h5, found another"):
        build(some(root, range(44)), old, extend=old)
    assert old.read_bytes() == before


def test_what_is_there_is_returned_at_once(root, old, tmp_path) -> None:
    manifest = some(root, range(44))
    build(manifest, tmp_path / "new.h5", extend=old)
    assert build(manifest, tmp_path / "new.h5", extend=old).reused


class Stop(Exception):
    pass


@pytest.mark.parametrize("batches", range(4))
def test_an_interrupted_extension_goes_on_in_the_same_batches(root, old, tmp_path, batches) -> None:
    """The new rows come in batches of their own, whatever stands between them."""

    class Stopping(NumpyEncoder):
        def images(self, pixels, levels):
            if self.image_rows >= 8 * batches:
                raise Stop
            return super().images(pixels, levels)

    first = build(some(root, range(0, 40, 2)), tmp_path / "first.h5", encoder=NumpyEncoder()).path
    manifest = some(root, range(60))
    calm = build(manifest, tmp_path / "calm.h5", encoder=NumpyEncoder(), extend=first)
    out = tmp_path / "new.h5"
    with pytest.raises(Stop):
        build(manifest, out, encoder=Stopping(), extend=first)
    encoder = NumpyEncoder()
    report = build(manifest, out, encoder=encoder, extend=first)
    assert encoder.image_rows == report.encoded == calm.encoded - 8 * batches
    assert report.resumed + report.copied + report.encoded == 60
    assert behind(out) == behind(calm.path)


def test_a_row_lost_in_the_middle_of_a_batch_takes_the_whole_batch(root, old, tmp_path) -> None:
    """Otherwise the rest of it would be encoded in another composition."""

    class Stopping(NumpyEncoder):
        def images(self, pixels, levels):
            if self.image_rows >= 24:
                raise Stop
            return super().images(pixels, levels)

    first = build(some(root, range(0, 40, 2)), tmp_path / "first.h5", encoder=NumpyEncoder()).path
    manifest, out = some(root, range(60)), tmp_path / "new.h5"
    calm = build(manifest, tmp_path / "calm.h5", encoder=NumpyEncoder(), extend=first)
    with pytest.raises(Stop):
        build(manifest, out, encoder=Stopping(), extend=first)
    part = tmp_path / "new.h5.part"
    with StoredFile(part) as file:
        stored = file.arrays["/images/pooled"]
    data = bytearray(part.read_bytes())
    data[stored.offset + 24 * stored.row_bytes] ^= 1  # the 13th of the new rows is number 23
    part.write_bytes(data)
    encoder = NumpyEncoder()
    report = build(manifest, out, encoder=encoder, extend=first)
    assert encoder.image_rows == report.encoded == calm.encoded - 8
    assert behind(out) == behind(calm.path)


def test_a_plain_build_goes_on_where_an_extension_stopped(root, old, tmp_path) -> None:
    class Stopping(RowEncoder):
        def images(self, pixels, levels):
            if self.image_rows >= 8:
                raise Stop
            return super().images(pixels, levels)

    manifest, out = some(root, range(60)), tmp_path / "new.h5"
    with pytest.raises(Stop):
        build(manifest, out, encoder=Stopping(), extend=old)
    report = build(manifest, out)
    assert report.resumed == 8  # 14 were there, which are one whole batch of a plain build
    assert behind(out) == behind(build(manifest, tmp_path / "calm.h5").path)


def test_another_batch_size_is_recorded_as_varying(root, old, tmp_path) -> None:
    report = build(some(root, range(44)), tmp_path / "n.h5", options={"batch_size": 5}, extend=old)
    with open_cache(report.path) as cache:
        assert cache.meta.batch_size == 0


def test_a_virtual_cache_is_extended_and_a_shard_may_extend(root, tmp_path) -> None:
    shards = []
    for number in (1, 2, 3):
        path = tmp_path / f"{number}.h5"
        shards.append(build(some(root, range(30)), path, shard=Part(number, 3)).path)
    old = join_shards(shards, tmp_path / "old.h5", virtual=True).path
    manifest = some(root, range(25, 60))
    report = build(manifest, tmp_path / "new.h5", extend=old)
    assert (report.copied, report.encoded) == (5, 30)
    calm = build(manifest, tmp_path / "calm.h5").path
    assert behind(report.path) == behind(calm)
    parts = []
    for number in (1, 2):
        path = tmp_path / f"part{number}.h5"
        parts.append(build(manifest, path, shard=Part(number, 2), extend=old).path)
    assert behind(join_shards(parts, tmp_path / "joined.h5").path) == behind(calm)
    with pytest.raises(EmbedcalError, match="found shard 1 of 2"):
        build(manifest, tmp_path / "other.h5", extend=parts[0])


def test_identity_is_of_content_not_of_names(root, old, tmp_path) -> None:
    """Moved and renamed images are known; an image of an old name with new bytes is not."""
    other = tmp_path / "moved"
    shutil.copytree(root, other)
    every = paths(other)
    (other / every[0]).rename(other / "renamed.png")
    shutil.copy(other / every[41], other / every[2])
    manifest = make_manifest(other, ["renamed.png", every[2], every[4]])
    report = build(manifest, tmp_path / "new.h5", extend=old)
    assert (report.copied, report.encoded) == (2, 1)
    assert behind(report.path) == behind(build(manifest, tmp_path / "calm.h5").path)
