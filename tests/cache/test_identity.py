"""Identity is content; labels make a fingerprint; what differs can be named."""

from __future__ import annotations

import os
import shutil
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from encoders_for_tests import OPTIONS, NumpyEncoder, make_images, make_manifest
from PIL import Image

from embedcal.cache import (
    BuildOptions,
    CacheWriter,
    build_cache,
    explain_miss,
    import_features,
    open_cache,
    verify,
)
from embedcal.cache.build import identity_of
from embedcal.cache.digests import digest_files, digest_table
from embedcal.cache.identity import file_name
from embedcal.types import EmbedcalError


@pytest.fixture
def root(tmp_path: Path) -> Path:
    make_images(tmp_path / "images", 24)
    return tmp_path / "images"


def manifest_of(root: Path, **changes):
    paths = sorted(p.relative_to(root).as_posix() for p in root.rglob("*.png"))
    return make_manifest(root, paths, **changes)


OPTS = BuildOptions(**OPTIONS)


def digest(root: Path, encoder=None, options=OPTS, **changes) -> str:
    return identity_of(manifest_of(root, **changes), encoder or NumpyEncoder(), options).digest


def test_moving_and_touching_do_not_change_it_and_one_pixel_does(root, tmp_path) -> None:
    first = digest(root)
    moved = Path(shutil.move(root, tmp_path / "elsewhere"))
    for path in moved.rglob("*.png"):
        os.utime(path, (1, 1))
    assert digest(moved) == first
    picture = next(moved.rglob("*.png"))
    pixels = np.array(Image.open(picture))
    pixels[0, 0, 0] ^= 1
    Image.fromarray(pixels).save(picture)
    assert digest(moved) != first


def test_a_change_behind_the_clock_is_seen(root) -> None:
    """Same path, size and modification time, other bytes: the table must not hide it."""
    picture = next(root.rglob("*.png"))
    os.utime(picture, (1, 1))
    time.sleep(2.1)  # the table enters only files that have settled
    first = digest(root)
    assert digest_table().exists()
    data = bytearray(picture.read_bytes())
    data[-20] ^= 1
    picture.write_bytes(data)
    os.utime(picture, (1, 1))
    assert digest(root) != first


def test_the_table_of_digests_saves_reading_and_may_be_garbage(root, monkeypatch) -> None:
    time.sleep(2.1)
    first = digest(root)
    import embedcal.cache.digests as module

    with monkeypatch.context() as patched:
        patched.setattr(module.hashlib, "file_digest", None)  # whoever hashes now fails
        assert digest(root) == first
    digest_table().write_bytes(b"garbage" * 100)
    assert digest(root) == first


def test_odd_files_have_no_digest(tmp_path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "empty").write_bytes(b"")
    names = ["pipe", "empty", "absent", "."]
    found = digest_files([tmp_path / name for name in names], workers=2)
    assert [bool(row.any()) for row in found] == [False, True, False, False]


def test_labels_are_not_identity_but_fingerprint(root) -> None:
    base = digest(root)
    n = 24
    changes = {
        "y": np.zeros(n, int),
        "split": np.zeros(n, int),
        "classes": ("a", "b"),
        "attributes": (),
        "ids": tuple(map(str, range(n))),
        "box": np.zeros((n, 4)),
    }
    from embedcal.cache.contents import manifest_fingerprint

    encoder = NumpyEncoder()
    prints = set()
    for name, value in [("name", "other"), *changes.items()]:
        manifest = manifest_of(root, **{name: value})
        identity = identity_of(manifest, encoder, OPTS)
        assert identity.digest == base, name
        prints.add(manifest_fingerprint(manifest, identity))
    assert len(prints) == 1 + len(changes)  # the name alone changes nothing


class Other(NumpyEncoder):
    def __init__(self, **changes) -> None:
        super().__init__()
        self.meta = replace(self.meta, **changes)


