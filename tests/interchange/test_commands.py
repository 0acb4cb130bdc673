"""The two commands: parse, one call, print."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_args, get_type_hints

import numpy as np
import pytest
from feature_worlds import World
from typer.testing import CliRunner

from embedcal.cli import app
from embedcal.commands import features
from embedcal.interchange import EXPORTS, IMPORTS
from embedcal.types import EmbedcalError


def run(*words: object) -> str:
    done = CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)
    if done.exception is not None:
        raise done.exception
    return done.stdout


def answer(*words: object) -> Any:
    return json.loads(run(*words, "--json"))


def test_in_and_out_and_in_again(world: World, tmp_path: Path) -> None:
    np.savez(tmp_path / "mine.npz", **world.arrays())
    names = ["--classes", "land,water", "--attributes", "in,out", "--name", "birds"]
    found = answer("import-features", tmp_path / "mine.npz", "--attribute", "place", *names)
    assert found["rows"] == {"train": 30, "val": 30, "test": 30}
    assert (found["classes"], found["attributes"]) == (["land", "water"], {"place": ["in", "out"]})
    fitted = answer("fit", "erm", "--head", "linear", "--epochs", "2")
    out = tmp_path / "x.parquet"
    said = answer("export-features", "-o", out, "--run", "last", "--split", "test")
    assert (said["rows"], said["unreadable"], said["run"]) == (30, 0, fitted["id"])
    again = answer("import-features", out, "--out", tmp_path / "again.h5")
    assert (again["rows"]["train"], again["dataset"]) == (0, "birds")


def test_people_get_lines(world: World, tmp_path: Path) -> None:
    np.savez(tmp_path / "mine.npz", **world.arrays())
    shown = run("import-features", tmp_path / "mine.npz", "--out", tmp_path / "x.h5")
    assert "90 of 5 numbers, float32; train 30, val 30, test 30" in " ".join(shown.split())
    shown = run("export-features", tmp_path / "x.h5", "--out", tmp_path / "x", "--normalise")
    assert "90 of train, val, test" in " ".join(shown.split())
    assert (tmp_path / "x" / "img_emb" / "img_emb_0.npy").is_file()


def test_every_form_is_a_choice() -> None:
    for command, forms in (
        (features.import_features, IMPORTS),
        (features.export_features, EXPORTS),
    ):
        choice = get_args(get_type_hints(command)["format"])[0]
        assert get_args(choice) == tuple(forms)


def test_a_mistake_is_the_users(world: World, tmp_path: Path) -> None:
    np.savez(tmp_path / "mine.npz", **world.arrays())
    with pytest.raises(EmbedcalError, match="expected arrays y, split, colour beside"):
        run("import-features", tmp_path / "mine.npz", "--attribute", "colour")
