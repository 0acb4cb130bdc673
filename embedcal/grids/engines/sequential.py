"""One run after another in this process."""

from __future__ import annotations

import time
from collections.abc import Sequence

from embedcal.grids.engines.base import Report
from embedcal.grids.jobs import Job, Site, do
from embedcal.workbench import Workbench


def run(
    jobs: Sequence[Job],
    site: Site,
    on: Workbench,
    report: Report,
    *,
    seconds: float = float("inf"),
) -> Sequence[Job]:
    """Do the jobs in order until the time is up; returns those that are left."""
    began = time.perf_counter()
    for done, job in enumerate(jobs):
        if time.perf_counter() - began > seconds:
            return jobs[done:]
        report.started(1)
        report.ended(job, do(job, site, on, "sequential"))
    return ()