@pytest.mark.parametrize(
    ("encoder", "options", "changes", "named"),
    [
        (Other(name="x"), {}, {}, "encoder: wanted 'x', found 'numpy/tiny@8px'"),
        (Other(weights_sha256="00"), {}, {}, "weights_sha256"),
        (Other(precision="bf16"), {}, {}, "precision"),
        (Other(preprocessing={"size": 9, "mode": "RGB"}), {}, {}, "preprocessing size: wanted 9"),
        (None, {"tokens": False}, {}, "stored type of tokens: wanted None, found 'float16'"),
        (None, {"store": "float16"}, {}, "stored type of embedding"),
        (None, {"templates": ("{}",)}, {}, "templates: wanted 1, found 2"),
        (None, {"templates": ("{}", "{}")}, {}, "templates: number 0 is wanted '{}'"),
        (None, {}, {"prompts": {"class": ("a", "b")}}, "prompts of bank 'attribute'"),
        (NumpyEncoder(text=False), {}, {}, "templates: wanted 0, found 2"),
    ],
)
def test_what_differs_is_named(root, encoder, options, changes, named) -> None:
    base = identity_of(manifest_of(root), NumpyEncoder(), OPTS)
    wanted = identity_of(
        manifest_of(root, **changes),
        encoder or NumpyEncoder(),
        BuildOptions(**{**OPTIONS, **options}),
    )
    assert wanted.digest != base.digest
    assert any(named in line for line in explain_miss(wanted, base)), explain_miss(wanted, base)
    assert explain_miss(base, base) == []


def test_differing_rows_are_counted(root) -> None:
    base = identity_of(manifest_of(root), NumpyEncoder(), OPTS)
    rows = base.rows
    changed = rows.copy()
    changed[[3, 9]] ^= 1
    assert explain_miss(replace(base, rows=changed), base) == [
        "rows: the bytes of 2 images differ, first at row 3"
    ]
    assert explain_miss(replace(base, rows=rows[::-1]), base)[0].startswith("rows: the same images")
    assert explain_miss(replace(base, rows=rows[:5]), base) == ["rows: wanted 5, found 24"]


@pytest.mark.parametrize(
    ("change", "same"),
    [
        ({"library": "numpy 9"}, True),
        ({"weights": "another/path.npz"}, True),
    ],
)
def test_library_and_file_names_are_recorded_not_identity(root, change, same) -> None:
    assert (digest(root, Other(**change)) == digest(root)) is same


def test_a_second_request_is_answered_from_the_file(root) -> None:
    encoder = NumpyEncoder()
    first = build_cache(manifest_of(root), encoder, options=OPTS)
    assert encoder.image_rows == 24
    again = build_cache(manifest_of(root), encoder, options=OPTS)
    assert (again.path, again.reused, again.encoded) == (first.path, True, 0)
    assert encoder.image_rows == 24
    wanted = file_name("birds of a feather", encoder.meta.name, digest(root))
    assert first.path.name == wanted
    assert wanted.startswith("birds-of-a-feather-numpy-tiny@8px-")


def test_other_labels_encode_nothing_and_leave_the_first_cache(root) -> None:
    encoder = NumpyEncoder()
    first = build_cache(manifest_of(root), encoder, options=OPTS)
    counted = (encoder.image_rows, encoder.text_rows)
    before = first.path.read_bytes()
    y = np.arange(24) // 2 % 2
    second = build_cache(manifest_of(root, y=y), encoder, options=OPTS)
    assert (encoder.image_rows, encoder.text_rows) == counted
    assert second.relabelled
    assert second.path != first.path
    assert first.path.read_bytes() == before
    assert verify(second.path).ok
    with open_cache(first.path) as old, open_cache(second.path) as new:
        assert old.meta.identity == new.meta.identity
        assert old.fingerprint != new.fingerprint
        np.testing.assert_array_equal(new.samples.y, y)
        for level in ("embedding", "pooled", "tokens"):
            np.testing.assert_array_equal(old.read(level), new.read(level))
        np.testing.assert_array_equal(old.text("class").pooled, new.text("class").pooled)
    assert build_cache(manifest_of(root, y=y), encoder, options=OPTS).reused


def test_damaged_features_are_not_copied_under_a_new_seal(root) -> None:
    encoder = NumpyEncoder()
    first = build_cache(manifest_of(root), encoder, options=OPTS)
    with open_cache(first.path) as cache:
        offset = cache.stored.arrays["/images/embedding"].offset
    with first.path.open("r+b") as file:
        file.seek(offset)
        file.write(b"\x01")
    second = build_cache(manifest_of(root, y=np.zeros(24, int)), encoder, options=OPTS)
    assert not second.relabelled
    assert encoder.image_rows == 48


