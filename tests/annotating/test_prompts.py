"""Attribute prompts of inferred attributes: encoded as the cache's own, read where they count."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from embedcal.annotating import annotate, labelled, prompts, write_prompts
from embedcal.annotating.annotations import prompts_path
from embedcal.encoders.load import load_encoder
from embedcal.fitting import configure, fit
from embedcal.judging import judge
from embedcal.types import EmbedcalError
from embedcal.workbench import Workbench

SPURIOUS = {"epochs": 1, "ls_form": "class_x_attribute"}


@pytest.fixture
def water(flock):
    judge(flock, {"water": "spurious"})
    return flock


def seen(cache, attribute, name="spurious", **options):
    """The attribute prompts that a method sees."""
    on = Workbench(cache, attribute)
    return on.task(configure(name, options).resolve(on.offer)).text["attribute"]


def test_prompts_are_the_values_through_the_templates(water):
    found, own = prompts(water, "water"), water.text("attribute")
    assert found.prompts == ("no water", "water")
    assert found.templates == own.templates == water.meta.templates
    encoder = load_encoder("tiny")
    for p, value in enumerate(found.prompts):
        text = encoder.text([line.replace("{}", value) for line in found.templates])
        np.testing.assert_allclose(found.embedding[p], text["embedding"], atol=1e-5)
        np.testing.assert_allclose(found.pooled[p], text["pooled"], atol=1e-5)
    # "water" is a value of the cache's own attribute too, and encoded there by the cache
    at = own.prompts.index("water")
    np.testing.assert_allclose(found.embedding[1], own.embedding[at], atol=1e-5)
    assert found.embedding.dtype == own.embedding.dtype
    assert found.pooled.shape[1:] == own.pooled.shape[1:]


def test_a_method_sees_those_of_the_attribute_that_is_named(water):
    own, inferred = water.text("attribute"), prompts(water, "water")
    for ask in (None, "place"):
        assert seen(water, ask).prompts == own.prompts
    found = seen(water, "water")
    assert found.prompts == inferred.prompts
    assert np.array_equal(found.pooled, inferred.pooled)
    assert seen(water, "water", templates=3).embedding.shape[:2] == (2, 3)
    both = seen(water, ["water", "place"])
    assert both.prompts == own.prompts + inferred.prompts
    assert np.array_equal(both.embedding, np.concatenate([own.embedding, inferred.embedding]))
    assert np.array_equal(both.pooled, np.concatenate([own.pooled, inferred.pooled]))


def test_a_fit_depends_on_them(water, tmp_path):
    one = fit("spurious", water, attribute="water", out=tmp_path / "a", **SPURIOUS)
    bank = prompts(water, "water")
    write_prompts(water, "water", replace(bank, pooled=-bank.pooled, embedding=-bank.embedding))
    two = fit("spurious", water, attribute="water", out=tmp_path / "b", **SPURIOUS)
    assert not np.array_equal(one.logits("last", "test"), two.logits("last", "test"))


def test_without_prompts_a_method_that_reads_them_says_what_to_do(water):
    prompts_path(water, "water").unlink()
    assert "attribute" not in Workbench(water, "water").banks
    with pytest.raises(
        EmbedcalError, match=r"attribute prompts for spurious.*annotate water again"
    ):
        seen(water, "water")
    with pytest.raises(EmbedcalError, match="annotate water again"):
        seen(water, ["place", "water"])
    assert seen(water, "place").prompts == water.text("attribute").prompts
    on = Workbench(water, "water")
    assert on.task(configure("group-dro", {}).resolve(on.offer)).n_groups == 4


def test_there_are_no_context_prompts(water):
    with pytest.raises(
        EmbedcalError, match=r"context prompts for spurious.*water is inferred and has"
    ):
        seen(water, "water", variant="official", vs_weight=1.0)


@pytest.mark.parametrize("harm", ["flip", "cut", "other templates"])
def test_what_is_damaged_or_of_another_encoding_counts_as_none(water, harm, tmp_path):
    path = prompts_path(water, "water")
    content = bytearray(path.read_bytes())
    if harm == "flip":
        content[-5] ^= 1
    path.write_bytes(content[:200] if harm == "cut" else content)
    if harm == "other templates":
        import embedcal
        from embedcal.datasets.options import ReadOptions

        read = ReadOptions(rows=600, seed=77)
        other = embedcal.cache("birds", templates="simple", read=read, out=tmp_path / "b.h5").path
        folder = tmp_path / "b.beside" / "attributes"
        folder.mkdir(parents=True)
        for file in path.parent.iterdir():
            (folder / file.name).write_bytes(file.read_bytes())
        with embedcal.open(other) as cache:
            assert labelled(cache, "water").inferred.keys() == {"water"}
            assert prompts(cache, "water") is None
        return
    assert prompts(water, "water") is None


def test_a_cache_without_text_has_none(made):
    annotate(made, "water", "spurious", np.zeros(len(made)))
    assert prompts(made, "water") is None
    with pytest.raises(EmbedcalError, match="compares images with text"):
        seen(made, "water")
