"""embedcal export: the answer as JSON and for people, and what a typo gets."""

from __future__ import annotations

import csv
import itertools
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from exported_for_tests import Small
from typer.testing import CliRunner, Result

from embedcal.commands.exporting import register
from embedcal.datasets import spreadsheet
from embedcal.exporting import score
from embedcal.exporting.score import main as script
from embedcal.types import EmbedcalError


def command(*words: str, columns: int = 80) -> Result:
    app = typer.Typer(pretty_exceptions_enable=False)
    app.callback()(lambda: None)  # so that one command is not the whole app
    register(app)
    environment = {"COLUMNS": str(columns), "NO_COLOR": "1"}
    return CliRunner().invoke(app, ["export", *words], env=environment)


def test_the_record_and_the_report(small: Small, tmp_path: Path) -> None:
    run = small.runs["both"]
    out = tmp_path / "a model"
    done = command(str(run.folder), str(out), "--json")
    assert done.exception is None, done.exception
    record = json.loads(done.stdout)
    assert record["path"] == str(out)
    assert (record["to"], record["run"], record["head"]) == ("open_clip", run.id, "projection")
    assert record["whole"]
    assert set(record["files"]) == {file.name for file in out.iterdir()}
    assert record["difference"] < 1e-4 * max(1, record["largest"])
    assert any("middle 50 x 50 pixels" in note for note in record["notes"])

    file = tmp_path / "head.safetensors"
    words = [str(run.folder), str(file), "--to", "safetensors", "--cache", str(small.path)]
    told = " ".join(command(*words, columns=60).stdout.split())
    assert f"run {run.id} head projection, by itself" in told
    assert "checked" not in told


def test_mistakes_are_told(small: Small, tmp_path: Path) -> None:
    done = command("last", str(tmp_path / "x"), "--cache", str(small.path))
    assert isinstance(done.exception, EmbedcalError)
    assert "expected a run, found none called 'last'" in str(done.exception)
    done = command(str(small.runs["both"].folder), str(tmp_path / "x"), "--to", "pickle")
    assert "expected a form among open_clip" in str(done.exception)
    assert not list(tmp_path.iterdir())


def test_the_command_imports_nothing_heavy() -> None:
    code = (
        "import sys, embedcal.commands.exporting\n"
        "print([m for m in ('torch', 'open_clip', 'jinja2', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_script_passes_over_what_it_cannot_read(
    small: Small,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import runpy

    out = tmp_path / "model"
    assert command(str(small.runs["pooled"].folder), str(out)).exit_code == 0
    root = small.path.parent / "data" / "im ages"
    (tmp_path / "bad.png").write_bytes(b"no picture")
    files = [str(root / "0.png"), str(tmp_path / "bad.png"), "gone.png", str(root / "1.png")]
    monkeypatch.setattr(sys, "argv", ["score.py", *files])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(out / "score.py"), run_name="__main__")
    assert end.value.code == 1
    told = capsys.readouterr()
    lines = told.out.splitlines()
    assert lines[0] == "file,class,probability"
    assert [line.split(",")[0] for line in lines[1:]] == [files[0], files[3]]
    assert [line.split(":")[0] for line in told.err.splitlines()] == files[1:3]
    assert script([]) == 2


def test_the_scripts_cells_are_those_of_every_other_csv() -> None:
    pieces = ["", "'", " ", "\n", "=", "-", "+", "@", "./", "a", "\u202e", "\udce9", "ö"]
    for text in map("".join, itertools.product(pieces, repeat=3)):
        assert score.cell(text) == spreadsheet.cell(text)
        assert score.path_cell(text) == spreadsheet.path_cell(text)


@pytest.mark.skipif(sys.platform != "linux", reason="names there are text")
def test_the_script_writes_names_that_tempt_or_are_no_text(small: Small, tmp_path: Path) -> None:
    out = tmp_path / "model"
    assert command(str(small.runs["pooled"].folder), str(out)).exit_code == 0
    names = ["=1+1.png", os.fsdecode(b"s\xe9.png"), "c.png"]
    for name in names:
        shutil.copy(small.path.parent / "data" / "im ages" / "0.png", tmp_path / name)
    done = subprocess.run(
        [sys.executable, str(out / "score.py"), *names],
        cwd=tmp_path,
        env={**os.environ, "PYTHONIOENCODING": "utf-8:strict"},
        capture_output=True,
        check=True,
    )
    rows = list(csv.reader(done.stdout.decode().splitlines()))
    assert [row[0] for row in rows[1:]] == ["./=1+1.png", "s\\udce9.png", "c.png"]


def test_probabilities_are_divided_by_the_temperature(small: Small, tmp_path: Path) -> None:
    import torch
    from PIL import Image

    from embedcal.exporting.score import Scorer

    out = tmp_path / "model"
    assert command(str(small.runs["projection"].folder), str(out)).exit_code == 0
    scorer = Scorer(out)
    image = Image.open(small.path.parent / "data" / "im ages" / "3.png")
    x = scorer.prepare(image)[None]
    plain = scorer.logits(x)
    scorer.facts["temperature"] = 2.0
    torch.testing.assert_close(scorer.probabilities(x), (plain / 2).softmax(-1))
    assert (scorer.logits(x) == plain).all()
