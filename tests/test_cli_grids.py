"""Grids, comparison, studies and recipes as a person and a script use them: real processes."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

EMBEDCAL = [sys.executable, "-m", "embedcal"]
ENVIRONMENT = {**os.environ, "COLUMNS": "80", "NO_COLOR": "1"}
GRID = ("grid", "erm:epochs=1:lr=1e-3,3e-3", "zeroshot", "--seeds", "2")


@pytest.fixture
def home(own_home: Path, birds: Path) -> Path:
    """A home whose only cache is that of the birds."""
    (own_home / "caches").mkdir()
    shutil.copy(birds, own_home / "caches" / birds.name)
    return own_home


def run(*words: str, status: int = 0) -> subprocess.CompletedProcess[str]:
    environment = {**ENVIRONMENT, "EMBEDCAL_HOME": os.environ["EMBEDCAL_HOME"]}
    done = subprocess.run(
        [*EMBEDCAL, *words], capture_output=True, text=True, timeout=240, env=environment
    )
    assert done.returncode == status, done.stderr
    return done


def answer(*words: str, status: int = 0) -> Any:
    return json.loads(run(*words, "--json", status=status).stdout)


def test_a_grid_is_resumed_compared_and_taken_apart(home: Path) -> None:
    first = answer(*GRID)
    assert [first[key] for key in ("runs", "done", "failed", "reused")] == [5, 5, 0, 0]
    assert answer(*GRID)["reused"] == 5
    more = answer(*GRID[:-1], "3")
    assert more["folder"] == first["folder"]
    assert (more["runs"], more["reused"]) == (7, 5)
    compared = answer("compare")  # the grid used last
    (block,) = compared["blocks"]
    rows = {row["label"]: row for row in block["rows"]}
    assert set(rows) == {"erm", "zeroshot"}
    assert rows["erm"]["configurations"] == 2
    assert rows["erm"]["seeds"] == [0, 1, 2]
    text = run("compare").stdout
    tables = [line for line in text.splitlines() if not line.startswith(("-", "note", "erm"))]
    assert max(map(len, tables)) <= 80
    assert "toprule" in run("compare", "--latex").stdout
    assert "| erm |" in run("compare", "--markdown").stdout
    figure = home / "figure.svg"
    run("compare", first["folder"], "--plot", str(figure))
    assert figure.read_text().lstrip().startswith("<?xml")
    (effects,) = answer("sensitivity", "--method", "erm")["methods"]
    assert [effect["option"] for effect in effects["options"]] == ["lr"]
    merged = answer("merge", first["folder"], "--out", str(home / "all"))
    assert (merged["copied"], merged["there"]) == (7, 0)
    assert answer("merge", first["folder"], "--out", str(home / "all"))["there"] == 7


def test_failed_runs_are_rows_and_the_grid_ends_with_status_3(home: Path) -> None:
    words = ("grid", "erm:epochs=2:optimizer=sgd:lr=1e-3,1e9", "--seeds", "1", "--out", "runs")
    os.chdir(home)
    found = answer(*words, status=3)
    assert (found["done"], found["failed"]) == (1, 1)
    assert "1 run failed" in run(*words, status=3).stdout


def test_a_file_of_runs_with_its_seeds(home: Path) -> None:
    file = home / "grid.toml"
    file.write_text('seeds = [3, 4]\n[[runs]]\nmethod = "erm"\nepochs = 1\nlr = [1e-3, 3e-3]\n')
    found = answer("grid", "--file", str(file))
    assert sorted(record["seed"] for record in found["records"]) == [3, 3, 4, 4]
    found = answer("grid", "--file", str(file), "--seeds", "3,7")
    assert sorted(record["seed"] for record in found["records"]) == [3, 3, 7, 7]
    file.write_text('[[runs]]\nmethod = "erm"\nepochs = 1\n')
    found = answer("grid", "--file", str(file))
    assert sorted(record["seed"] for record in found["records"]) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["grid"], "at least one method"),
        (["grid", "ermm"], "did you mean"),
        (["grid", "erm:lrr=1"], "did you mean lr"),
        (["grid", "erm:lr=fast"], "lr of erm to be a number, found 'fast'"),
        (["grid", "erm:lr"], "METHOD:OPTION=VALUE"),
        (["grid", "erm:lr=1e-4..1e-2"], "--budget"),
        (["grid", "erm", "--seeds", "some"], "--seeds"),
        (["grid", "erm", "--engine", "fast"], "--engine"),
        (["grid", "erm", "--search", "grid"], "--search"),
        (["grid", "erm", "--file", "none.toml"], "none.toml"),
        (["grid", "erm", "--select", "oracle.worst_group"], "--oracle"),
        (["compare", "nowhere"], "nowhere"),
        (
            ["compare", "some/where"],
            "folder of runs, found nothing at some/where",
        ),
        (["compare"], "folder of runs"),
        (["sensitivity"], "folder of runs"),
        (["merge", "nowhere", "--out", "all"], "nowhere"),
        (["study", "cfr-samplin"], "cfr-sampling"),
        (["reproduce", "yang2023-table1"], "did you mean yang2023-table"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_gets_one_line_and_status_2(home: Path, words: list[str], expected: str) -> None:
    done = run(*words, status=2)
    lines = [line for line in done.stderr.splitlines() if line.startswith("embedcal:")]
    assert len(lines) == 1
    assert expected in lines[0]
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_ctrl_c_ends_with_the_line_that_goes_on(home: Path) -> None:
    rates = ",".join(f"{1e-3 * 1.01**k:.6g}" for k in range(60))
    words = ("grid", f"erm:epochs=10:lr={rates}", "--seeds", "1", "--out", str(home / "runs"))
    environment = {**ENVIRONMENT, "EMBEDCAL_HOME": str(home)}
    child = subprocess.Popen(
        [*EMBEDCAL, *words, "--jobs", "2"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment,
        start_new_session=True,
        # A suite that a shell runs in its background ignores SIGINT, and so would a child of it.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    results = home / "runs" / "results.jsonl"
    deadline = time.monotonic() + 120
    while not results.exists() or len(results.read_bytes().splitlines()) < 3:
        assert time.monotonic() < deadline
        assert child.poll() is None, child.stderr.read() if child.stderr else ""
        time.sleep(0.05)
    os.killpg(child.pid, signal.SIGINT)
    _, told = child.communicate(timeout=60)
    assert child.returncode == 130
    assert "To go on: embedcal grid" in told.replace("\n", " ")
    assert "Traceback" not in told
    kept = len(results.read_bytes().splitlines())
    found = answer(*words)
    assert found["done"] == 60
    assert found["reused"] >= kept


@pytest.mark.parametrize("name", ["grid", "compare", "sensitivity", "study", "reproduce", "merge"])
def test_help_loads_no_torch(home: Path, name: str) -> None:
    code = (
        "import sys; sys.argv = ['embedcal', *sys.argv[1:]]\n"
        "from embedcal.cli import main\n"
        "try: main()\n"
        "except SystemExit as end: status = end.code or 0\n"
        "heavy = {'torch', 'open_clip', 'sklearn', 'faiss', 'matplotlib', 'pandas'}\n"
        "print(sorted(heavy & set(sys.modules)), status, file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, name, "--help"], capture_output=True, text=True, timeout=60
    )
    assert done.stderr.splitlines()[-1] == "[] 0"
