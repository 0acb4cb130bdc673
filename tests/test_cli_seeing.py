"""detect and explain on the command line: over the birds, and what a typo gets."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image


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


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("detect", "--run", "nope"), "none called 'nope'"),
        (("detect", "--detector", "clap"), "a detector among clip, owlvit"),
        (("explain", "nope", "-o", "x.png"), "none called 'nope'"),
        (("explain", "--rows", "a,b", "-o", "x.png"), "write, say, 3,17,250"),
    ],
)
def test_mistakes_are_one_line(birds: Path, words: tuple[str, ...], said: str) -> None:
    done = command(*words, "--cache", str(birds), status=2)
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("embedcal:")]
    assert said in line
    assert done.stdout == ""
