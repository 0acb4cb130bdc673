"""detect and explain on the command line: over the birds, and what a typo gets."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

import embedcal


def command(*words: str, status: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "embedcal", *words],
        capture_output=True,
        text=True,
        timeout=240,
        env={**os.environ, "COLUMNS": "80", "NO_COLOR": "1"},
    )
    assert done.returncode == status, done.stderr
    assert "Traceback" not in done.stderr
    return done


def test_detect_finds_land_and_water(birds: Path) -> None:
    words = ("detect", "--cache", str(birds), "--split", "test", "--per-class", "1")
    record = json.loads(command(*words, "--json").stdout)
    first = {each["class"]: each for each in record["attributes"]}
    assert {"land", "water"} & {each["attribute"] for each in first.values()}
    for each in first.values():
        assert each["delta"] == pytest.approx(each["accuracy_with"] - each["accuracy_without"])
        assert each["delta"] > 0.2
        assert each["p_adjusted"] < 0.01
    assert {each["name"] for each in record["agreement"]} == {"land", "water"}
    shown = command(*words).stdout
    assert "water" in shown
    assert max(map(len, shown.splitlines()[:6])) <= 80


def test_explain_draws_the_rows_that_are_named(own_home: Path, tmp_path: Path) -> None:
    made = command("cache", "birds", "--rows", "240", "--keep", "tokens", "--json")
    cache = json.loads(made.stdout)["path"]
    command("fit", "erm", "--epochs", "1", "--cache", cache)
    out = tmp_path / "why.png"
    words = ("explain", "zero-shot", "last", "--cache", cache, "--rows", "3,200", "-o", str(out))
    record = json.loads(command(*words, "--json").stdout)
    assert Path(record["figure"]) == out
    with Image.open(out) as figure:
        assert figure.width > figure.height / 3
    assert len(record["heads"]) == 2
    for images in record["heads"].values():
        assert [image["row"] for image in images] == [3, 200]
        assert all(0 <= image["aiou"] <= 1 for image in images if image["aiou"] is not None)


def test_slices_gather_the_errors_of_one_place(birds: Path) -> None:
    words = ("detect", "--slices", "--cache", str(birds), "--split", "test")
    record = json.loads(command(*words, "--json").stdout)
    rows = [row for each in record["slices"] for row in each["rows"]]
    assert len(rows) == len(set(rows)) == sum(each["images"] for each in record["slices"])
    worst = record["slices"][0]
    assert worst["excess"] == max(each["excess"] for each in record["slices"]) > 0
    assert worst["accuracy"] < worst["class_accuracy"]
    assert {worst["class"], worst["confused"]} == {"landbird", "waterbird"}
    assert worst["accuracy"] == pytest.approx(1 - worst["errors"] / worst["images"])
    shown = command(*words).stdout
    assert "no estimate for other images" in shown
    assert worst["names"][0]["name"] in shown
    assert max(map(len, shown.splitlines()[:6])) <= 80
    done = command(*words, "--by", "mi", status=2)
    assert "expected --slices without --detector and --by" in done.stderr


def test_language_says_which_run_left_the_place(birds: Path, tmp_path: Path) -> None:
    with embedcal.open(birds) as cache:
        runs = [embedcal.fit(name, cache, out=tmp_path) for name in ("dfr", "linear-probe")]
    words = ("explain", *(str(run.folder) for run in runs), "--language", "--cache", str(birds))
    told = json.loads(command(*words, "--json").stdout)["language"]
    assert told["split"] == "test"
    assert [each["run"] for each in told["runs"]] == [run.id for run in runs]
    changes = []
    for run in told["runs"]:
        of = [each for each in run["shifts"] if each["class"] == "waterbird"]
        assert len(of) == 10
        changes.append({each["word"]: each["change"] for each in of})
        assert list(changes[-1].values()) == sorted(changes[-1].values(), reverse=True)
        for each in run["shifts"]:
            assert each["change"] == pytest.approx(each["run"] - each["zero_shot"])
    dfr, probe = changes
    assert dfr["land"] > 0.1
    assert dfr["water"] < -0.1
    assert max(map(abs, probe.values())) < 0.5 * max(map(abs, dfr.values()))
    few = (*words, "--class", "waterbird", "--per-class", "4")
    shown = command(*few).stdout
    assert "over trainings" in shown
    assert shown.count("waterbird") == 8
    assert max(map(len, shown.splitlines()[:6])) <= 80


def test_words_go_through_an_encoder_that_is_code_when_its_file_is_named(tmp_path: Path) -> None:
    """The tiny CLIP by another name, so that the cache's own name of it does not find it."""
    mine = tmp_path / "mine.py"
    mine.write_text(
        "from dataclasses import replace\n"
        "from embedcal.encoders.load import load_encoder\n"
        "def Mine():\n"
        "    encoder = load_encoder('tiny')\n"
        "    encoder.meta = replace(encoder.meta, name='mine')\n"
        "    return encoder\n"
    )
    name = ("--backbone", f"{mine}:Mine")
    made = command("cache", "birds", "--rows", "240", *name, "--json")
    path = Path(json.loads(made.stdout)["path"])
    with embedcal.open(path) as cache:
        run = str(embedcal.fit("linear-probe", cache, out=tmp_path / "runs").folder)
    own, beside = ("--cache", str(path), "--json"), path.with_suffix(".beside")
    for words in (("detect",), ("explain", run, "--language")):
        refused = command(*words, *own, status=2).stderr
        assert "--backbone" in refused
        assert json.loads(command(*words, *name, *own).stdout)
        shutil.rmtree(beside)  # the text features, which another command would read again


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("detect", "--run", "nope"), "none called 'nope'"),
        (("detect", "--detector", "clap"), "a detector among clip, owlvit"),
        (("explain", "nope", "-o", "x.png"), "none called 'nope'"),
        (("explain", "--rows", "a,b", "-o", "x.png"), "write, say, 3,17,250"),
        (("explain", "zero-shot"), "name it with -o, or ask for --language"),
        (("explain", "--language"), "name a run, or last"),
    ],
)
def test_mistakes_are_one_line(birds: Path, words: tuple[str, ...], said: str) -> None:
    done = command(*words, "--cache", str(birds), status=2)
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("embedcal:")]
    assert said in line
    assert done.stdout == ""
