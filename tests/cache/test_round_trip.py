"""What goes into a cache comes out of it, row by row, bit by bit."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from encoders_for_tests import OPTIONS, NumpyEncoder, make_images, make_manifest
from PIL import Image

from embedcal.cache import BuildOptions, Names, build_cache, import_features, open_cache, verify
from embedcal.types import EmbedcalError


@pytest.fixture
def cache(manifest, encoder, tmp_path):
    report = build_cache(manifest, encoder, options=BuildOptions(out=tmp_path / "c.h5", **OPTIONS))
    with open_cache(report.path) as opened:
        yield opened


def expected(manifest, encoder, level, batch_size=8):
    """The same features by a plain loop."""
    blocks = []
    for start in range(0, len(manifest), batch_size):
        pixels = []
        for path in manifest.paths[start : start + batch_size]:
            try:
                pixels.append(encoder.prepare(Image.open(manifest.root / path)))
            except OSError:
                pixels.append(np.zeros((8, 8, 3), np.uint8))
        block = encoder.images(np.stack(pixels), [level])[level]
        blocks.append(block)
    out = np.concatenate(blocks)
    out[[5, 20]] = 0
    return out


@pytest.mark.parametrize("level", ["embedding", "pooled"])
def test_features_are_bit_for_bit_those_of_the_encoder(cache, manifest, encoder, level) -> None:
    np.testing.assert_array_equal(cache.read(level), expected(manifest, encoder, level))
    assert cache.read(level).dtype == np.float32


def test_tokens_are_rounded_to_float16_and_read_as_float32(cache, manifest, encoder) -> None:
    wanted = expected(manifest, encoder, "tokens").astype(np.float16).astype(np.float32)
    np.testing.assert_array_equal(cache.read("tokens"), wanted)
    rows = np.array([30, 2, 2, 36, 0])
    np.testing.assert_array_equal(cache.tokens(rows), wanted[rows])
    assert cache.tokens(rows).dtype == np.float32
    assert cache.tokens(np.array([], np.int64)).shape == (0, 4, 5)
    with pytest.raises(EmbedcalError, match="between 0 and 36"):
        cache.tokens(np.array([37]))


def test_every_row_of_the_manifest_keeps_its_place(cache, manifest) -> None:
    samples = cache.samples
    assert samples.ids == manifest.ids
    assert samples.paths == manifest.paths
    np.testing.assert_array_equal(samples.y, manifest.y)
    np.testing.assert_array_equal(samples.split, manifest.split)
    for attribute in manifest.attributes:
        np.testing.assert_array_equal(samples.attributes[attribute.name], attribute.labels)
    assert np.flatnonzero(samples.status).tolist() == [5, 20]
    assert samples.reasons[5] == "not an image that PIL knows"
    assert samples.reasons[20] == "no such file or directory"
    assert set(samples.reasons) == {"", samples.reasons[5], samples.reasons[20]}


def test_facts(cache, manifest, encoder) -> None:
    meta = cache.meta
    assert (meta.dataset, meta.backbone, meta.rows) == (manifest.name, encoder.meta.name, 37)
    assert meta.classes == manifest.classes
    assert meta.attributes == (("place", ("land", "water")), ("a/b .", ("u", "v", "w")))
    assert meta.warnings == manifest.warnings
    assert meta.templates == OPTIONS["templates"]
    assert meta.levels == {"tokens": "float16", "pooled": "float32", "embedding": "float32"}
    assert meta.preprocessing == encoder.meta.preprocessing
    assert (meta.context_length, meta.batch_size, meta.format_version) == (77, 8, 2)
    assert meta.identity == meta.ingredients.digest


def test_a_split_holds_encoded_rows_with_labels_and_groups(cache, manifest) -> None:
    features = cache.read("pooled")
    seen = []
    for index, name in enumerate(("train", "val", "test")):
        part = cache.split(name, "pooled", attribute="place")
        rows = [i for i in range(37) if manifest.split[i] == index and i not in (5, 20)]
        assert part.arrays["rows"].tolist() == rows
        np.testing.assert_array_equal(part.x, features[rows])
        np.testing.assert_array_equal(part.y, manifest.y[rows])
        np.testing.assert_array_equal(part.a, manifest.attributes[0].labels[rows])
        np.testing.assert_array_equal(part.g, part.y * 2 + part.a)
        seen += rows
        assert cache.encoded_rows(name).tolist() == rows
    assert cache.encoded_rows().tolist() == sorted(seen)
    assert sorted(seen) == [i for i in range(37) if i not in (5, 20)]
    others = [i for i in sorted(seen) if manifest.split[i] != 1]
    assert cache.encoded_rows(("test", "train")).tolist() == others
    assert cache.encoded_rows(()).tolist() == []
    for split in ("dev", ("train", "dev")):
        with pytest.raises(EmbedcalError, match="train, val, test, found 'dev': take val"):
            cache.encoded_rows(split)


def test_unknown_attributes_are_minus_one_in_values_and_groups(cache, manifest) -> None:
    product = cache.split("train")
    rows = product.arrays["rows"]
    place, other = (attribute.labels[rows] for attribute in manifest.attributes)
    wanted = [-1 if o < 0 else p * 3 + o for p, o in zip(place, other, strict=True)]
    assert product.a.tolist() == wanted
    assert product.g.tolist() == [
        -1 if a < 0 else y * 6 + a for y, a in zip(product.y, wanted, strict=True)
    ]
    assert -1 in wanted
    assert cache.n_attributes() == 6
    assert cache.n_attributes("a/b .") == 3
    assert cache.attribute_values()[4] == "water, v"
    assert cache.group_names("place") == (
        "landbird | land",
        "landbird | water",
        "wäterbird | land",
        "wäterbird | water",
    )
    with pytest.raises(EmbedcalError, match="place, a/b"):
        cache.split("train", attribute="colour")


def test_without_attributes_there_are_no_groups(manifest, encoder, tmp_path) -> None:
    plain = make_manifest(manifest.root, manifest.paths, attributes=(), warnings=())
    report = build_cache(plain, encoder, options=BuildOptions(out=tmp_path / "plain.h5"))
    with open_cache(report.path) as cache:
        part = cache.split("val")
        assert "a" not in part
        assert "g" not in part
        assert (cache.n_attributes(), cache.group_names()) == (0, ())


def test_text_keeps_every_template(cache, encoder) -> None:
    assert cache.banks == ("attribute", "class")
    bank = cache.text("class")
    assert bank.prompts == ("a landbird", "a waterbird")
    assert bank.templates == OPTIONS["templates"]
    wanted = encoder.text(
        ["a photo of a a landbird.", "a landbird", "a photo of a a waterbird.", "a waterbird"]
    )
    np.testing.assert_array_equal(bank.embedding.reshape(4, -1), wanted["embedding"])
    np.testing.assert_array_equal(bank.pooled.reshape(4, -1), wanted["pooled"])
    with pytest.raises(EmbedcalError, match="text bank 'context', found attribute, class"):
        cache.text("context")


def test_projection(cache, encoder) -> None:
    projection = cache.projection()
    np.testing.assert_array_equal(projection.image_weight, encoder.image_weight)
    np.testing.assert_array_equal(projection.text_weight, encoder.text_weight)
    np.testing.assert_array_equal(projection.attnpool["q_proj.weight"], encoder.attnpool)
    assert (projection.logit_scale, projection.attnpool_heads) == (4.6, 2)
    assert projection.image_bias is None


def test_an_image_only_encoder_has_no_text(manifest, tmp_path) -> None:
    encoder = NumpyEncoder(text=False)
    report = build_cache(manifest, encoder, options=BuildOptions(out=tmp_path / "i.h5"))
    with open_cache(report.path) as cache:
        assert cache.banks == ()
        assert cache.meta.templates == ()
        with pytest.raises(EmbedcalError, match="found none"):
            cache.text("class")


def test_a_closed_cache_says_so(cache) -> None:
    cache.close()
    for use in (cache.read, lambda: cache.split("train"), lambda: cache.text("class")):
        with pytest.raises(EmbedcalError, match="closed: open it again"):
            use()


def test_a_level_that_is_not_kept(manifest, encoder, tmp_path) -> None:
    report = build_cache(manifest, encoder, options=BuildOptions(out=tmp_path / "n.h5"))
    with open_cache(report.path) as cache, pytest.raises(EmbedcalError, match="--keep tokens"):
        cache.read("tokens")


def test_storing_float16(manifest, encoder, tmp_path) -> None:
    options = BuildOptions(out=tmp_path / "half.h5", store="float16", batch_size=8)
    with open_cache(build_cache(manifest, encoder, options=options).path) as cache:
        wanted = expected(manifest, encoder, "embedding").astype(np.float16)
        np.testing.assert_array_equal(cache.read(), wanted.astype(np.float32))
        assert cache.split("test").x.dtype == np.float32


def test_ready_features_become_a_cache(tmp_path) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(50, 7)).astype(np.float16)
    y, split, place = rng.integers(0, 3, 50), rng.integers(0, 3, 50), rng.integers(-1, 2, 50)
    names = Names(dataset="mine", classes=("a", "b", "c"), values={"place": ("in", "out")})
    path = import_features(x, y, split, {"place": place}, names=names, out=tmp_path / "x.h5")
    assert verify(path).ok
    with open_cache(path) as cache:
        np.testing.assert_array_equal(cache.read(), x.astype(np.float32))
        assert cache.meta.levels == {"embedding": "float16"}
        assert (cache.banks, cache.projection()) == ((), None)
        np.testing.assert_array_equal(cache.split("val").y, y[split == 1])
        assert cache.meta.attributes == (("place", ("in", "out")),)
    before = path.stat().st_ino
    assert import_features(x, y, split, {"place": place}, names=names, out=path) == path
    assert path.stat().st_ino == before
    x[3, 2] = np.nan
    with pytest.raises(EmbedcalError, match="first in row 3"):
        import_features(x, y, split, out=tmp_path / "y.h5")


def test_real_features_become_a_cache(real_data: Path, tmp_path) -> None:
    with np.load(real_data / "waterbirds-effnetlite0.npz", allow_pickle=False) as npz:
        x, y, split, place = (npz[name] for name in ("features", "y", "split", "place"))
    path = import_features(x, y, split, {"place": place}, out=tmp_path / "waterbirds.h5")
    with open_cache(path) as cache:
        train = cache.split("train")
        np.testing.assert_array_equal(train.x, x[split == 0].astype(np.float32))
        assert np.bincount(train.g).tolist() == [3498, 184, 56, 1057]


def test_reading_takes_no_more_memory_than_its_result(tmp_path) -> None:
    """Peak resident memory of one read in a process of its own, against the bytes read."""
    x = np.ones((20_000, 512), np.float32)
    zeros = np.zeros(len(x), np.int64)
    path = import_features(x, zeros, zeros, out=tmp_path / "big.h5")
    script = (
        "import resource, sys; from embedcal.cache import open_cache\n"
        "cache = open_cache(sys.argv[1]); cache.samples\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024\n"
        "before = peak(); x = cache.read(); print(peak() - before, x.nbytes)"
    )
    run = [sys.executable, "-c", script, str(path)]
    grown, size = map(int, subprocess.check_output(run, text=True).split())
    assert grown < 1.2 * size + (8 << 20)


def test_nothing_but_h5py_is_needed_to_read_it(cache) -> None:
    with h5py.File(cache.meta.path, "r") as file:
        np.testing.assert_array_equal(file["images/embedding"][...], cache.read())
        assert tuple(file["samples/id"].asstr()[...]) == cache.samples.ids
        assert file.attrs["identity"].decode() == cache.meta.identity
        assert file["rows_done"][0] == 37


def test_importing_the_package_does_not_load_h5py() -> None:
    script = "import sys, embedcal.cache; print('h5py' in sys.modules, 'PIL' in sys.modules)"
    run = [sys.executable, "-c", script]
    assert subprocess.check_output(run, text=True).split() == ["False", "False"]


def test_make_images_is_deterministic(tmp_path) -> None:
    one, two = make_images(tmp_path / "a", 3), make_images(tmp_path / "b", 3)
    assert [(tmp_path / "a" / p).read_bytes() for p in one] == [
        (tmp_path / "b" / p).read_bytes() for p in two
    ]


def test_what_a_reader_writes_stays_with_the_reader(cache) -> None:
    before = cache.meta.path.read_bytes()
    x = cache.read()
    assert x.flags.aligned
    assert type(x) is np.ndarray
    x += 1
    np.testing.assert_allclose(cache.read(), x - 1, atol=1e-5)
    cache.close()
    assert x.sum() != 0  # a closed cache leaves what it gave
    assert cache.meta.path.read_bytes() == before
