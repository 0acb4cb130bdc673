"""kill -9 at random moments, two processes at once, a full disk: the same command finishes it."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from itertools import pairwise
from pathlib import Path
from statistics import median

import pytest
from grids_for_tests import SPECS, count, outcome, run_grid, start, times_done, until

from embedcal.asked import asked_of
from embedcal.grids import load
from embedcal.types import EmbedcalError

RUNS, STAGES = 15, 3  # of SPECS with three seeds


@pytest.fixture(scope="module")
def calm(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The grid as it is when nothing happens to it."""
    folder = tmp_path_factory.mktemp("calm")
    found = run_grid(made, folder, home=str(folder / "home"))
    assert len(found.done) == RUNS
    return folder


@pytest.fixture(scope="module")
def pace(calm: Path) -> float:
    """Seconds from the end of one run to that of the next, on this machine."""
    ends = sorted(path.stat().st_mtime for path in calm.glob("*/run.json"))
    return median(after - before for before, after in pairwise(ends))


def kill_when(child, folder: Path, lines: int, seconds: float) -> None:
    """SIGKILL some time after so many lines, or after the child's end."""
    until(lambda: count(folder) >= lines or not child.is_alive(), what=f"line {lines}")
    time.sleep(seconds)
    if child.is_alive():
        os.kill(child.pid, signal.SIGKILL)
    child.join()


def finished(made: Path, folder: Path, calm: Path, **options) -> None:
    """The same command again ends where the calm one did, each run done once."""
    found = run_grid(made, folder, **options)
    assert len(found.done) == RUNS
    assert outcome(folder) == outcome(calm)
    assert asked_of(folder) == asked_of(calm)
    assert set(times_done(folder).values()) == {1}
    assert len(times_done(folder)) == RUNS + STAGES
    for name in outcome(folder):
        there = sorted(p.relative_to(folder / name) for p in (folder / name).rglob("*"))
        assert there == sorted(p.relative_to(calm / name) for p in (calm / name).rglob("*"))


@pytest.mark.parametrize(
    "seed", [*range(2), *(pytest.param(s, marks=pytest.mark.slow) for s in range(2, 10))]
)
def test_a_grid_killed_again_and_again_ends_as_one_left_alone(
    seed, made, calm, pace, tmp_path
) -> None:
    rng = random.Random(seed)
    folder, kills = tmp_path / "grid", 0
    while count(folder) < RUNS - 3 and kills < 8:
        before = count(folder)
        kill_when(
            start(run_grid, made, folder),
            folder,
            before + rng.randrange(1, 4),
            rng.uniform(0.0, 2 * pace),
        )
        kills += 1
    assert kills > 1
    finished(made, folder, calm)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
def test_processes_killed_with_their_parent_end_as_one_left_alone(seed, made, calm, tmp_path):
    import psutil

    rng = random.Random(seed)
    folder = tmp_path / "grid"
    for lines in (1, 8):
        child = start(run_grid, made, folder, engine="processes", jobs=2)
        until(lambda a=lines, c=child: count(folder) >= a or not c.is_alive(), 120)
        workers = psutil.Process(child.pid).children(recursive=True) if child.is_alive() else []
        kill_when(child, folder, lines, rng.uniform(0.0, 0.2))
        until(lambda: not any(alive(w) for w in workers), 20, "the workers' end")  # noqa: B023
    finished(made, folder, calm)


def alive(process) -> bool:
    import psutil

    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.mark.parametrize("moment", ["folder", "line", "claim", "stage"])
def test_a_kill_between_a_runs_steps_is_survived(moment, made, calm, tmp_path) -> None:
    """At the worst moments, not at random ones: before the rename, before the line, before both,
    and before the line of a run that only another one starts from."""
    folder = tmp_path / "grid"
    child = start(killed_at, made, folder, moment)
    child.join()
    assert child.exitcode == -signal.SIGKILL
    finished(made, folder, calm)


