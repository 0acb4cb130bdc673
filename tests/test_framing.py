"""Runs as a table: every cell is what the record of its run says."""

from __future__ import annotations

import sys
from pathlib import Path

import pandas as pd
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from made_runs import Grid

from embedcal.framing import results
from embedcal.types import EmbedcalError

GOOD, BAD = (0.9, 0.8, 0.7, 0.95), (0.95, 0.6, 0.5, 0.97)


@pytest.fixture
def grid(tmp_path: Path) -> Grid:
    return Grid(tmp_path / "runs")


def test_a_row_is_a_run(grid: Grid) -> None:
    records = [
        grid.run("erm", 0, BAD, options={"lr": 1e-3}),
        grid.run("dfr", 1, GOOD, rules=("own.worst_group",), options={"c": [1.0]}),
    ]
    table = results(grid.folder)
    assert list(table["method"]) == ["erm", "dfr"]
    for (_, row), record in zip(table.iterrows(), records, strict=True):
        assert row["id"] == record["id"]
        assert row["selection"] == record["selection"]
        kept = record["rules"][record["selection"]]
        assert row["test.worst_group"] == kept["test"]["worst_group"]
        assert row["val.mean"] == kept["val"]["mean"]
        assert row["test.groups"] == kept["test"]["groups"]
        assert row["labels_used"] == ", ".join(kept["labels_used"])
    assert table["option.lr"][0] == 1e-3
    assert pd.isna(table["option.lr"][1])
    assert not any("interval" in name for name in table.columns)


def test_another_rule(grid: Grid) -> None:
    record = grid.run("erm", 0, BAD)
    grid.run("dfr", 0, GOOD, rules=("own.worst_group",))
    table = results(grid.folder, select="val.mean")
    assert list(table["selection"]) == ["val.mean", "own.worst_group"]
    assert table["test.mean"][0] == record["rules"]["val.mean"]["test"]["mean"]
    missing = results(grid.folder, select="oracle.worst_group")
    assert pd.isna(missing["test.mean"][0])


def test_a_rule_that_does_not_exist_and_a_folder_without_runs(grid: Grid, tmp_path: Path) -> None:
    grid.run("erm", 0, BAD)
    with pytest.raises(EmbedcalError, match="expected a selection rule among"):
        results(grid.folder, select="val.wg")
    with pytest.raises(EmbedcalError, match="expected"):
        results(tmp_path / "nothing")
