"""Cores that a process may use: affinity and quotas of made-up machines, and who asks for them."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from embedcal import cores
from embedcal.cores import usable_cores, whole_cores

Groups = Callable[[dict[str, str], str], tuple[Path, Path]]


@pytest.fixture
def groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Groups:
    """Make a tree of control groups and the file that names this process's; 64 cores beside."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)), raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 128)

    def make(files: dict[str, str], member: str) -> tuple[Path, Path]:
        for name, text in files.items():
            path = tmp_path / "cgroup" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        (tmp_path / "member").write_text(member)
        return tmp_path / "cgroup", tmp_path / "member"

    return make


@pytest.mark.parametrize(
    ("files", "member", "found", "whole"),
    [
        ({"cpu.max": "150000 100000\n"}, "0::/\n", 1.5, 1),
        ({"cpu.max": "50000 100000\n"}, "0::/\n", 0.5, 1),
        ({"cpu.max": "390000 100000\n"}, "0::/\n", 3.9, 3),
        ({"cpu.max": "max 100000\n"}, "0::/\n", 64.0, 64),
        ({"cpu.max": "100000 0"}, "0::/\n", 64.0, 64),
        ({"a/b/cpu.max": "max 100000", "a/cpu.max": "300000 100000"}, "0::/a/b\n", 3.0, 3),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, "", 64.0, 64),
        (
            {"cpu/x/cpu.cfs_quota_us": "200000", "cpu/x/cpu.cfs_period_us": "100000"},
            "4:cpu,cpuacct:/x\n",
            2.0,
            2,
        ),
        ({"other/cpu.max": "100000 100000"}, "0::/mine\n", 64.0, 64),
        ({}, "nonsense", 64.0, 64),
    ],
)
def test_cores_are_those_that_a_limit_leaves(
    files: dict[str, str], member: str, found: float, whole: int, groups: Groups
) -> None:
    assert usable_cores(*groups(files, member)) == found
    assert whole_cores(*groups(files, member)) == whole


def test_affinity_counts_too(groups: Groups, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3}, raising=False)
    assert usable_cores(*groups({"cpu.max": "800000 100000"}, "0::/")) == 1
    monkeypatch.delattr(os, "sched_getaffinity")  # as on macOS and Windows
    assert usable_cores(*groups({"cpu.max": "max 100000"}, "0::/")) == 128


def test_everything_that_counts_cores_asks_here(
    groups: Groups, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A quota of three on a host of 128: three threads decode, three processes fit."""
    from embedcal.cache.encoding import worker_count
    from embedcal.doctor.machine import machine
    from embedcal.grids.engines.processes import cores as of_a_grid

    root, member = groups({"cpu.max": "300000 100000"}, "0::/")
    monkeypatch.setattr(cores.usable_cores, "__defaults__", (root, member))
    monkeypatch.setattr(cores.whole_cores, "__defaults__", (root, member))
    assert (worker_count(None), of_a_grid(), machine().cores) == (3, 3, 3.0)
    assert [worker_count(asked) for asked in (0, 1, 20)] == [1, 1, 20]
    monkeypatch.setattr(cores.whole_cores, "__defaults__", groups({"cpu.max": "max 1"}, "0::/"))
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)))
    assert worker_count(None) == 8


def test_nobody_counts_the_cores_of_the_host() -> None:
    """``os.cpu_count`` is told of the machine that the doctor describes, and used for nothing."""
    package = Path(cores.__file__).parent
    asking = {
        path.relative_to(package).as_posix()
        for path in package.rglob("*.py")
        if "cpu_count" in path.read_text(encoding="utf-8")
    }
    assert asking == {"cores.py", "doctor/machine.py"}