def test_a_cache_that_will_not_open_is_moved_aside(root) -> None:
    first = build_cache(manifest_of(root), NumpyEncoder(), options=OPTS)
    os.truncate(first.path, 5000)
    second = build_cache(manifest_of(root), NumpyEncoder(), options=OPTS)
    assert second.path == first.path
    assert "moved aside" in second.notes[0]
    assert first.path.with_name(first.path.name + ".damaged").stat().st_size == 5000


def test_it_is_given_the_first_name_that_is_free(root) -> None:
    first = build_cache(manifest_of(root), NumpyEncoder(), options=OPTS)
    kept = first.path.with_name(first.path.name + ".damaged1")
    kept.write_text("of another time")
    for _ in range(3):
        os.truncate(first.path, 5000)
        build_cache(manifest_of(root), NumpyEncoder(), options=OPTS)
    assert kept.read_text() == "of another time"
    aside = sorted(path.name for path in first.path.parent.glob("*.damaged*"))
    assert aside == [f"{first.path.name}.damaged{n}" for n in ("", "1", "2", "3")]


def test_a_cache_that_cannot_be_judged_stays_where_it_is(root) -> None:
    """Of a newer embedcal, or not to be read by this user: it may be whole."""
    first = build_cache(manifest_of(root), NumpyEncoder(), options=OPTS)
    sound = first.path.read_bytes()
    newer = b"embedcal-cache 9" + sound[16:]
    first.path.write_bytes(newer)
    with pytest.raises(EmbedcalError, match=r"found format 9.*newer embedcal"):
        build_cache(manifest_of(root), NumpyEncoder(), options=OPTS)
    assert first.path.read_bytes() == newer
    first.path.unlink()
    first.path.mkdir()  # open() refuses it, whoever asks
    with pytest.raises(EmbedcalError, match="expected a readable cache file, found Is a directory"):
        build_cache(manifest_of(root), NumpyEncoder(), options=OPTS)
    assert first.path.is_dir()


def test_a_finished_cache_is_reused_while_another_holds_its_lock(root, tmp_path) -> None:
    out = tmp_path / "mine.h5"
    build_cache(manifest_of(root), NumpyEncoder(), options=replace(OPTS, out=out))
    with CacheWriter(out):
        again = build_cache(manifest_of(root), NumpyEncoder(), options=replace(OPTS, out=out))
        assert again.reused
        other = manifest_of(root, y=np.zeros(24, int))  # there is something to write
        with pytest.raises(EmbedcalError, match="only writer"):
            build_cache(other, NumpyEncoder(), options=replace(OPTS, out=out))


def test_imported_features_are_reused_while_another_holds_the_lock(tmp_path) -> None:
    x, y, split = np.ones((3, 2), np.float32), np.array([0, 1, 0]), np.array([0, 1, 2])
    out = import_features(x, y, split, out=tmp_path / "mine.h5")
    with CacheWriter(out):
        assert import_features(x, y, split, out=out) == out


def test_a_named_file_is_replaced_only_by_its_own_encoding(root, tmp_path) -> None:
    out = tmp_path / "mine.h5"
    options = replace(OPTS, out=out)
    build_cache(manifest_of(root), NumpyEncoder(), options=options)
    with pytest.raises(EmbedcalError, match=r"found another.*weights_sha256"):
        build_cache(manifest_of(root), NumpyEncoder(seed=1), options=options)
    encoder = NumpyEncoder()
    assert build_cache(manifest_of(root, y=np.zeros(24, int)), encoder, options=options).relabelled
    assert encoder.image_rows == 0
    out.write_text("my thesis")
    with pytest.raises(EmbedcalError, match="another kind of file"):
        build_cache(manifest_of(root), NumpyEncoder(), options=options)
    assert out.read_text() == "my thesis"


@pytest.mark.parametrize(
    ("dataset", "encoder", "wanted"),
    [
        ("../../etc", "ViT-L/14@336px", "etc-ViT-L-14@336px-0123456789.h5"),
        ("a\x1b[31m b", "path/to/file.py:Name", "a-31m-b-path-to-file.py-Name-0123456789.h5"),
        ("", "...", "unnamed-unnamed-0123456789.h5"),
        ("ü" * 300, "x" * 300, f"unnamed-{'x' * 60}-0123456789.h5"),
    ],
)
def test_file_names_are_safe(dataset, encoder, wanted) -> None:
    assert file_name(dataset, encoder, "0123456789abcdef") == wanted
