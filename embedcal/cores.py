"""How many cores this process may use: fewer than the host has, on a cluster or in a container."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from embedcal.errors import EmbedcalError

CGROUPS = Path("/sys/fs/cgroup")
MEMBER = Path("/proc/self/cgroup")


def usable_cores(root: Path = CGROUPS, member: Path = MEMBER) -> float:
    """Cores left by affinity and by the quotas of this process's control groups.

    A quota may be a core and a half; without one it is the number of cores that affinity allows.
    """
    own = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    found = [float(own or 1)]
    for group in control_groups(root, member, "cpu"):
        with suppress(OSError, ValueError, IndexError, ZeroDivisionError):
            quota, period = (group / "cpu.max").read_text().split()[:2]
            if quota != "max":
                found.append(int(quota) / int(period))
        with suppress(OSError, ValueError, ZeroDivisionError):  # version 1
            of = int((group / "cpu.cfs_quota_us").read_text())
            if of > 0:
                found.append(of / int((group / "cpu.cfs_period_us").read_text()))
    return min(found)


def whole_cores(root: Path = CGROUPS, member: Path = MEMBER) -> int:
    """So many busy processes the cores hold, at least one; one and a half hold one.

    A process beyond a quota is not slowed alone: the system halts all of them for a while.
    """
    return max(1, int(usable_cores(root, member)))


def check_jobs(jobs: int | None) -> None:
    """EmbedcalError for a number of processes at once that is below 1; None: one for each core."""
    if jobs is not None and jobs < 1:
        raise EmbedcalError(
            f"expected --jobs of 1 or more, found {jobs}: leave it out for one on each core"
        )


def control_groups(root: Path, member: Path, kind: str) -> Iterator[Path]:
    """The folders of this process's control group and of all above it, of versions 1 and 2."""
    places = {root, root / kind}
    with suppress(OSError, ValueError):
        for line in member.read_text().splitlines():
            _, kinds, path = line.split(":", 2)
            base = root / kind if kind in kinds.split(",") else root
            if kind in kinds.split(",") or not kinds:
                here = base / path.lstrip("/")
                places |= {here, *(above for above in here.parents if base in above.parents)}
    yield from places
