"""Descriptions in a cache: encoded as they are, stored word for word, part of the identity."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from encoders_for_tests import OPTIONS, NumpyEncoder, make_images, make_manifest

from embedcal.cache import BuildOptions, build_cache, explain_miss, open_cache, verify
from embedcal.cache.build import identity_of
from embedcal.datasets.manifest import Manifest
from embedcal.types import EmbedcalError

TEXTS = (("Walks {} on land.", "pecks \u00fcberall", "x"), ("swims.", " dives ", "a" * 60))
OPTS = BuildOptions(**OPTIONS)


@pytest.fixture
def plain(tmp_path: Path) -> Manifest:
    return make_manifest(tmp_path / "images", make_images(tmp_path / "images", 10))


@pytest.fixture
def described(plain: Manifest) -> Manifest:
    return replace(plain, descriptions={"class": TEXTS})


def build(manifest: Manifest, encoder: NumpyEncoder | None = None, **options):
    options = {**OPTIONS, **options}
    return build_cache(manifest, encoder or NumpyEncoder(), options=BuildOptions(**options))


def test_every_sentence_is_encoded_as_it_is_and_the_other_banks_through_templates(
    described: Manifest,
) -> None:
    encoder = NumpyEncoder()
    with open_cache(build(described, encoder).path) as cache:
        assert verify(cache.meta.path).ok
        bank, other = cache.text("class"), cache.text("attribute")
        assert (bank.descriptions, bank.templates, bank.prompts) == (
            TEXTS, (), described.prompts["class"],
        )  # fmt: skip
        wanted = encoder.text([text for texts in TEXTS for text in texts])
        np.testing.assert_array_equal(bank.embedding, wanted["embedding"].reshape(2, 3, -1))
        np.testing.assert_array_equal(bank.pooled, wanted["pooled"].reshape(2, 3, -1))
        assert (other.descriptions, other.templates) == ((), OPTIONS["templates"])
        assert other.embedding.shape[:2] == (3, 2)
        first = bank.first(2)
        assert first.descriptions == tuple(texts[:2] for texts in TEXTS)
        np.testing.assert_array_equal(first.embedding, bank.embedding[:, :2])
        assert bank.first(3) is bank
        assert bank.first(0) is bank
        assert cache.meta.ingredients.digest == cache.meta.identity


def test_a_cache_of_descriptions_alone_has_no_templates(described: Manifest) -> None:
    only = replace(described, prompts={"class": described.prompts["class"]})
    report = build(only, templates=())
    with open_cache(report.path) as cache:
        assert cache.meta.templates == ()
        assert cache.text("class").embedding.shape[:2] == (2, 3)
    assert build(only, templates=("another {}",)).reused  # it plays no part


def test_they_are_identity_and_what_differs_is_named(plain, described) -> None:
    encoder = NumpyEncoder()
    base, told = (identity_of(manifest, encoder, OPTS) for manifest in (plain, described))
    assert "descriptions" not in base.document()
    changed = replace(described, descriptions={"class": (TEXTS[0], (*TEXTS[1][:2], "b"))})
    other = identity_of(changed, encoder, OPTS)
    assert len({base.digest, told.digest, other.digest}) == 3
    assert explain_miss(told, base) == ["descriptions of bank 'class': wanted 6, found 0"]
    (line,) = explain_miss(other, told)
    assert line.startswith("descriptions of bank 'class': number 5 is wanted 'b'")
    assert json.loads(json.dumps(told.document()))["descriptions"]["class"][1] == list(TEXTS[1])


def test_the_identity_without_them_is_what_it_was(plain: Manifest) -> None:
    """Caches of before stay what they are."""
    keys = set(identity_of(plain, NumpyEncoder(), OPTS).document())
    assert keys == {
        "encoder", "weights_sha256", "preprocessing", "precision", "levels", "templates",
        "prompts", "rows",
    }  # fmt: skip


def test_reused_and_relabelled(described: Manifest) -> None:
    encoder = NumpyEncoder()
    first = build(described, encoder)
    counted = encoder.text_rows
    assert build(described, encoder).reused
    second = build(replace(described, y=1 - described.y), encoder)
    assert second.relabelled
    assert encoder.text_rows == counted == 6 + 3 * 2
    with open_cache(first.path) as one, open_cache(second.path) as two:
        assert one.text("class").descriptions == two.text("class").descriptions
        np.testing.assert_array_equal(one.text("class").embedding, two.text("class").embedding)


def test_an_encoder_without_text_leaves_them_out_and_says_so(plain, described) -> None:
    report = build(described, NumpyEncoder(text=False))
    assert report.notes == ("descriptions are left out: numpy/tiny@8px has no text tower",)
    with open_cache(report.path) as cache:
        assert cache.banks == ()
    assert build(plain, NumpyEncoder(text=False)).reused


def test_texts_that_cannot_be_stored(described: Manifest) -> None:
    with pytest.raises(EmbedcalError, match="descriptions without NUL"):
        build(replace(described, descriptions={"class": (("a",), ("nul\0",))}))


def test_another_reader_finds_the_texts(described: Manifest) -> None:
    with h5py.File(build(described).path, "r") as file:
        assert file["text/class/text"].asstr()[...].tolist() == [list(texts) for texts in TEXTS]


@pytest.mark.parametrize("shape", [(3, 3), (2, 2), (6,)])
def test_a_file_whose_texts_do_not_fit_is_refused(described, tmp_path, shape) -> None:
    """Rebuilt by a plain writer with texts of another shape; block and digests are made to fit."""
    from embedcal.cache.layout import StoredFile, _check_shapes

    with StoredFile(build(described).path) as stored:
        arrays = dict(stored.arrays)
    _check_shapes(tmp_path, arrays)
    arrays["/text/class/text"] = replace(arrays["/text/class/text"], shape=shape)
    with pytest.raises(EmbedcalError, match="only what the cache format allows"):
        _check_shapes(tmp_path, arrays)
    # Without texts of its own a bank is bound to the number of templates.
    del arrays["/text/class/text"]
    with pytest.raises(EmbedcalError, match="where T is"):
        _check_shapes(tmp_path, arrays)


def test_a_second_process_agrees(described: Manifest) -> None:
    path = build(described).path
    code = (
        "import sys; from embedcal.cache import open_cache\n"
        "print(open_cache(sys.argv[1]).text('class').descriptions)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == str(TEXTS)
