"""Caches of every format and release stay readable: one of each is kept, with what it must say."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from embedcal.cache import open_cache, verify
from embedcal.cache.format import FORMAT_VERSION
from embedcal.types import LEVELS

CACHES = Path(__file__).parents[1] / "data" / "caches"
KEPT = sorted(CACHES.glob("*.h5"))


def expected(path: Path) -> Any:
    return json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))


def test_there_is_one_of_each_format() -> None:
    formats = {expected(path)["format_version"] for path in KEPT}
    assert formats == set(range(1, FORMAT_VERSION + 1))
    assert all(path.stat().st_size < 32_000 for path in KEPT)


@pytest.mark.parametrize("path", KEPT, ids=lambda path: path.stem)
def test_the_file_is_the_one_that_was_kept(path: Path) -> None:
    """A file made anew by today's code would show nothing of yesterday's."""
    assert hashlib.sha256(path.read_bytes()).hexdigest() == expected(path)["file_sha256"]
    assert verify(path).ok


@pytest.mark.parametrize("path", KEPT, ids=lambda path: path.stem)
def test_an_old_cache_is_read_as_ever(path: Path) -> None:
    wanted = expected(path)
    with open_cache(path) as cache:
        meta, samples = cache.meta, cache.samples
        for name in ("format_version", "dataset", "backbone", "precision"):
            assert getattr(meta, name) == wanted[name]
        assert dict(meta.preprocessing) == wanted["preprocessing"]
        for name in ("ids", "paths", "masks"):
            assert list(getattr(samples, name)) == wanted[name]
        for name in ("y", "split", "status", "box"):
            np.testing.assert_array_equal(getattr(samples, name), wanted[name])
        assert [row.tobytes().hex() for row in meta.ingredients.rows] == wanted["sha256"]
        assert [bool(reason) for reason in samples.reasons] == list(map(bool, wanted["status"]))
        for name in ("classes", "warnings", "templates"):
            assert list(getattr(meta, name)) == wanted[name]
        assert {name: list(values) for name, values in meta.attributes} == {
            name: each["values"] for name, each in wanted["attributes"].items()
        }
        for name, each in wanted["attributes"].items():
            np.testing.assert_array_equal(samples.attributes[name], each["labels"])
        for level in LEVELS:
            np.testing.assert_array_equal(cache.read(level), wanted[level])
        assert set(cache.banks) == set(wanted["text"])
        for bank, each in wanted["text"].items():
            found = cache.text(bank)
            assert list(found.prompts) == each["prompts"]
            np.testing.assert_array_equal(found.embedding, each["embedding"])
        assert [list(each) for each in cache.text("class").descriptions] == wanted["descriptions"]
        if "pairs" in wanted:  # since format 2
            assert [list(pair) for pair in cache.text("pairs").pairs] == wanted["pairs"]
        projection = cache.projection()
        assert projection is not None
        np.testing.assert_array_equal(projection.image_weight, wanted["image_weight"])
        np.testing.assert_array_equal(projection.text_weight, wanted["text_weight"])
        assert cache.logit_scale == wanted["logit_scale"]
        train = cache.split("train")
        rows = [i for i, s in enumerate(wanted["split"]) if s == 0 and not wanted["status"][i]]
        np.testing.assert_array_equal(train.rows, rows)
        np.testing.assert_array_equal(train.x, np.array(wanted["embedding"])[rows])


@pytest.mark.parametrize("path", KEPT, ids=lambda path: path.stem)
def test_an_old_cache_is_read_without_embedcal(path: Path) -> None:
    wanted = expected(path)
    with h5py.File(path, "r") as file:
        np.testing.assert_array_equal(file["images/embedding"][...], wanted["embedding"])
        assert list(file["samples/id"].asstr()[...]) == wanted["ids"]
