"""How the runs of a grid are done: one after another, in processes, stacked, or on a cluster."""

from __future__ import annotations

from collections.abc import Sequence

from embedcal.errors import did_you_mean
from embedcal.grids.engines import batched, processes, sequential
from embedcal.grids.engines.base import Report
from embedcal.grids.jobs import Job, Site
from embedcal.types import EmbedcalError
from embedcal.workbench import Workbench

ENGINES = ("auto", "sequential", "processes", "batched", "ray")
ALONE = 3.0  # seconds of runs one by one before more processes are worth their start


def check_engine(name: str, device: str) -> None:
    """EmbedcalError for a name that is no engine's, or a device that it cannot use."""
    from embedcal.heads import torch_device

    if name not in ENGINES:
        raise EmbedcalError(
            f"expected --engine to be one of {', '.join(ENGINES)}, found '{name}': "
            + did_you_mean(name, ENGINES, "auto chooses one")
        )
    if name == "ray" and device not in ("auto", "cpu"):
        raise EmbedcalError(
            f"expected --device cpu with --engine ray, found '{device}': it spreads runs over "
            "cores; use --engine batched for an accelerator"
        )
    torch_device(device)


def work(
    engine: str,
    jobs: Sequence[Job],
    site: Site,
    on: Workbench,
    report: Report,
    *,
    workers: int | None = None,
) -> None:
    """Do the jobs with an engine; ``auto`` chooses by device and work.

    On an accelerator runs are stacked. On a CPU stacks lose, since weights fall out of its caches:
    only solvers that stack are stacked there; others run one by one for a few seconds and then,
    if there is as much left, one for each core.
    """
    from embedcal.heads import torch_device

    if engine == "sequential":
        sequential.run(jobs, site, on, report)
    elif engine == "processes":
        processes.run(jobs, site, on, report, workers=workers)
    elif engine == "batched":
        batched.run(jobs, site, on, report)
    elif engine == "ray":
        from embedcal.grids.engines import ray

        _check_shared(jobs, site, on)
        ray.run(jobs, site, on, report, workers=workers)
    elif torch_device(site.device) != "cpu":
        batched.run(jobs, site, on, report)
    else:
        _on_cpu(jobs, site, on, report, workers)


def _on_cpu(
    jobs: Sequence[Job], site: Site, on: Workbench, report: Report, workers: int | None
) -> None:
    from embedcal.methods.base import Solver

    stacks = [
        job for job in jobs if isinstance(job.method, Solver) and job.method.stack_key is not None
    ]
    batched.run(stacks, site, on, report)
    stacked = {job.id for job in stacks}
    others = [job for job in jobs if job.id not in stacked]
    wanted = workers or processes.cores()
    left = sequential.run(others, site, on, report, seconds=ALONE if wanted > 1 else float("inf"))
    enough = max(2, len(others) - len(left))  # as much work as has been done in these seconds
    if len(left) >= enough:
        processes.run(left, site, on, report, workers=workers)
    else:
        sequential.run(left, site, on, report)


def _check_shared(jobs: Sequence[Job], site: Site, on: Workbench) -> None:
    """EmbedcalError where features stay in a file, which other machines may not have."""
    methods = [job.method for job in jobs]
    firsts = [site.place(on, 0, "").first(m.stage) for m in methods if m.stage is not None]
    for level in {method.level for method in (*methods, *firsts) if on.streams(method.level)}:
        raise EmbedcalError(
            f"expected {level} features that fit into memory for --engine ray, which sends them to "
            "every node, found more than the limit: raise --memory, or use --engine processes"
        )
