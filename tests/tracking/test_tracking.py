"""Trackers hold what the lines say, once, and are read back by their own readers."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import typer
from conftest import ACCURACIES, CURVE, add
from made_runs import Grid
from readers_for_tests import read
from typer.testing import CliRunner

from embedcal.runs import Run, load_run
from embedcal.tracking import follow, track, trackers
from embedcal.tracking.adapters import open_tracker
from embedcal.tracking.mirrored import mirrored
from embedcal.types import EmbedcalError

pytestmark = pytest.mark.filterwarnings("default")  # what other programs warn of is theirs
TRACKERS = [
    pytest.param(
        to, marks=pytest.mark.skipif(find_spec(to) is None, reason=f"embedcal[{to}] is missing")
    )
    for to in ("tensorboard", "mlflow", "wandb", "trackio")
]
Place = Callable[[str], Path]
RULE = "val.worst_group"


def project(request: pytest.FixtureRequest) -> str:
    """One of its own for each test: trackio has one place for all."""
    return f"p{abs(hash(request.node.name)) % 10**9}"


def key(record: dict[str, Any], rule: str = RULE) -> str:
    return f"{record['method']}-{record['id']}-{rule}"


def records(grid: Grid) -> list[dict[str, Any]]:
    lines = (grid.folder / "results.jsonl").read_text().splitlines()
    return [r for r in map(json.loads, lines) if r["status"] == "done"]


def test_there_is_an_adapter_for_each_tracker_and_none_is_imported_to_know_it() -> None:
    assert trackers() == ["mlflow", "tensorboard", "trackio", "wandb"]
    code = (
        "import sys; from embedcal.tracking import trackers; trackers()\n"
        "print(sorted({'torch', 'mlflow', 'tensorboard', 'trackio', 'wandb'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout == "[]\n", done.stderr


@pytest.mark.parametrize("to", TRACKERS)
def test_what_is_read_back_is_what_the_lines_say(
    to: str, grid: Grid, place_of: Place, request: pytest.FixtureRequest
) -> None:
    name, out = project(request), place_of(to)
    found = track(grid.folder, to, project=name, out=out)
    made = records(grid)
    assert found.added == tuple(record["id"] for record in made)
    assert (found.known, found.failed) == (0, 1)
    held = read(to, out, name)
    assert set(held) == {key(record) for record in made}
    for record in made:
        settings, points = held[key(record)]
        assert str(settings["method"]) == record["method"]
        assert float(settings["lr"]) == record["options"]["lr"]
        assert settings["run"] == record["id"]
        steps = [(p["epoch"], p["val.worst_group"]) for p in CURVE]
        test = record["rules"][RULE]["test"]
        val = record["rules"][RULE]["val"]
        summary = -1 if to == "wandb" else 3
        curve = [point for point in points["curve/val_worst_group"] if point[0] >= 0]
        assert curve == steps
        assert "curve/val_worst_class" not in points  # null at every epoch that has it
        assert points["val/worst_group"] == [(summary, pytest.approx(val["worst_group"]))]
        assert points["test/worst_group"] == [(summary, pytest.approx(test["worst_group"]))]
        assert [points[f"test/groups_{g}"][-1][1] for g in range(4)] == pytest.approx(
            test["groups"]
        )
        assert not [p for p in points if "group_sizes" in p or "in_sample" in p]
    erm = held[key(made[0])][0]
    assert json.loads(erm["layers"]) == [64, 32]


@pytest.mark.parametrize("to", TRACKERS)
def test_a_second_time_adds_what_is_new_and_nothing_else(
    to: str, grid: Grid, place_of: Place, request: pytest.FixtureRequest
) -> None:
    name, out = project(request), place_of(to)
    track(grid.folder, to, project=name, out=out)
    before = read(to, out, name)
    again = track(grid.folder, to, project=name, out=out)
    assert (again.added, again.known) == ((), 2)
    assert read(to, out, name) == before
    fresh = add(grid, "erm", 1)
    other = records(grid)[1] | {"selection": "val.mean"}  # asked for by another rule since
    grid.append(other)
    more = track(grid.folder, to, project=name, out=out)
    assert sorted(more.added) == sorted([fresh["id"], other["id"]])
    held = read(to, out, name)
    assert set(held) == {*before, key(fresh), key(other, "val.mean")}
    assert {k: held[k] for k in before} == before


@pytest.mark.parametrize("to", TRACKERS)
def test_a_killed_mirror_leaves_no_half_of_a_run(
    to: str,
    grid: Grid,
    place_of: Place,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whatever stands there after the process died inside ``add``, the same call mends it."""
    name, out = project(request), place_of(to)
    tracker = open_tracker(to, name, out)
    first = records(grid)[0]
    run = mirrored(load_run(grid.folder / first["id"]) or pytest.fail("no run"))
    died: dict[str, tuple[Any, str]] = {
        "tensorboard": (tracker, "_scalars"),
        "mlflow": (getattr(tracker, "_client", None), "set_terminated"),
        "trackio": (getattr(tracker, "_storage", None), "_insert_trace_rows"),
    }
    if to == "wandb":  # a folder without its line
        tracker.add(run)
        (out / "wandb" / "embedcal.jsonl").unlink()
    else:
        with monkeypatch.context() as patch:
            of, what = died[to]
            patch.setattr(of, what, lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
            with pytest.raises(KeyboardInterrupt):
                tracker.add(run)
    tracker.close()
    track(grid.folder, to, project=name, out=out)
    held = read(to, out, name)
    assert set(held) == {key(record) for record in records(grid)}
    points = held[key(first)][1]["test/worst_group"]
    assert len(points) == 1


def test_a_second_project_leaves_the_runs_of_the_first(grid: Grid, tmp_path: Path) -> None:
    pytest.importorskip("wandb")
    for name in ("first", "second"):
        track(grid.folder, "wandb", project=name, out=tmp_path)
    made = sorted(key(record) for record in records(grid))
    for name in made:
        assert len(list(tmp_path.glob(f"wandb/offline-run-*-{name}*/run-*.wandb"))) == 2
    for name in ("first", "second"):
        assert track(grid.folder, "wandb", project=name, out=tmp_path).known == len(made)


def test_a_run_that_another_process_writes_is_left_to_it(tmp_path: Path) -> None:
    """A start takes away only what nobody can be writing any more, and only what is ours."""
    mlflow = pytest.importorskip("mlflow")
    open_tracker("mlflow", "p", tmp_path).close()
    client = mlflow.MlflowClient(f"sqlite:///{(tmp_path / 'mlflow.db').as_posix()}")
    experiment, now = client.get_experiment_by_name("p").experiment_id, int(1000 * time.time())
    for name, age, tags in (
        ("ours, now", 5, {"embedcal.run": "a"}),
        ("ours, left by a killed process", 3600, {"embedcal.run": "b"}),
        ("somebody else's", 3600, {}),
    ):
        client.create_run(experiment, now - 1000 * age, tags, run_name=name)
    tracker = open_tracker("mlflow", "p", tmp_path)
    assert not tracker.holds("a")
    left = {run.info.run_name for run in client.search_runs([experiment])}
    assert left == {"ours, now", "somebody else's"}


def test_what_is_deleted_in_the_tracker_comes_back(grid: Grid, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    track(grid.folder, "tensorboard", out=tmp_path / "tb")
    gone = records(grid)[0]
    shutil.rmtree(tmp_path / "tb" / "embedcal" / key(gone))
    assert track(grid.folder, "tensorboard", out=tmp_path / "tb").added == (gone["id"],)


def test_a_run_is_told_with_intervals_and_without_what_is_no_number(grid: Grid) -> None:
    record = records(grid)[0]
    metrics = {
        "mean": 0.75,
        "worst_group": 0.5,
        "auroc": [0.9, None],
        "ece": math.nan,
        "in_sample": True,
        "group_sizes": [1, 2],
        "interval": {"worst_group": [0.4, 0.6], "groups": [[0, 1]], "mean": None},
    }
    options = {"lr": 0.1, "seed": 99, "note": "x" * 900, "mixed": {"a": [1]}}
    whole = record | {"test": metrics, "options": options, "seconds": 2.5, "curve": []}
    told = mirrored(Run(folder=Path("nowhere"), record=whole))
    assert {k: v for k, v in told.summary.items() if not k.startswith("val/")} == {
        "test/mean": 0.75,
        "test/worst_group": 0.5,
        "test/auroc_0": 0.9,
        "test/worst_group_low": 0.4,
        "test/worst_group_high": 0.6,
        "seconds": 2.5,
    }
    assert told.summary["val/mean"] == pytest.approx(record["rules"][RULE]["val"]["mean"])
    assert told.settings["seed"] == record["seed"]  # the run's own, whatever an option is called
    assert len(str(told.settings["note"])) == 500
    assert told.settings["mixed"] == '{"a": [1]}'
    assert (told.curve, told.epoch) == ((), 3)


@pytest.mark.parametrize("method", ["../../up", "a b/c", "c:\\d", "ünï\x1b[31m"])
def test_a_foreign_name_cannot_leave_the_folder(method: str, grid: Grid, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    record = grid.run(method, 3, ACCURACIES, predictions=False)
    track(grid.folder, "tensorboard", out=tmp_path / "tb")
    (made,) = (p for p in (tmp_path / "tb" / "embedcal").iterdir() if record["id"] in p.name)
    assert made.name.isascii()
    assert not set(made.name) & set("/\\: \x1b")
    assert sorted(p.name for p in (tmp_path / "tb").iterdir()) == ["embedcal"]


def test_a_damaged_run_json_costs_the_curve_only(grid: Grid, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    record = records(grid)[0]
    (grid.folder / record["id"] / "run.json").write_text("{")
    track(grid.folder, "tensorboard", out=tmp_path / "tb")
    points = read("tensorboard", tmp_path / "tb", "embedcal")[key(record)][1]
    assert not [name for name in points if name.startswith("curve/")]
    assert points["val/worst_group"][0][0] == 3


def test_single_runs_are_taken_too(grid: Grid, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    record = records(grid)[1]
    found = track(grid.folder / record["id"], "tensorboard", out=tmp_path / "tb")
    assert found.added == (record["id"],)


@pytest.mark.parametrize(
    ("to", "name", "words"),
    [
        ("tensorbord", "p", "did you mean tensorboard?"),
        ("excel", "p", "mlflow, tensorboard, trackio, wandb"),
        ("tensorboard", "../p", "expected --project of letters"),
        ("tensorboard", "", "expected --project of letters"),
    ],
)
def test_a_mistake_is_one_line(to: str, name: str, words: str, grid: Grid, tmp_path: Path) -> None:
    with pytest.raises(EmbedcalError, match=r"^expected ") as raised:
        track(grid.folder, to, project=name, out=tmp_path / "out")
    assert words in str(raised.value)
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("to", ["tensorboard", "mlflow", "wandb", "trackio"])
def test_a_missing_package_says_what_to_install(
    to: str, grid: Grid, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("embedcal.tracking.adapters.find_spec", lambda name: None)
    with pytest.raises(EmbedcalError, match=rf"pip install 'embedcal\[{to}\]'$"):
        track(grid.folder, to)


def test_what_a_tracker_raises_is_one_line(grid: Grid, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(EmbedcalError, match=r"^expected tensorboard to take the runs") as raised:
        track(grid.folder, "tensorboard", out=tmp_path / "file")
    assert "\n" not in str(raised.value)


def test_follow_ends_with_the_grid_and_misses_nothing(grid: Grid, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    late = Grid(tmp_path / "elsewhere").run("erm", 5, ACCURACIES)  # to know its id
    asked = [*(record["id"] for record in records(grid)), late["id"]]
    (grid.folder / "grid.json").write_text(json.dumps({"asked": asked}))
    looks: list[int] = []

    def look(done: int, total: int) -> None:
        if done == total:
            looks.append(total)
            if len(looks) == 1:  # the last run ends while those before it are being mirrored
                add(grid, "erm", 5)

    found = follow([grid.folder], "tensorboard", out=tmp_path / "tb", progress=look, pause=0.05)
    assert found.added == tuple(asked)
    assert found.known == 0
    assert looks == [2, 3]


def test_only_a_grid_can_be_followed(grid: Grid, tmp_path: Path) -> None:
    with pytest.raises(EmbedcalError, match="folder of a grid to follow"):
        follow([grid.folder], "tensorboard", out=tmp_path / "tb")


def test_the_command_prints_one_document(
    grid: Grid, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("tensorboard")
    from embedcal.commands import tracking

    app = typer.Typer()
    app.callback()(lambda: None)
    tracking.register(app)
    out = tmp_path / "my boards"
    words = ["track", str(grid.folder), "--to", "tensorboard", "--out", str(out)]
    done = CliRunner().invoke(app, [*words, "--json"], catch_exceptions=False)
    record = json.loads(done.stdout)
    assert len(record["added"]) == 2
    assert record["look"] == f"tensorboard --logdir '{out}'"
    monkeypatch.setenv("COLUMNS", "60")
    shown = CliRunner().invoke(app, words, catch_exceptions=False).stdout
    assert "0 added, 2 were there; 1 failed and stay out" in " ".join(shown.split())
    assert max(map(len, shown.splitlines())) <= 60
