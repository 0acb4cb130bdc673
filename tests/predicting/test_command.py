"""embedcal predict and calibrate: one JSON document, a report that fits, and what a typo gets."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import typer
from PIL import Image
from typer.testing import CliRunner, Result

import embedcal
from embedcal.commands.predicting import register
from embedcal.types import EmbedcalError


def command(*words: str | Path, width: int = 80) -> Result:
    app = typer.Typer(pretty_exceptions_enable=False)
    register(app)
    environment = {"COLUMNS": str(width), "NO_COLOR": "1"}
    return CliRunner().invoke(app, list(map(str, words)), env=environment)


@pytest.fixture
def photos(flock, tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    with embedcal.open(flock.cache) as cache:
        samples = cache.samples
        for number, row in enumerate(np.flatnonzero(samples.split == 2)[:14]):
            shutil.copy(flock.images / samples.paths[row], folder / f"{number:02d}.png")
    return folder


@pytest.fixture
def run(flock, tmp_path: Path) -> Path:
    return Path(shutil.copytree(flock.runs["projection"].folder, tmp_path / "run"))


def test_predict_prints_one_document_or_a_table(photos: Path, run: Path, tmp_path: Path) -> None:
    done = command("predict", run, photos, "--json", "--neighbours", "2")
    assert done.exit_code == 0
    record = json.loads(done.stdout)
    assert [each["path"] for each in record["images"]] == [f"{i:02d}.png" for i in range(14)]
    assert all(len(each["neighbours"]) == 2 for each in record["images"])
    assert (record["predicted"], record["unreadable"], record["csv"]) == (14, [], None)

    shown = command("predict", run, photos, "--neighbours", "1", width=60).stdout
    assert max(map(len, shown.splitlines()[:20])) <= 60
    assert "09.png" in shown
    assert "10.png" not in shown
    assert "the first 10 of 14: --csv FILE has them all" in " ".join(shown.split())
    assert "1, not calibrated" in shown

    out = tmp_path / "out.csv"
    done = command("predict", run, photos, "--json", "--csv", out)
    assert "images" not in json.loads(done.stdout)
    with out.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["class"] for row in rows] == [each["class"] for each in record["images"]]
    again = json.loads(command("predict", run, photos, "--json", "--csv", out).stdout)
    assert (again["predicted"], again["reused"]) == (0, 14)
    assert again["classes"] == record["classes"]
    assert "14 images (14 were there)" in command("predict", run, photos, "--csv", out).stdout


def test_what_cannot_be_read_ends_in_status_3(photos: Path, run: Path) -> None:
    for i in range(12):
        (photos / f"{i:02d}.png").write_bytes(b"")
    (photos / "[red]\x1b[31m.png").write_bytes(b"")
    done = command("predict", run, photos)
    assert done.exit_code == 3
    told = " ".join(done.stdout.split())
    assert "13 could not be read" in told
    assert "the first 10 of 13: --json lists them all" in told
    assert "\x1b" not in done.stdout
    found = command("predict", run, photos, "--json")
    assert found.exit_code == 3
    assert {each["reason"] for each in json.loads(found.stdout)["unreadable"]} == {
        "the file is empty"
    }


def test_calibrate_then_predict(photos: Path, run: Path, tmp_path: Path) -> None:
    plot = tmp_path / "plot.png"
    done = command("calibrate", run, "--plot", plot, "--json")
    assert done.exit_code == 0
    record = json.loads(done.stdout)
    assert (record["where"], record["labels_used"]) == ("inside", ["val.y"])
    assert (record["fitted"]["split"], record["judged"]["split"]) == ("val", "test")
    every = record["judged"]["all"]
    assert set(every["before"]) == set(every["after"])
    low, high = every["after"]["ece"]["interval"]
    assert low <= every["after"]["ece"]["value"] <= high
    with Image.open(plot) as image:
        assert image.height > 400
    shown = command("calibrate", run, width=60).stdout
    assert max(map(len, shown.splitlines()[:20])) <= 60
    assert f"{record['temperature']:.4g}, fitted to" in shown
    assert "IN-SAMPLE" not in shown

    plain = command("predict", run, photos).stdout
    hint = f"--temperature calibrated would use {record['temperature']:.4g}"
    assert hint in " ".join(plain.split())
    found = json.loads(
        command("predict", run, photos, "--json", "--temperature", "calibrated").stdout
    )
    assert found["temperature"] == record["temperature"]


def test_calibrate_says_plainly_what_it_stands_on(flock, run: Path) -> None:
    shown = command("calibrate", flock.runs["in_sample"].folder).stdout
    assert "IN-SAMPLE: the method had fitted these rows of val itself" in shown
    half = " ".join(
        command("calibrate", flock.runs["in_sample"].folder, "--split", "test").stdout.split()
    )
    assert "rows of test (one half)" in half
    assert "test y, for the temperature" in half
    assert "IN-SAMPLE" not in half


def test_a_temperature_at_its_bound_is_status_3(tmp_path: Path) -> None:
    from made_runs import Grid

    record = Grid(tmp_path).run("erm", 0, (1.0, 1.0, 1.0, 1.0))
    done = command("calibrate", tmp_path / record["id"])
    assert done.exit_code == 3
    assert "NOT STORED: every row that it was fitted to is right" in done.stdout


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("predict", "nope", "."), "none called 'nope'"),
        (("predict", "RUN", "nowhere"), "expected images in nowhere, found nothing there"),
        (("predict", "RUN", ".", "--temperature", "hot"), "found 'hot': leave it out for 1"),
        (("predict", "RUN", ".", "--temperature", "0"), "expected a temperature above 0"),
        (("predict", "RUN", ".", "--device", "toaster"), "found 'toaster'"),
        (("predict", "RUN", ".", "--cache", "no.h5"), "no.h5"),
        (("calibrate", "RUN", "--plot", "x.txt"), "expected a figure that ends in .png"),
        (("calibrate", "RUN", "--plot", "no/x.png"), "expected a folder for no/x.png"),
        (("calibrate", "nope"), "none called 'nope'"),
    ],
)
def test_mistakes_are_one_line(
    flock, run: Path, tmp_path: Path, monkeypatch, words: tuple[str, ...], said: str
) -> None:
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    more = ("--cache", flock.cache) if "nope" in words else ()
    done = command(*(run if word == "RUN" else word for word in words), *more)
    assert isinstance(done.exception, EmbedcalError), done
    assert said in str(done.exception)
    assert "\n" not in str(done.exception)
