"""annotate on the command line: what it keeps, prints, lists, removes and refuses."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from embedcal.annotating import annotate, annotated, annotation
from embedcal.commands import annotating
from embedcal.types import EmbedcalError

from .conftest import labels_of

app = typer.Typer()
annotating.register(app)


def command(*words: object) -> str:
    """What is printed; a mistake of the user's as the error that ends the command."""
    done = CliRunner().invoke(app, list(map(str, words)), catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


def test_a_verdict_is_kept_and_told(flock, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    words = ("--attribute", "water", "--verdict", "spurious", "--cache", flock.meta.path)
    shown = command(*words)
    assert "embedcal fit group-dro --attribute water --cache" in shown
    assert "agrees with place = water on" in shown
    record = json.loads(command(*words, "--json"))
    (kept,) = record["attributes"]
    assert (kept["attribute"], kept["verdict"], kept["note"]) == ("water", "spurious", "")
    assert kept["digest"] == annotation(flock, "water").digest
    assert Path(kept["file"]).is_file()
    labels, samples = annotation(flock, "water").labels, flock.samples
    for split, code in (("train", 0), ("val", 1), ("test", 2)):
        for y, name in enumerate(flock.meta.classes):
            rows = (samples.split == code) & (samples.y == y)
            told = kept["counts"][split][name]
            assert told["with_it"] == (labels[rows] == 1).sum()
            assert f"{told['with_it']:,} / {told['without']:,}" in shown
    listed = json.loads(command("--list", "--cache", flock.meta.path, "--json"))
    (row,) = listed["attributes"]
    assert (row["with_it"], row["prompts"]) == (int((labels == 1).sum()), True)
    assert "water" in command("--list", "--cache", flock.meta.path)


def test_a_file_of_verdicts_names_its_detector(made, tmp_path, monkeypatch):
    lines = [f"row{i},{max(v, 0)}" for i, v in enumerate(labels_of("water"))]
    (tmp_path / "presence.csv").write_text("\n".join(["id,water", *lines]))
    file = tmp_path / "verdicts.json"
    document = {
        "embedcal": "verdicts", "format": 1, "fingerprint": made.fingerprint,
        "detector": "presence.csv", "verdicts": {"water": "healthy"},
    }  # fmt: skip
    file.write_text(json.dumps(document))
    monkeypatch.chdir(tmp_path)
    shown = command("--file", file, "--cache", made.meta.path)
    assert "healthy: kept, and there is nothing to repair" in shown
    assert annotation(made, "water").source == "presence.csv"
    file.write_text(json.dumps({**document, "fingerprint": "0"}))
    with pytest.raises(EmbedcalError, match="another cache"):
        command("--file", file, "--cache", made.meta.path)


def test_a_list_says_what_is_damaged_and_remove_takes_it_away(made):
    assert "nothing is annotated beside made.h5" in command("--list", "--cache", made.meta.path)
    annotate(made, "water", "spurious", np.zeros(len(made)))
    torn = annotate(made, "[bold]fog", "healthy", np.ones(len(made)))
    torn.write_text("{")
    shown = command("--list", "--cache", made.meta.path)
    assert "note: expected an annotation as it was written" in shown
    assert "spurious" in shown
    shown = command("--remove", "[bold]fog", "--cache", made.meta.path)
    assert "note" not in shown
    assert annotated(made) == ("water",)
    with pytest.raises(EmbedcalError, match=r"'fog' .*, found water: choose one"):
        command("--remove", "fog", "--cache", made.meta.path)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "one of --attribute, --file, --list, --remove, found none"),
        (("--attribute", "a", "--list"), "found 2"),
        (("--attribute", "a"), "expected --verdict beside --attribute"),
        (("--list", "--verdict", "healthy"), "expected --attribute beside --verdict"),
        (("--attribute", "place", "--verdict", "spurious"), "another name than place"),
        (("--attribute", "sea", "--verdict", "spurious"), "an encoder with a text tower"),
    ],
)
def test_mistakes_are_one_line(words, said, made):
    with pytest.raises(EmbedcalError, match=said) as told:
        command(*words, "--cache", made.meta.path)
    assert "\n" not in str(told.value)
