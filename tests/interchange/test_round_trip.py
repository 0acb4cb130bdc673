"""What goes out comes in again: to the bit, with its names, and with the same fits."""

from __future__ import annotations

import csv
import json
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


@pytest.mark.parametrize("form", WITH_TEXT)
def test_concept_pairs_come_back(form: str, world: World, tmp_path: Path) -> None:
    """Rows and roles of the bank ``pairs``, of a cache of format 2, beside other banks."""
    rng = np.random.default_rng(3)
    prompts = ("on land", "on \u00fcber {} water", "perching", "webbed")
    pairs = ((0, 1, "reject"), (2, 3, "accept"), (1, 0, "equal"), (0, 1, "reject"))
    bank = TextBank(
        name="pairs", prompts=prompts, templates=(), pairs=pairs,
        descriptions=tuple((text,) for text in prompts),
        embedding=rng.normal(size=(4, 1, 5)).astype("f4"),
    )  # fmt: skip
    plain = TextBank(
        name="class", prompts=("a", "b"), templates=("{}", "a {}"),
        embedding=rng.normal(size=(2, 2, 5)).astype("f4"),
    )  # fmt: skip
    path = import_features(
        world.features, world.y, world.split, text=Text(banks=(plain, bank)),
        names=Names(dataset="world", classes=("a", "b")), out=tmp_path / "x.h5",
    )  # fmt: skip
    with open_cache(path) as cache:
        assert cache.text("pairs").pairs == pairs
        out = export_features(cache, tmp_path / OUTS[form])
        with open_cache(import_from(out, out=tmp_path / "again.h5")) as back:
            assert back.fingerprint == cache.fingerprint
            assert (back.text("pairs").pairs, back.text("pairs").prompts) == (pairs, prompts)
            assert (back.text("class").pairs, back.text("class").prompts) == ((), ("a", "b"))
            np.testing.assert_array_equal(back.text("pairs").embedding, bank.embedding)
        assert verify(tmp_path / "again.h5").ok


@pytest.mark.parametrize(
    ("pairs", "found"),
    [
        ([[0, 2, "reject"]], "expected pairs of the 2 prompts in 'text/pairs/embedding' of "),
        ([[-1, 1, "reject"]], "where two rows and a role (reject, accept, equal) should be"),
        ([[0, 1, "dislike"]], "where two rows and a role (reject, accept, equal) should be"),
        ([[0, 1]], "where two rows and a role (reject, accept, equal) should be"),
        ([[0, 1.5, "equal"]], "where two rows and a role (reject, accept, equal) should be"),
        ("reject", "where a list should be"),
    ],
)
def test_pairs_that_are_none_are_refused(
    pairs: object, found: str, world: World, tmp_path: Path
) -> None:
    names = {"classes": ["a", "b"], "banks": {"pairs": ["x", "y"]}, "pairs": pairs}
    arrays = {"text/pairs/embedding": np.ones((2, 1, 5), "f4"), "embedcal": json.dumps(names)}
    np.savez(tmp_path / "x.npz", features=world.features, y=world.y, split=world.split, **arrays)
    with pytest.raises(EmbedcalError) as caught:
        read_features(tmp_path / "x.npz")
    assert found in str(caught.value)
    assert "\n" not in str(caught.value)


TEMPTING = ("=1+1", "+2", "-3", "@SUM(A1)", "'=1+1", "''@x", " =4", "'tis", "\t-5", "a=b", "-")


def tempting(world: World, tmp_path: Path) -> Path:
    """A cache whose ids, paths, classes, attribute and its values begin as formulas do."""
    ids = (*TEMPTING, *world.ids[len(TEMPTING) :])
    return import_features(
        world.features, world.y, world.split, {"=place": world.place},
        names=Names(
            dataset="x", ids=ids, paths=tuple(f"{name}.png" for name in ids),
            classes=("=land", "-bird"), values={"=place": ("@land", "'=water")},
        ),
        out=tmp_path / "tempting.h5",
    )  # fmt: skip


@pytest.mark.parametrize("form", EXPORTS)
def test_names_like_formulas_come_back(form: str, world: World, tmp_path: Path) -> None:
    with open_cache(tempting(world, tmp_path)) as cache:
        out = export_features(cache, tmp_path / OUTS[form])
        with open_cache(import_from(out, out=tmp_path / "again.h5")) as back:
            assert back.samples.ids == cache.samples.ids
            assert back.samples.paths == cache.samples.paths
            assert back.meta.classes == ("=land", "-bird")
            assert back.meta.attributes == (("=place", ("@land", "'=water")),)
            np.testing.assert_array_equal(
                back.samples.attributes["=place"], cache.samples.attributes["=place"]
            )
            if form != "parquet":
                assert back.read().tobytes() == cache.read().tobytes()


def test_the_csv_is_no_formula_anywhere_and_numbers_are_numbers(
    world: World, tmp_path: Path
) -> None:
    with open_cache(tempting(world, tmp_path)) as cache:
        export_features(cache, tmp_path / "x.npy")
    with (tmp_path / "x.csv").open(newline="", encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    assert header == ["id", "path", "split", "y", "class", "'=place", "'=place_name"]
    for row in rows:
        for name, text in zip(header, row, strict=True):
            if name in ("y", "'=place"):
                assert int(text) >= -1
            else:
                assert not text.lstrip().startswith(("=", "+", "-", "@"))
    assert "-1" in {row[5] for row in rows}
    assert [row[0] for row in rows[:5]] == ["'=1+1", "'+2", "'-3", "'@SUM(A1)", "''=1+1"]


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_table_of_ours_names_the_rows_of_another_file(
    suffix: str, world: World, tmp_path: Path
) -> None:
    """The CSV of one export as --table of another, whose ids are as they were."""
    with open_cache(tempting(world, tmp_path)) as cache:
        ids = cache.samples.ids
        export_features(cache, tmp_path / ("x.npy" if suffix == ".csv" else "x.parquet"))
        export_features(cache, tmp_path / "y.npz")
    found = read_features(tmp_path / "y.npz", table=tmp_path / f"x{suffix}")
    assert found.ids == ids
    np.testing.assert_array_equal(found.attributes["=place"], world.place)


def test_a_table_of_somebody_elses_is_taken_as_it_is(world: World, tmp_path: Path) -> None:
    """There an apostrophe before = is part of the name."""
    ids = ("'=1", *world.ids[1:])
    np.save(tmp_path / "x.npy", world.features)
    with (tmp_path / "x.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "y", "split"])
        writer.writerows(zip(ids, world.y, world.split, strict=True))
    assert read_features(tmp_path / "x.npy").ids == ids


@pytest.mark.parametrize("form", EXPORTS)
def test_names_that_are_digits_come_back(form: str, world: World, tmp_path: Path) -> None:
    classes, places = ("2", "0", "1"), ("1", "0")
    first = import_features(
        world.features, world.y, world.split, {"place": world.place},
        names=Names(classes=classes, values={"place": places}), out=tmp_path / "first.h5",
    )  # fmt: skip
    with open_cache(first) as cache:
        found = read_features(export_features(cache, tmp_path / OUTS[form]))
    assert np.array_equal(found.y, world.y)
    assert np.array_equal(found.attributes["place"], world.place)
    assert found.classes == (classes[:2] if form in IN_ROWS else classes)
    assert found.values == {"place": places}
