"""One single-threaded process for each core; features are mapped by all, copied by none."""

from __future__ import annotations

import os
import signal
import tempfile
import threading
import time
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

from embedcal.cores import whole_cores
from embedcal.grids.engines.base import Report
from embedcal.grids.jobs import Job, Record, Site, do, plan
from embedcal.grids.settings import Setting
from embedcal.sharing import gather, levels_of, mapped, workbench, write
from embedcal.types import EmbedcalError
from embedcal.workbench import Workbench

DEATHS = 3  # of a worker over one job, after which the job is to blame


def cores() -> int:
    """Cores that this process may use, by affinity and by quota."""
    return whole_cores()


def run(
    jobs: Sequence[Job], site: Site, on: Workbench, report: Report, *, workers: int | None = None
) -> None:
    """Do the jobs in ``workers`` processes, by default one for each core.

    A worker that dies takes its run with it; the run is begun again, and after three deaths it
    ends the grid, since the machine is out of memory or the run is not to be had.
    """
    methods = [job.method for job in jobs]
    firsts = [site.place(on, 0, "").first(m.stage) for m in methods if m.stage is not None]
    with tempfile.TemporaryDirectory(prefix="embedcal-") as folder:
        write(gather(on, levels_of([*methods, *firsts], on)), Path(folder))
        count = min(workers or cores(), len(jobs))
        left, deaths = {job.id: job for job in jobs}, 0
        while left:
            before = len(left)
            try:
                _pool(left, site, Path(folder), count, report)
            except BrokenProcessPool:
                deaths = deaths + 1 if len(left) == before else 1
                if deaths >= DEATHS:
                    raise EmbedcalError(
                        f"expected a worker to finish a run, found {DEATHS} killed one after "
                        "another: memory may be short; give --jobs 1, or --engine sequential"
                    ) from None


def _pool(left: dict[str, Job], site: Site, folder: Path, count: int, report: Report) -> None:
    """One pool of workers until nothing is left or one of them dies."""
    from loky import ProcessPoolExecutor

    # Set before a worker imports torch; one thread each, whatever the work.
    environment = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    pool = ProcessPoolExecutor(
        max_workers=count,
        initializer=_begin,
        initargs=(site, str(folder), os.getpid()),
        env=environment,
    )
    try:
        waiting = {pool.submit(_work, job.setting, job.seed): job for job in left.values()}
        while waiting:
            report.started(min(count, len(waiting)))
            ended, _ = wait(waiting, timeout=1.0, return_when=FIRST_COMPLETED)
            for future in ended:
                job = waiting.pop(future)
                record = future.result()
                del left[job.id]
                report.ended(job, record)
    finally:
        pool.shutdown(wait=True, kill_workers=True)


# What a worker holds between its runs: set once by ``_begin``, in a process of its own.
_worker: dict[str, Any] = {}


def _begin(site: Site, folder: str, parent: int) -> None:
    import torch

    from embedcal.cache import open_cache

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the grid, which ends its workers
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    torch.set_num_threads(1)
    cache = open_cache(site.cache)
    on = workbench(cache, site.attributes, mapped(Path(folder)), site.memory)
    _worker["site"], _worker["on"] = site, on


def _end_with(parent: int) -> None:
    """End this worker when the grid's process is gone, however it went."""
    while os.getppid() == parent:
        time.sleep(1.0)
    os._exit(1)


def _work(setting: Setting, seed: int) -> Record | None:
    site, on = _worker["site"], _worker["on"]
    (job,) = plan([setting], [seed], site, on)
    return do(job, site, on, "processes")
