"""Verdicts with inferred labels, from a name or from the file that a report's page saves."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from embedcal.annotating import annotate, annotated, annotation, prompts
from embedcal.detecting import infer
from embedcal.judging import counts, judge, read_verdicts
from embedcal.types import SPLITS, EmbedcalError

from .conftest import labels_of


def table(folder: Path, **columns: np.ndarray) -> Path:
    """A table of presence for the rows of the made cache."""
    path, names = folder / "presence.csv", list(columns)
    cells = zip(*columns.values(), strict=True)
    lines = [
        ",".join([f"row{i}", *("" if c < 0 else str(c) for c in row)])
        for i, row in enumerate(cells)
    ]
    path.write_text("\n".join([",".join(["id", *names]), *lines]))
    return path


def verdicts(cache, **given):
    return {
        "embedcal": "verdicts", "format": 1, "fingerprint": cache.fingerprint, "detector": "clip",
        "verdicts": {"water": "spurious", "boat": "healthy"}, **given,
    }  # fmt: skip


def test_labels_are_those_that_detection_infers(flock):
    (found,) = judge(flock, {"water": "spurious"})
    written = annotation(flock, "water")
    assert np.array_equal(written.labels, infer(flock, "water"))
    assert (written.verdict, written.source) == ("spurious", "clip")
    assert found.annotation.digest == written.digest
    assert found.note == ""
    (agreed,) = found.agreements
    place = flock.samples.attributes["place"]
    assert (agreed.attribute, agreed.value, agreed.n) == ("place", "water", len(flock))
    assert agreed.agreement == pytest.approx(np.mean(written.labels == place))
    assert agreed.agreement > 0.9


def test_counts_are_of_every_row_once(made):
    labels = labels_of("water")
    found = counts(made, labels)
    samples = made.samples
    for split, classes in found.items():
        for y, name in enumerate(("crow", "duck")):
            rows = [
                i for i in range(len(made))
                if samples.split[i] == SPLITS.index(split) and samples.y[i] == y
            ]  # fmt: skip
            one = classes[name]
            wanted = [sum(labels[i] == value for i in rows) for value in (1, 0, -1)]
            assert [one.with_it, one.without, one.unknown] == wanted
            assert min(wanted) > 0


def test_several_are_kept_healthy_ones_too(made, tmp_path):
    file = table(tmp_path, water=labels_of("water"), fog=labels_of("fog"))
    found = judge(made, {" water ": "spurious", "fog": "healthy"}, file)
    assert [one.annotation.verdict for one in found] == ["spurious", "healthy"]
    assert annotated(made) == ("fog", "water")
    assert np.array_equal(annotation(made, "fog").labels, labels_of("fog"))
    assert annotation(made, "water").source == str(file)
    assert [one.note for one in found] == ["", ""]  # no text in the cache: none was expected


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"fog": "healthy", "place": "spurious"}, "another name than place"),
        ({"fog": "healthy", "water": "bad"}, "a verdict among"),
        ({"fog": "healthy", "mist": "spurious"}, "expected"),
        ({}, "one attribute or more"),
    ],
)
def test_all_or_nothing(given, said, made, tmp_path):
    file = table(tmp_path, water=labels_of("water"), fog=labels_of("fog"))
    with pytest.raises(EmbedcalError, match=said):
        judge(made, given, file)
    assert annotated(made) == ()


def test_an_encoder_that_cannot_be_loaded_leaves_labels_without_prompts(
    flock, tmp_path, monkeypatch
):
    def lost(*args, **kwargs):
        raise EmbedcalError("expected weights, found none")

    ids = flock.samples.ids
    lines = [f"{name},{i % 2}" for i, name in enumerate(ids)]
    file = tmp_path / "presence.csv"
    file.write_text("\n".join(["id,water", *lines]))
    monkeypatch.setattr("embedcal.encoders.load.load_encoder", lost)
    (found,) = judge(flock, {"water": "spurious"}, file)
    assert "kept without prompts, which spurious reads: expected the encoder of" in found.note
    assert "\n" not in found.note
    assert annotated(flock) == ("water",)
    assert prompts(flock, "water") is None


def test_prompts_of_an_earlier_annotation_are_not_lost(flock, tmp_path):
    judge(flock, {"water": "spurious"})
    annotate(flock, "water", "healthy", np.zeros(len(flock)))
    assert prompts(flock, "water") is not None


# -- the file of a report --------------------------------------------------------------------------


def test_a_saved_file_is_read(made, tmp_path):
    path = tmp_path / "verdicts.json"
    path.write_text(json.dumps(verdicts(made)))
    found = read_verdicts(path, made)
    assert found.verdicts == {"water": "spurious", "boat": "healthy"}
    assert found.detector == "clip"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"fingerprint": "f" * 64}, "verdicts on made.h5 .* another cache: name that with --cache"),
        ({"fingerprint": None}, "another cache"),
        ({"format": 2}, "format 1 .*, found 2: use the version"),
        ({"embedcal": "report"}, "found another file"),
        ({"verdicts": ["water"]}, "found another form"),
        ({"verdicts": {"water": 1}}, "found another form"),
        ({"detector": 3}, "found another form"),
    ],
)
def test_another_file_is_refused(given, said, made, tmp_path):
    path = tmp_path / "verdicts.json"
    path.write_text(json.dumps(verdicts(made, **given)))
    with pytest.raises(EmbedcalError, match=said):
        read_verdicts(path, made)


@pytest.mark.parametrize("content", ["", "[]", "{", "3", "[" * 100_000, "\x00"])
def test_a_torn_file_is_refused(content, made, tmp_path):
    path = tmp_path / "verdicts.json"
    path.write_text(content)
    with pytest.raises(EmbedcalError, match="found another file"):
        read_verdicts(path, made)
    with pytest.raises(EmbedcalError, match="No such file"):
        read_verdicts(tmp_path / "none.json", made)
