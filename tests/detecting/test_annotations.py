"""Verdicts and labels beside a cache: written whole, read only as they were written."""

from __future__ import annotations

import json

import numpy as np
import pytest

import embedcal
from embedcal.detecting import annotate, annotated, annotation
from embedcal.errors import EmbedcalError

from .conftest import small_cache

LABELS = np.array([1, 0, -1] * 4)


def test_what_is_written_is_read(small):
    path = annotate(small, "wet / sand", "spurious", LABELS, source="clip")
    assert path.parent == small.meta.path.parent / "small.beside" / "attributes"
    found = annotation(small, "wet / sand")
    assert (found.attribute, found.verdict, found.source) == ("wet / sand", "spurious", "clip")
    assert found.values == ("no wet / sand", "wet / sand")
    assert found.labels.dtype == np.int8
    assert np.array_equal(found.labels, LABELS)
    assert annotated(small) == ("wet / sand",)
    annotate(small, "wet / sand", "healthy", -LABELS % 2)
    changed = annotation(small, "wet / sand")
    assert changed.verdict == "healthy"
    assert changed.digest != found.digest
    assert [p.name for p in path.parent.iterdir()] == [path.name]  # nothing half-written is left


@pytest.mark.parametrize(
    ("key", "value"), [("verdict", "healthy"), ("labels", [0] * 12), ("format", 2), ("digest", "0")]
)
def test_a_changed_file_is_refused(small, key, value):
    path = annotate(small, "water", "spurious", LABELS)
    path.write_text(json.dumps({**json.loads(path.read_text()), key: value}))
    with pytest.raises(EmbedcalError, match="annotate again"):
        annotation(small, "water")


@pytest.mark.parametrize("content", ["", "[]", "{", '{"digest": 1}', "null"])
def test_a_torn_file_is_refused(small, content):
    path = annotate(small, "water", "spurious", LABELS)
    path.write_text(content)
    with pytest.raises(EmbedcalError, match="annotate again"):
        annotation(small, "water")


def test_labels_of_other_images_are_refused(small, tmp_path):
    path = annotate(small, "water", "spurious", LABELS)
    (tmp_path / "other.beside" / "attributes").mkdir(parents=True)
    (tmp_path / "other.beside" / "attributes" / path.name).write_bytes(path.read_bytes())
    with (
        embedcal.open(small_cache(tmp_path / "other.h5", seed=1)) as other,
        pytest.raises(EmbedcalError, match="other images"),
    ):
        annotation(other, "water")


def test_a_read_only_folder_keeps_them_in_the_users_own(small, monkeypatch, own_home):
    monkeypatch.setattr("os.access", lambda path, mode: False)
    path = annotate(small, "water", "spurious", LABELS)
    assert path.is_relative_to(own_home / "beside")
    assert annotated(small) == ("water",)


@pytest.mark.parametrize(
    ("name", "verdict", "labels", "message"),
    [
        ("water", "bad", LABELS, "a verdict among healthy, spurious"),
        ("place", "spurious", LABELS, "another name than place"),
        ("water", "spurious", LABELS[:5], "each of the 12 rows"),
        ("water", "spurious", LABELS + 1, "each of the 12 rows"),
        (" ", "spurious", LABELS, "the name of an attribute"),
        ("a\nb", "spurious", LABELS, "the name of an attribute"),
    ],
)
def test_what_is_no_annotation(small, name, verdict, labels, message):
    with pytest.raises(EmbedcalError, match=message):
        annotate(small, name, verdict, labels)
    with pytest.raises(EmbedcalError, match="found none"):
        annotation(small, name)
