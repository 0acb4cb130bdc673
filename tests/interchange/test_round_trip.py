"""What goes out comes in again: to the bit, with its names, and with the same fits."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from feature_worlds import CLASSES, PLACES, World

from embedcal.cache import open_cache, verify
from embedcal.cache.importing import Names, Text, import_features
from embedcal.fitting import fit
from embedcal.interchange import EXPORTS, export_features, import_from, read_features
from embedcal.types import EmbedcalError, TextBank

OUTS = {"parquet": "x.parquet", "npz": "x.npz", "safetensors": "x.safetensors", "npy": "x.npy",
        "clip-retrieval": "folder"}  # fmt: skip
WITH_TEXT = ("npz", "safetensors")
# A CSV has no place for the name of a class that no row has.
IN_ROWS = {"npy": CLASSES[:2]}


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("form", EXPORTS)
def test_a_cache_comes_back(
    form: str, dtype: str, cache_of: Callable[..., Path], tmp_path: Path
) -> None:
    path = cache_of(dtype)
    with open_cache(path) as cache:
        out = export_features(cache, tmp_path / OUTS[form])
        again = import_from(out, out=tmp_path / "again.h5")
        assert verify(again).ok
        with open_cache(again) as back:
            assert back.read().tobytes() == cache.read().tobytes()
            stored = "float32" if form == "parquet" else dtype
            assert back.meta.levels == {"embedding": stored}
            mine, theirs = cache.samples, back.samples
            assert (theirs.ids, theirs.paths) == (mine.ids, mine.paths)
            np.testing.assert_array_equal(theirs.y, mine.y)
            np.testing.assert_array_equal(theirs.split, mine.split)
            np.testing.assert_array_equal(theirs.attributes["place"], mine.attributes["place"])
            assert back.meta.classes == IN_ROWS.get(form, CLASSES)
            assert back.meta.attributes == (("place", PLACES),)
            assert back.meta.dataset == ("x" if form == "npy" else "world")
            assert set(back.banks) == ({"class", "attribute"} if form in WITH_TEXT else set())
            for bank in back.banks:
                assert back.text(bank).prompts == cache.text(bank).prompts
                assert back.text(bank).templates == cache.text(bank).templates
                np.testing.assert_array_equal(back.text(bank).embedding, cache.text(bank).embedding)
            if form in WITH_TEXT and dtype == "float32":
                assert back.fingerprint == cache.fingerprint
                assert float(back.stored.read("/projection/logit_scale")[0]) == 4.6
    assert not [left for left in tmp_path.iterdir() if left.name.startswith(".")]


@pytest.mark.parametrize("form", EXPORTS)
def test_fits_over_what_came_back_are_the_original_ones(
    form: str, birds: Path, tmp_path: Path
) -> None:
    """600 birds through the tiny CLIP: equal features and labels, so equal metrics."""
    with open_cache(birds) as cache:
        out = export_features(cache, tmp_path / OUTS[form])
        with open_cache(import_from(out, out=tmp_path / "again.h5")) as back:
            assert back.read().tobytes() == cache.read().tobytes()
            runs = [
                fit("erm", each, head="linear", epochs=2, out=tmp_path / name)
                for name, each in (("a", cache), ("b", back))
            ]
    assert (runs[0].test, runs[0].val) == (runs[1].test, runs[1].val)


def test_imported_text_classifies(birds: Path, tmp_path: Path) -> None:
    """Zero-shot needs the prompts and nothing else that an .npz has not."""
    with open_cache(birds) as cache:
        out = export_features(cache, tmp_path / "x.npz")
        with open_cache(import_from(out, out=tmp_path / "again.h5")) as back:
            found = [
                fit("zeroshot", each, out=tmp_path / str(i)) for i, each in enumerate((cache, back))
            ]
    assert found[0].test == found[1].test


@pytest.mark.parametrize("form", EXPORTS)
def test_splits_and_normalised_rows(
    form: str, cache_of: Callable[..., Path], world: World, tmp_path: Path
) -> None:
    with open_cache(cache_of("float16")) as cache:
        out = export_features(cache, tmp_path / OUTS[form], splits=["test"], normalise=True)
        found = read_features(out)
    x = world.features[world.split == 2].astype(np.float16).astype(np.float64)
    wanted = x / np.linalg.norm(x, axis=1, keepdims=True)
    np.testing.assert_allclose(found.features, wanted, atol=1e-6)
    assert found.features.dtype == np.float32
    assert found.ids == world.ids[2::3]
    assert set(found.split) == {2}


def test_equal_features_are_one_cache(cache_of: Callable[..., Path], tmp_path: Path) -> None:
    with open_cache(cache_of()) as cache:
        out = export_features(cache, tmp_path / "x.npz")
    first = import_from(out)
    made = first.stat().st_ino
    assert import_from(out) == first
    assert first.stat().st_ino == made


def test_text_counts_in_the_identity(world: World, tmp_path: Path) -> None:
    """Equal features, prompts and templates, but other text features or another scale."""
    identities = set()
    for number, scale in ((0.0, None), (1.0, None), (1.0, 4.6)):
        bank = TextBank(
            name="class",
            prompts=("a", "b"),
            templates=("{}",),
            embedding=np.full((2, 1, 5), number),
        )
        path = import_features(
            world.features, world.y, world.split, text=Text(banks=(bank,), logit_scale=scale),
            out=tmp_path / f"{number}-{scale}.h5",
        )  # fmt: skip
        with open_cache(path) as cache:
            assert (cache.logit_scale, cache.projection()) == (scale, None)
            identities.add(cache.meta.identity)
    assert len(identities) == 3


@pytest.mark.parametrize("form", WITH_TEXT)
def test_descriptions_come_back(form: str, world: World, tmp_path: Path) -> None:
    """Classes described by texts of their own, as many for each, beside prompts in templates."""
    rng = np.random.default_rng(2)
    bank = {"prompts": ("a", "b"), "templates": ()}
    described = TextBank(
        name="class", descriptions=(("one", "zwei, drei", "x"), ("2", "3", "4")),
        embedding=rng.normal(size=(2, 3, 5)).astype("f4"), **bank,
    )  # fmt: skip
    plain = TextBank(
        name="attribute", prompts=PLACES, templates=("{}",), embedding=np.ones((2, 1, 5), "f4")
    )
    path = import_features(
        world.features, world.y, world.split, text=Text(banks=(described, plain)),
        names=Names(dataset="world", classes=("a", "b")), out=tmp_path / "x.h5",
    )  # fmt: skip
    with open_cache(path) as cache:
        out = export_features(cache, tmp_path / OUTS[form])
        with open_cache(import_from(out, out=tmp_path / "again.h5")) as back:
            assert back.fingerprint == cache.fingerprint
            assert back.text("class").descriptions == described.descriptions
            np.testing.assert_array_equal(back.text("class").embedding, described.embedding)
            assert back.text("attribute").templates == ("{}",)


def test_unreadable_rows_stay_behind(tmp_path: Path) -> None:
    from PIL import Image

    from embedcal.cache import BuildOptions, build_cache
    from embedcal.datasets.manifest import Attribute, Manifest
    from embedcal.encoders.load import load_encoder

    for i in range(6):
        Image.new("RGB", (64, 64), (40 * i, 0, 0)).save(tmp_path / f"{i}.png")
    (tmp_path / "3.png").write_bytes(b"no picture")
    names = tuple(f"{i}.png" for i in range(6))
    manifest = Manifest(
        name="six", root=tmp_path, ids=names, paths=names, y=np.arange(6) % 2,
        split=np.arange(6) // 2, classes=("a", "b"),
        attributes=(Attribute(name="a", values=("x",), labels=np.zeros(6, int)),),
    )  # fmt: skip
    report = build_cache(
        manifest, load_encoder("tiny"), options=BuildOptions(out=tmp_path / "six.h5")
    )
    with open_cache(report.path) as cache:
        found = read_features(export_features(cache, tmp_path / "six.parquet", level="pooled"))
        assert found.ids == ("0.png", "1.png", "2.png", "4.png", "5.png")
        np.testing.assert_array_equal(found.features, cache.read("pooled")[[0, 1, 2, 4, 5]])
        with pytest.raises(EmbedcalError, match="one vector a row among pooled, embedding"):
            export_features(cache, tmp_path / "t.npz", level="tokens")


def test_blocks_do_not_change_what_is_written(
    cache_of: Callable[..., Path], world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Many row groups, many blocks, many parts of clip-retrieval, many batches of an import."""
    import pyarrow.parquet as pq

    from embedcal.cache import importing
    from embedcal.interchange import exporting, parquet

    monkeypatch.setattr(exporting, "_BLOCK", 7)
    monkeypatch.setattr(exporting, "_PART", 8)
    monkeypatch.setattr(parquet, "_GROUP", 11 * 20)
    monkeypatch.setattr(importing, "_BATCH", 4)
    with open_cache(cache_of()) as cache:
        for form in EXPORTS:
            out = export_features(cache, tmp_path / OUTS[form])
            with open_cache(import_from(out, out=tmp_path / f"{form}.h5")) as back:
                assert back.read().tobytes() == world.features.tobytes()
                assert back.samples.ids == world.ids
    assert pq.ParquetFile(tmp_path / "x.parquet").num_row_groups == 9
    names = sorted(path.name for path in (tmp_path / "folder" / "img_emb").iterdir())
    assert names[:2] == ["img_emb_00.npy", "img_emb_01.npy"]
    assert len(names) == 12
