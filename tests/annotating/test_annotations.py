"""Verdicts and labels beside a cache: written whole, read only as they were written."""

from __future__ import annotations

import json
import os
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

import embedcal
from embedcal.annotating import annotate, annotated, annotation, prompts, remove, write_prompts
from embedcal.errors import EmbedcalError
from embedcal.types import TextBank

from .conftest import made_cache

LABELS = np.resize([1, 0, -1], 240)


def test_what_is_written_is_read(made):
    path = annotate(made, "wet / sand", "spurious", LABELS, source="clip")
    assert path.parent == made.meta.path.parent / "made.beside" / "attributes"
    found = annotation(made, "wet / sand")
    assert (found.attribute, found.verdict, found.source) == ("wet / sand", "spurious", "clip")
    assert found.values == ("no wet / sand", "wet / sand")
    assert found.labels.dtype == np.int8
    assert np.array_equal(found.labels, LABELS)
    assert annotated(made) == ("wet / sand",)
    annotate(made, "wet / sand", "healthy", -LABELS % 2)
    changed = annotation(made, "wet / sand")
    assert changed.verdict == "healthy"
    assert changed.digest != found.digest
    assert [p.name for p in path.parent.iterdir()] == [path.name]  # nothing half-written is left


@pytest.mark.parametrize(
    ("key", "value"),
    [("verdict", "healthy"), ("labels", [0] * 240), ("format", 2), ("digest", "0")],
)
def test_a_changed_file_is_refused(made, key, value):
    path = annotate(made, "water", "spurious", LABELS)
    path.write_text(json.dumps({**json.loads(path.read_text()), key: value}))
    with pytest.raises(EmbedcalError, match="annotate again"):
        annotation(made, "water")


@pytest.mark.parametrize("content", ["", "[]", "{", '{"digest": 1}', "null"])
def test_a_torn_file_is_refused(made, content):
    path = annotate(made, "water", "spurious", LABELS)
    path.write_text(content)
    with pytest.raises(EmbedcalError, match="annotate again"):
        annotation(made, "water")


def test_labels_of_other_images_are_refused(made, tmp_path):
    path = annotate(made, "water", "spurious", LABELS)
    (tmp_path / "other.beside" / "attributes").mkdir(parents=True)
    (tmp_path / "other.beside" / "attributes" / path.name).write_bytes(path.read_bytes())
    with (
        embedcal.open(made_cache(tmp_path / "other.h5", seed=1)) as other,
        pytest.raises(EmbedcalError, match="other images"),
    ):
        annotation(other, "water")


@contextmanager
def read_only(shared):
    """A folder, and all below it, is another user's meanwhile; root may write anywhere."""
    real = os.access

    def access(path, mode):
        mine = mode != os.W_OK or not Path(path).is_relative_to(shared)
        return mine and real(path, mode)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.access", access)
        yield


@pytest.mark.parametrize("there", [False, True], ids=["no folder", "their folder"])
def test_a_read_only_folder_keeps_them_in_the_users_own(made, own_home, there):
    if there:
        made.meta.path.with_suffix(".beside").mkdir()
    with read_only(made.meta.path.parent):
        path = annotate(made, "water", "spurious", LABELS)
        assert path.is_relative_to(own_home / "beside")
        assert annotated(made) == ("water",)


def test_the_users_own_hides_what_is_beside_the_cache_and_nothing_else(made, own_home):
    for name in ("fog", "water"):
        annotate(made, name, "healthy", LABELS)  # the owner of the folder
    bank = TextBank(
        name="attribute", prompts=("a", "b"), templates=(), embedding=np.ones((2, 1, 4))
    )
    with read_only(made.meta.path.parent):
        mine = annotate(made, "water", "spurious", -LABELS % 2)
        assert write_prompts(made, "water", bank).parent == mine.parent
    assert mine.is_relative_to(own_home / "beside")
    assert annotated(made) == ("fog", "water")
    assert [annotation(made, name).verdict for name in ("fog", "water")] == ["healthy", "spurious"]
    assert annotate(made, "water", "healthy", LABELS) == mine  # writable again: still what is read
    remove(made, "water")
    assert annotation(made, "water").verdict == "healthy"  # the owner's


@pytest.mark.parametrize(
    ("name", "verdict", "labels", "message"),
    [
        ("water", "bad", LABELS, "a verdict among healthy, spurious"),
        ("place", "spurious", LABELS, "another name than place"),
        ("water", "spurious", LABELS[:5], "each of the 240 rows"),
        ("water", "spurious", LABELS + 1, "each of the 240 rows"),
        (" ", "spurious", LABELS, "the name of an attribute"),
        ("é" * 40, "spurious", LABELS, "the name of an attribute"),
        ("a\nb", "spurious", LABELS, "the name of an attribute"),
    ],
)
def test_what_is_no_annotation(made, name, verdict, labels, message):
    with pytest.raises(EmbedcalError, match=message):
        annotate(made, name, verdict, labels)
    with pytest.raises(EmbedcalError, match="found none"):
        annotation(made, name)


def test_what_is_removed_is_gone_with_its_prompts(made):
    bank = TextBank(
        name="attribute", prompts=("a", "b"), templates=(), embedding=np.ones((2, 1, 4))
    )
    for name in ("water", "fog"):
        annotate(made, name, "spurious", LABELS)
        write_prompts(made, name, bank)
    (made.meta.path.with_suffix(".beside") / "attributes" / "fog.json").write_text("torn")
    remove(made, "fog")
    assert annotated(made) == ("water",)
    assert prompts(made, "fog") is None
    assert prompts(made, "water") is not None
    with pytest.raises(
        EmbedcalError, match=r"an annotated attribute 'fog' .*, found water: choose"
    ):
        remove(made, "fog")
