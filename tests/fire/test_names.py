"""Folders and tables of hostile names: all come back as they are, and act on no terminal."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from encoders_for_tests import NumpyEncoder
from PIL import Image

from embedcal.cache import BuildOptions, build_cache, open_cache, verify
from embedcal.datasets import read_manifest
from embedcal.tables import shown
from embedcal.types import EmbedcalError

NAMES = [
    "line\nbreak", "carriage\rreturn", "tab\tand ' quote \" and `tick`", "\u202egnp.evil\u202c",
    "\u2066isolate\u2069", "e\u0301 and \u00e9", "-rf", "--out=x", "=1+1", "@sum(a1)", "a,b;c|d",
    "$(touch x)", "%41 %2F %00", "{0} {} {x!r}", "[bold]markup[on red]", "<script>", "\x1b[31mred",
    "\\back\\slash", " blank at both ends ", "dots..", "CON", "🦆🏳️‍🌈", "\U000e0041tag", "'; DROP",
    "x" * 251, "ü" * 125, "#hash?query&and", "*glob[a-z]?", "~", "zero\u200bwidth", "\ufeffmark",
]  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """split/class/image, each part of the path taken from the names."""
    rng = np.random.default_rng(0)
    for i, name in enumerate(NAMES):
        place = tmp_path / "images" / ("train", "val", "test")[i % 3] / f"{NAMES[i % 5]}"
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(place / f"{name}.png")
    return tmp_path / "images"


def test_hostile_names_come_back_from_a_cache(folder, tmp_path) -> None:
    assert max(len(os.fsencode(name + ".png")) for name in NAMES) == 255
    manifest = read_manifest(folder)
    there = {path.relative_to(folder).as_posix() for path in folder.rglob("*.png")}
    assert set(manifest.paths) == there
    assert len(there) == len(NAMES)
    options = BuildOptions(out=tmp_path / "c.h5", templates=("{}",))
    report = build_cache(manifest, NumpyEncoder(), options=options)
    assert not report.skipped
    assert verify(report.path).ok
    with open_cache(report.path) as cache:
        assert cache.samples.paths == manifest.paths
        assert cache.meta.classes == manifest.classes
        assert set(cache.meta.classes) == set(NAMES[:5])
        assert cache.text("class").prompts == manifest.prompts["class"]
        for path in cache.samples.paths:
            line = shown(path)
            assert line.isprintable()
    assert build_cache(manifest, NumpyEncoder(), options=options).reused


def test_a_name_that_is_not_utf8_is_named_in_a_line_that_can_be_printed(folder) -> None:
    bad = os.fsencode(folder / "train" / NAMES[0]) + b"/caf\xe9\x1b[2J.png"
    os.close(os.open(bad, os.O_CREAT | os.O_WRONLY))
    with pytest.raises(EmbedcalError) as error:
        read_manifest(folder)
    said = str(error.value)
    assert "path not in UTF-8" in said
    assert said.isprintable()
    said.encode("utf-8")
    Path(os.fsdecode(bad)).unlink()
    assert len(read_manifest(folder)) == len(NAMES)


def test_unreadable_images_of_hostile_names_are_listed_harmlessly(folder, tmp_path) -> None:
    for path in folder.rglob("*.png"):
        path.write_bytes(b"no image")
    options = BuildOptions(out=tmp_path / "c.h5", on_error="raise", templates=("{}",))
    with pytest.raises(EmbedcalError) as error:
        build_cache(read_manifest(folder), NumpyEncoder(), options=options)
    assert "expected every image to be readable" in str(error.value)
