"""Runs as a table: every cell is what the record of its run says."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pandas as pd
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from made_runs import Grid

from embedcal.cache import open_cache
from embedcal.fitting import fit
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
    assert not any("interval" in name or name.endswith(("_low", "_high")) for name in table)


def test_ends_of_intervals_stand_beside_what_they_are_of(grid: Grid) -> None:
    """A record has them under the run's own rule, named or not, and under no other."""
    made = grid.run("erm", 0, BAD)
    ends = {
        "mean": [0.7, 0.9],
        "worst_group": [None, None],
        "groups": [[0.1 * g, 0.1 * g + 0.05] for g in range(4)],
    }
    own = {**made["rules"][made["selection"]]["test"], "interval": ends}
    grid.run("dfr", 1, GOOD)
    lines = (grid.folder / "results.jsonl").read_text().splitlines()
    record = json.dumps({**made, "test": own})
    (grid.folder / "results.jsonl").write_text("\n".join([record, *lines[1:]]) + "\n")
    (grid.folder / made["id"] / "run.json").write_text(record)
    for select in (None, made["selection"]):
        table = results(grid.folder, select=select)
        erm, dfr = (table[table["method"] == name].iloc[0] for name in ("erm", "dfr"))
        assert (erm["test.mean_low"], erm["test.mean_high"]) == (0.7, 0.9)
        assert erm["test.groups_low"] == [low for low, _ in ends["groups"]]
        assert erm["test.groups_high"] == [high for _, high in ends["groups"]]
        assert pd.isna(erm["test.worst_group_low"])
        assert pd.isna(dfr["test.mean_low"])
        order = list(table)
        assert order.index("test.mean_high") == order.index("test.mean") + 2
    assert "test.mean_low" not in results(grid.folder, select="val.mean")


def test_a_run_has_intervals_of_every_accuracy(birds: Path, tmp_path: Path) -> None:
    with open_cache(birds) as cache:
        run = fit("zeroshot", cache, out=tmp_path)
    row = results(tmp_path).iloc[0]
    for split in ("val", "test"):
        for name in ("mean", "worst_group", "group_mean", "worst_class", "train_weighted"):
            low, high = (row[f"{split}.{name}_{end}"] for end in ("low", "high"))
            assert [low, high] == run.record[split]["interval"][name]
            assert low < row[f"{split}.{name}"] <= high


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
