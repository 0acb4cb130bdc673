"""Workers of the processes engine: they share the features, die with the grid, may die alone."""

from __future__ import annotations

import os
import re
import signal
import threading
import time
from pathlib import Path

import psutil
import pytest
from grids_for_tests import make_cache, outcome, run_grid, start, times_done, until

from embedcal.grids import grid
from embedcal.types import EmbedcalError

pytestmark = pytest.mark.slow
LONG = ["erm:lr=1e-3,1e-2:epochs=40:batch_size=8"]


def workers(process: psutil.Process | None = None) -> list[psutil.Process]:
    """Processes below this one that run loky's workers."""
    found = []
    for child in (process or psutil.Process()).children(recursive=True):
        try:
            if "popen_loky_posix" in " ".join(child.cmdline()):
                found.append(child)
        except (psutil.NoSuchProcess, psutil.ZombieProcess):
            continue
    return found


class Killer(threading.Thread):
    """Kills the first ``deaths`` workers that appear, some time after they began to work."""

    def __init__(self, deaths: int, after: float) -> None:
        super().__init__(daemon=True)
        self.deaths, self.after, self.killed = deaths, after, 0
        self.over = threading.Event()

    def run(self) -> None:
        while self.killed < self.deaths and not self.over.wait(0.02):
            for worker in workers():
                if worker.cpu_times().user > self.after:
                    worker.kill()
                    self.killed += 1
                    break


def test_a_worker_that_is_killed_costs_nothing(made: Path, tmp_path: Path) -> None:
    run_grid(made, tmp_path / "calm", LONG)
    killer = Killer(1, 1.0)
    killer.start()
    found = run_grid(made, tmp_path / "grid", LONG, engine="processes", jobs=2)
    killer.over.set()
    assert killer.killed == 1
    assert len(found.done) == 6
    assert outcome(tmp_path / "grid") == outcome(tmp_path / "calm")
    assert set(times_done(tmp_path / "grid").values()) == {1}
    assert not workers()


def test_workers_that_always_die_end_the_grid_in_one_line(made, tmp_path) -> None:
    killer = Killer(100, 0.0)
    killer.start()
    with pytest.raises(EmbedcalError, match=r"killed one after another.*--jobs 1") as caught:
        run_grid(made, tmp_path, LONG, engine="processes", jobs=1)
    killer.over.set()
    assert "\n" not in str(caught.value)


def test_no_worker_outlives_a_grid_that_is_killed(made: Path, tmp_path: Path) -> None:
    child = start(run_grid, made, tmp_path, LONG, engine="processes", jobs=2)
    until(lambda: len(workers(psutil.Process(child.pid))) == 2, 60, "two workers")
    time.sleep(2)
    left = workers(psutil.Process(child.pid))
    os.kill(child.pid, signal.SIGKILL)
    child.join()
    until(lambda: not any(map(psutil.pid_exists, [w.pid for w in left])), 10, "the workers' end")


def test_ctrl_c_ends_workers_and_the_same_command_goes_on(made: Path, tmp_path: Path) -> None:
    child = start(run_grid, made, tmp_path, LONG, engine="processes", jobs=2)
    until(lambda: (tmp_path / "results.jsonl").exists(), 60)
    left = workers(psutil.Process(child.pid))
    for process in [*left, psutil.Process(child.pid)]:  # as a terminal sends it, to the group
        process.send_signal(signal.SIGINT)
    child.join(20)
    assert child.exitcode not in (None, 0)
    until(lambda: not any(map(psutil.pid_exists, [w.pid for w in left])), 10, "the workers' end")
    assert len(run_grid(made, tmp_path, LONG).done) == 6
    assert set(times_done(tmp_path).values()) == {1}


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="needs Linux")
def test_features_are_mapped_by_all_and_copied_by_none(tmp_path: Path) -> None:
    """64 MiB of features: the memory that is a worker's own grows by far less."""
    wide = make_cache(tmp_path / "wide.h5", rows=3 * 1024, width=5462)
    narrow = make_cache(tmp_path / "narrow.h5", rows=240)
    private = {}
    for path in (narrow, wide):
        most, over = [0], threading.Event()

        def look(most=most, over=over) -> None:
            while not over.wait(0.05):
                for worker in workers():
                    try:
                        maps = Path(f"/proc/{worker.pid}/smaps_rollup").read_text()
                    except OSError:
                        continue
                    own = re.search(r"^Anonymous: +(\d+) kB", maps, re.MULTILINE)
                    most[0] = max(most[0], int(own[1]) << 10 if own else 0)

        watcher = threading.Thread(target=look)
        watcher.start()
        from embedcal.cache import open_cache

        with open_cache(path) as cache:
            found = grid(
                ["erm:epochs=2"],
                cache,
                out=tmp_path / path.stem,
                seeds=3,
                engine="processes",
                jobs=2,
            )
        over.set()
        watcher.join()
        assert len(found.done) == 3
        private[path.stem] = most[0]
    assert private["narrow"] > 50 << 20  # torch: the look was not too late
    # A split of 21 MiB is read, mapped and shared; heads and batches of this width are small.
    assert private["wide"] - private["narrow"] < 30 << 20, private
