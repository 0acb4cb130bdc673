"""Runs of one shape as one stacked program: for accelerators, and for solvers that stack."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Hashable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING

from embedcal.fitting import environments_of, finish, task_of
from embedcal.grids.engines.base import Report
from embedcal.grids.jobs import Job, Site, do, fail, found, staged_site, stages
from embedcal.methods.base import Gradient, Solver
from embedcal.records import Fitted
from embedcal.runs import claim
from embedcal.workbench import Workbench

if TYPE_CHECKING:
    from embedcal.environments import Environments
    from embedcal.heads import Head
    from embedcal.keep import Keeper
    from embedcal.stacked import Member
    from embedcal.types import EmbedcalError

MOST = 256  # runs of one stack, however little memory each takes


def run(jobs: Sequence[Job], site: Site, on: Workbench, report: Report) -> None:
    """Do the jobs in bundles of equal shape, the runs that they start from first."""
    for bundle in bundles(jobs):
        if len(bundle) == 1 and not isinstance(bundle[0].method, Gradient):
            report.started(1)
            report.ended(bundle[0], do(bundle[0], site, on, "batched"))
            continue
        firsts = stages(bundle, on, site)
        if firsts:
            run(firsts, staged_site(site, bundle[0]), on, Quiet())
        size = _largest(bundle, site, on)
        for start in range(0, len(bundle), size):
            _stack(bundle[start : start + size], site, on, report)


class Quiet:
    """For runs that nobody asked for."""

    def started(self, running: int) -> None: ...

    def ended(self, job: Job, record: object) -> None: ...


def bundles(jobs: Sequence[Job]) -> list[list[Job]]:
    """Jobs that may be stacked, together; in the order of each bundle's first."""
    found: dict[Hashable, list[Job]] = defaultdict(list)
    for job in jobs:
        key = key_of(job)
        found[job.id if key is None else key].append(job)
    return list(found.values())


def key_of(job: Job) -> Hashable | None:
    """Equal for jobs that may be stacked; None for one that runs alone."""
    from embedcal.stacked import bundle_key

    method = job.method
    if isinstance(method, Gradient):
        return bundle_key(method)
    assert isinstance(method, Solver)
    key = method.stack_key
    return None if key is None else (type(method), key)


def _largest(bundle: Sequence[Job], site: Site, on: Workbench) -> int:
    """How many runs of this shape fit into what memory is free."""
    from embedcal.heads import torch_device
    from embedcal.stacked import free_memory, largest_stack

    first = bundle[0]
    if not isinstance(first.method, Gradient) or len(bundle) == 1:
        return MOST
    device = torch_device(site.device)
    try:
        task = task_of(first.method, site.place(on, first.seed, "batched"))
        return min(MOST, largest_stack(first.method, task, free=free_memory(device)))
    except Exception:
        # Not lost: what cannot start fails again in `_fit`, which halves the stack until each run
        # has its own reason; what does not fit into memory is halved there too.
        return MOST


def _stack(jobs: Sequence[Job], site: Site, on: Workbench, report: Report) -> None:
    """Claim, do and store as many of these jobs as no other process has."""
    with ExitStack() as claims:
        mine = []
        for job in jobs:
            if not claims.enter_context(claim(site.folder / job.id, wait=False)):
                report.ended(job, None)
                continue
            known = found(job, site, on)
            if known is not None:
                report.ended(job, known)
            else:
                mine.append(job)
        if mine:
            report.started(len(mine))
            _fit(mine, site, on, report)


def _fit(jobs: Sequence[Job], site: Site, on: Workbench, report: Report) -> None:
    """Fit claimed jobs together. A stack that fails as a whole is halved until the cause is alone.

    So one run that cannot be had, or too many for the memory, costs no other its result.
    """
    began = time.perf_counter()
    together = _solve if isinstance(jobs[0].method, Solver) else _train
    found = None
    try:
        found = together(jobs, site, on)
    except Exception as error:
        if len(jobs) == 1:
            report.ended(jobs[0], fail(jobs[0], site, on, error, time.perf_counter() - began))
            return
    if found is None:  # only here, where the error and with it the stack's memory is gone
        half = len(jobs) // 2
        _fit(jobs[:half], site, on, report)
        _fit(jobs[half:], site, on, report)
        return
    seconds = (time.perf_counter() - began) / len(jobs)
    for job, fitted in zip(jobs, found, strict=True):
        try:
            if isinstance(fitted, Exception):
                raise fitted
            place = site.place(on, job.seed, "batched")
            run = finish(job.method, site.rule, place, replace(fitted, seconds=seconds))
            report.ended(job, dict(run.record))
        except Exception as error:
            report.ended(job, fail(job, site, on, error, seconds))


def _solve(jobs: Sequence[Job], site: Site, on: Workbench) -> list[Fitted | EmbedcalError]:
    from embedcal.keep import Kept

    cls = type(jobs[0].method)
    assert issubclass(cls, Solver)
    task = on.task(jobs[0].method)
    methods = [job.method for job in jobs if isinstance(job.method, cls)]
    heads: list[Head] = cls.solve_stack(methods, task, [job.seed for job in jobs])
    environments = environments_of([site.rule], site.place(on, jobs[0].seed, "batched"))
    return [
        Fitted(
            best={method.selection: Kept(epoch=0, score=0.0, head=head)},
            curve=[],
            seconds=0.0,
            engine="batched",
            marks=method.marks(task),
            environments=environments,
        )
        for method, head in zip(methods, heads, strict=True)
    ]


def _train(jobs: Sequence[Job], site: Site, on: Workbench) -> list[Fitted | EmbedcalError]:
    from embedcal.heads import torch_device
    from embedcal.keep import Keeper
    from embedcal.stacked import Member, train_stack

    device = torch_device(site.device)
    shared = on.task(jobs[0].method)  # one train split for all; only what a stage found differs
    keepers, members = [], []
    inferred: Environments | None = None  # the same for all that ask for them
    for job in jobs:
        method, place = job.method, site.place(on, job.seed, "batched")
        assert isinstance(method, Gradient)
        task = shared
        if method.stage is not None:
            task = replace(shared, stage=task_of(method, place).stage)
        rules = place.rules(method, site.rule)
        asked = any(rule.environments for rule in rules)
        inferred = inferred or environments_of(rules, place)
        keeper = Keeper(on, method.level, rules, device, inferred if asked else None)
        keepers.append(keeper)
        members.append(Member(method=method, task=task, seed=job.seed, watch=keeper))
    ends = train_stack(members, device=device)
    return [
        end if isinstance(end, Exception) else _fitted(member, keeper)
        for end, member, keeper in zip(ends, members, keepers, strict=True)
    ]


def _fitted(member: Member, keeper: Keeper) -> Fitted:
    return Fitted(
        best=keeper.best,
        curve=keeper.curve,
        seconds=0.0,
        engine="batched",
        marks=member.method.marks(member.task),
        environments=keeper.environments,
    )
