"""A grid's folder of made-up runs with curves, and a place of its own for each tracker."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent))  # made_runs
sys.path.insert(0, str(Path(__file__).parent))  # readers_for_tests

from made_runs import Grid

ACCURACIES = (0.95, 0.6, 0.5, 0.9)
CURVE = [
    {"epoch": 1, "val.mean": 0.5, "val.worst_group": 0.25},
    {"epoch": 2, "val.mean": 0.75, "val.worst_group": 0.5, "val.worst_class": None},
    {"epoch": 3, "val.mean": 0.875, "val.worst_group": 0.625},
]


def add(grid: Grid, method: str, seed: int, **more: Any) -> dict[str, Any]:
    """A run whose run.json has a curve, as embedcal stores it."""
    record = grid.run(method, seed, ACCURACIES, **more)
    path = grid.folder / record["id"] / "run.json"
    path.write_text(json.dumps(record | {"curve": CURVE}))
    return record


@pytest.fixture
def grid(tmp_path: Path) -> Grid:
    """Two methods, one seed each, and a failed run."""
    made = Grid(tmp_path / "my runs")
    add(made, "erm", 0, options={"lr": 0.001, "epochs": 3, "layers": [64, 32], "alpha": None})
    add(made, "group-dro", 0, options={"lr": 0.01, "epochs": 3})
    made.fail("erm", 7)
    return made


@pytest.fixture(scope="session")
def trackio_place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """trackio reads where it lies once, when it is imported: one place for the whole session."""
    return tmp_path_factory.mktemp("trackio")


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WANDB_MODE", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("CI", "true")


@pytest.fixture
def place_of(
    tmp_path: Path, trackio_place: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str], Path]:
    monkeypatch.setenv("TRACKIO_DIR", os.environ.get("TRACKIO_DIR", str(trackio_place)))
    return lambda to: trackio_place if to == "trackio" else tmp_path / "out" / to