def killed_at(cache: Path, folder: Path, moment: str, home: str) -> None:
    from embedcal import runs
    from embedcal.grids import jobs

    def die(*args, **kwargs):
        if moment == "stage":
            worst = args[1]["method"] == "erm" and args[1]["options"]["epochs"] == 1
        else:
            worst = count(folder) >= 4
        if worst:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*args, **kwargs)

    home_of = {
        "folder": (runs, "_write_json"),
        "line": (runs, "append"),
        "stage": (runs, "append"),
        "claim": (jobs, "fit_new"),
    }
    module, name = home_of[moment]
    real = getattr(module, name)
    setattr(module, name, die)
    run_grid(cache, folder, home=home)


@pytest.mark.parametrize("engines", [("sequential", "sequential"), ("sequential", "batched")])
def test_two_processes_on_one_grid_do_each_run_once(engines, made, calm, tmp_path) -> None:
    folder = tmp_path / "grid"
    children = [start(run_grid, made, folder, engine=engine) for engine in engines]
    for child in children:
        child.join()
        assert child.exitcode == 0
    done = times_done(folder)
    assert len(done) == RUNS + STAGES
    assert set(done.values()) == {1}
    if "batched" not in engines:
        assert outcome(folder) == outcome(calm)
    assert set(outcome(folder)) == set(outcome(calm))
    assert asked_of(folder) == asked_of(calm)


def test_a_second_process_waits_for_what_the_first_holds(made, tmp_path, calm) -> None:
    """It ends with every record, also of those that it did not do."""
    from embedcal.runs import claim

    folder = tmp_path / "grid"
    held = [*asked_of(calm)][4]
    with claim(folder / held, wait=True):
        child = start(run_grid, made, folder)
        until(lambda: count(folder) >= RUNS + STAGES - 1)
        time.sleep(0.5)
        assert child.is_alive()
        assert held not in load(folder).records
    child.join()
    assert child.exitcode == 0
    assert outcome(folder) == outcome(calm)


@pytest.fixture
def small_disk(tmp_path: Path):
    """A file system of one MiB that is really full when it is full."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    made = subprocess.run(mount, capture_output=True, text=True, check=False)
    if made.returncode:
        pytest.skip(f"mounting a small file system needs root: {made.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def ballast(disk: Path, leaving: int) -> None:
    free = os.statvfs(disk)
    (disk / "ballast").write_bytes(bytes(free.f_bavail * free.f_bsize - leaving))


@pytest.mark.parametrize("leaving", [0, 4 << 10, 60 << 10, 150 << 10, 250 << 10])
@pytest.mark.parametrize("engine", ["sequential", "batched"])
def test_a_full_disk_is_one_line_and_room_is_all_it_needs(
    engine, leaving, made, calm, tmp_path, small_disk
) -> None:
    folder = small_disk / "grid"
    ballast(small_disk, leaving)
    with pytest.raises(EmbedcalError, match=r"No space left on device.*make room") as caught:
        run_grid(made, folder, engine=engine)
    assert "\n" not in str(caught.value)
    assert not (folder / "results.jsonl").exists() or not [
        r for r in load(folder).records.values() if r["status"] == "failed"
    ]
    subprocess.run(["mount", "-o", "remount,size=16m", str(small_disk)], check=True)
    found = run_grid(made, folder, engine=engine)
    assert len(found.done) == RUNS
    assert set(outcome(folder)) == set(outcome(calm))
    if engine == "sequential":
        assert outcome(folder) == outcome(calm)
    assert not [
        path for path in folder.iterdir() if path.name.startswith(".") and path.name != ".claims"
    ]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder_is_one_line(made, tmp_path) -> None:
    (tmp_path / "closed").mkdir(mode=0o555)
    with pytest.raises(EmbedcalError, match="Permission denied") as caught:
        run_grid(made, tmp_path / "closed" / "grid", SPECS[:1])
    assert "\n" not in str(caught.value)
