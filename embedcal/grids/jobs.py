"""One run of a grid as a piece of work: claimed, done or failed, never lost, never done twice."""

from __future__ import annotations

import json
import time
import traceback
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from embedcal.evaluate import Rule, rule
from embedcal.fitting import Place, configure, fit_new
from embedcal.grids.results import FAILED
from embedcal.grids.settings import Setting
from embedcal.methods.base import Method
from embedcal.records import identity
from embedcal.runs import NoRoomError, append, claim, listed, load_run, room
from embedcal.types import EmbedcalError
from embedcal.workbench import Workbench

if TYPE_CHECKING:
    from embedcal.environments import Environments

Record = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Site:
    """Where a grid happens, in plain values, so that it can be sent to another process.

    ``environments`` are for a process that shares no folder with the one that inferred them.
    """

    cache: Path
    attributes: tuple[str, ...]  # that make the groups
    folder: Path
    device: str
    select: str
    retry_failed: bool = False
    inferred: Mapping[str, str] = field(default_factory=dict)  # as the workbench had them
    memory: int | None = None  # bytes that the features of a level may take; None: any
    environments: Environments | None = field(default=None, compare=False, repr=False)

    @property
    def rule(self) -> Rule:
        return rule(self.select)

    def place(self, on: Workbench, seed: int, engine: str) -> Place:
        if on.inferred != self.inferred:  # another process read the annotations anew
            raise EmbedcalError(
                f"expected the labels of {', '.join(on.inferred)} as they were when the grid "
                "began, found them annotated again since: give the command of the grid again"
            )
        return Place(
            on=on,
            seed=seed,
            runs=self.folder,
            device=self.device,
            engine=engine,
            environments=self.environments,
        )


@dataclass(frozen=True, kw_only=True)
class Job:
    """One run that was asked for: a setting with its seed, and the method that it resolves to."""

    setting: Setting
    method: Method
    seed: int
    id: str


def plan(
    settings: Iterable[Setting], seeds: Iterable[int], site: Site, on: Workbench
) -> tuple[Job, ...]:
    """Every setting with every seed, in order, each run once.

    A method that draws nothing runs with the first seed only.
    """
    seeds = list(seeds)
    jobs: dict[str, Job] = {}
    for setting in settings:
        method = configure(setting.method, setting.options).resolve(on.offer)
        for seed in seeds if method.random else seeds[:1]:
            name = site.place(on, seed, "").id(method)
            jobs.setdefault(name, Job(setting=setting, method=method, seed=seed, id=name))
    return tuple(jobs.values())


def do(job: Job, site: Site, on: Workbench, engine: str) -> Record | None:
    """Do one run unless it is done; its record, or None where another process is at it."""
    place = site.place(on, job.seed, engine)
    with claim(site.folder / job.id, wait=False) as mine:
        if not mine:
            return None
        began = time.perf_counter()
        try:
            known = found(job, site, on)
            if known is not None:
                return known
            run = fit_new(job.method, site.rule, place)
        except Exception as error:
            return fail(job, site, on, error, time.perf_counter() - began)
        return dict(run.record)


def found(job: Job, site: Site, on: Workbench) -> Record | None:
    """The record of a claimed run that needs no doing: it is there, or has failed before.

    Its line is added where :func:`~embedcal.runs.listed` finds none.
    """
    known = failure(site.folder / job.id)
    if known is None:
        done = site.place(on, job.seed, "").finished(job.method, site.rule)
        known = dict(done.record) if done else None
    elif site.retry_failed:
        return None
    if known is not None and not listed(site.folder, known):
        append(site.folder, known)
    return known


def fail(job: Job, site: Site, on: Workbench, error: Exception, seconds: float) -> Record:
    """Record why a run failed, so that the grid can go on; a full disk ends the grid instead."""
    if isinstance(error, NoRoomError):
        raise error
    mended = isinstance(error, EmbedcalError)
    record = {
        "id": job.id,
        "status": "failed",
        "reason": str(error) if mended else f"{type(error).__name__}: {error}".splitlines()[0],
        **identity(job.method, job.seed, on),
        "seconds": round(seconds, 4),
    }
    trace = "".join(traceback.format_exception(error))
    folder = site.folder / job.id
    told = record if mended else {**record, "traceback": trace}
    if load_run(folder) is not None:  # finished before under another rule, and stays so
        return record
    with room(site.folder):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / FAILED).write_text(json.dumps(told, indent=2) + "\n")
        append(site.folder, record)
    return record


def failure(folder: Path) -> Record | None:
    """The record of a run that failed here before, if it did and has not succeeded since."""
    try:
        found: Record = json.loads((folder / FAILED).read_text())
    except (OSError, ValueError):
        return None
    return {key: value for key, value in found.items() if key != "traceback"}


def stages(jobs: Iterable[Job], on: Workbench, site: Site) -> tuple[Job, ...]:
    """The runs that these start from, each once: to be done first, and shared."""
    found: dict[str, Job] = {}
    for job in jobs:
        stage = job.method.stage
        if stage is None:
            continue
        place = site.place(on, job.seed, "")
        first = place.first(stage)
        setting = Setting(method=stage.method, options=stage.options)
        name = place.id(first)
        found.setdefault(name, Job(setting=setting, method=first, seed=job.seed, id=name))
    return tuple(found.values())


def staged_site(site: Site, job: Job) -> Site:
    """The site under the rule that a job's stage is chosen by."""
    assert job.method.stage is not None
    return replace(site, select=job.method.stage.select)
