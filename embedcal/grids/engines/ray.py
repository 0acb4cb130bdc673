"""The same grid on a Ray cluster: features once on each node, finished runs back as bytes.

Nothing needs a shared file system but tokens, which stay in the cache's file. What a run reads of
a cache beside its features (text, projection, names) is a few megabytes and sent as values; so is
the folder of a run that others start from. Environments that a rule judges by are inferred here,
once, and sent. Each run is a task of one core and one thread; its
folder is made in a temporary one of its node and stored whole by this process, which alone holds
claims, and only for what is under way.
"""

from __future__ import annotations

import copy
import os
import platform
import tempfile
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from embedcal import __version__
from embedcal.cache import CacheMeta, FeatureCache, open_cache
from embedcal.fitting import environments_of
from embedcal.grids.engines.base import Report
from embedcal.grids.engines.cluster import cluster as cluster
from embedcal.grids.engines.parcels import Files, pack, unpack
from embedcal.grids.jobs import Job, Record, Site, do, fail, found, plan, staged_site, stages
from embedcal.grids.settings import Setting
from embedcal.runs import append, claim
from embedcal.scored import log
from embedcal.sharing import Shared, gather, levels_of, workbench
from embedcal.types import (
    SPLITS,
    EmbedcalError,
    FloatArray,
    IntArray,
    Level,
    Projection,
    Split,
    TextBank,
)
from embedcal.workbench import Workbench

if TYPE_CHECKING:
    from embedcal.environments import Environments

AHEAD = 2  # runs sent for each core of a cluster: while one is done, the next is on its way
RETRIES = 3  # after a worker or its node died; then the run is to blame
POLL = 0.3  # seconds between looks at a stage that another process is doing


@dataclass(frozen=True, kw_only=True)
class Known:
    """What a run reads of a cache beside its features, as values that can be sent to a node."""

    meta: CacheMeta
    texts: Mapping[str, TextBank]
    weights: Projection | None
    values: int  # of the attributes that make the groups, or of their product
    grouped: tuple[Split, ...]  # splits with a row that is in a group
    logit_scale: float | None
    inferred: Mapping[str, str]  # attributes that the file lacks, in ``meta`` all the same
    prompts: Mapping[str, TextBank]

    @property
    def fingerprint(self) -> str:
        return self.meta.fingerprint

    @property
    def n_classes(self) -> int:
        return len(self.meta.classes)

    @property
    def banks(self) -> tuple[str, ...]:
        return tuple(self.texts)

    def n_attributes(self, attribute: str | Sequence[str] | None = None) -> int:
        return self.values

    def has_groups(self, name: Split, attribute: str | Sequence[str] | None = None) -> bool:
        return name in self.grouped

    # Copies, as a file gives them: heads start from these arrays, and Ray's are everyone's.

    def text(self, bank: str) -> TextBank:
        return copy.deepcopy(self.texts[bank])

    def projection(self) -> Projection | None:
        return copy.deepcopy(self.weights)

    def take(self, level: Level, rows: IntArray) -> FloatArray:
        """Tokens (n, L, M) of some rows, from the file, which must lie on the node for it."""
        path = self.meta.path
        if not path.is_file():
            raise EmbedcalError(
                f"expected the cache with its tokens at {path} on {platform.node()}, found none: "
                "put it on a file system that every node has, and give --retry-failed"
            )
        with open_cache(path) as cache:
            if cache.fingerprint != self.fingerprint:
                raise EmbedcalError(
                    f"expected the same cache at {path} on every node, found another on "
                    f"{platform.node()}: copy it there, and give --retry-failed"
                )
            return cache.take(level, rows)


def known_of(on: Workbench) -> Known:
    """The facts, text and projection of a cache."""
    cache = on.cache
    return Known(
        meta=cache.meta,
        texts={bank: cache.text(bank) for bank in cache.banks},
        weights=cache.projection(),
        values=on.n_attributes,
        logit_scale=cache.logit_scale,
        inferred=cache.inferred,
        prompts=cache.prompts,
        grouped=tuple(split for split in SPLITS if on.has_groups(split)),
    )


@dataclass(frozen=True, kw_only=True)
class Order:
    """One run as it is sent: what to do, and the text of a method that is a user's own file.

    ``before`` is the folder of the same run where it is done, but kept nothing under the rule.
    """

    setting: Setting
    seed: int
    site: Site
    source: bytes = b""
    before: Files = field(default_factory=dict)
    version: str = __version__


def run(
    jobs: Sequence[Job], site: Site, on: Workbench, report: Report, *, workers: int | None = None
) -> None:
    """Do the jobs on the cluster of ``RAY_ADDRESS`` or ``ray start``, else on one of their own.

    The latter has ``workers`` cores, by default all, and is gone afterwards; on a cluster that was
    there ``workers`` limits the runs at once. A run whose worker dies is begun again, three times
    at most. EmbedcalError where Ray is missing, or where the probe of environments fails.
    """
    site = replace(site, device="cpu")
    methods = [job.method for job in jobs]
    firsts = [site.place(on, 0, "").first(m.stage) for m in methods if m.stage is not None]
    shared = gather(on, levels_of([*methods, *firsts], on))
    size = sum(array.nbytes for arrays in shared.values() for array in arrays.values())
    with cluster(workers, size) as ray:
        there = max(1, int(ray.cluster_resources().get("CPU", 1)))
        limited = workers is not None and workers < there  # by us: Ray would run all that is sent
        crew = _Crew(
            ray=ray,
            on=on,
            work=ray.remote(num_cpus=1, max_retries=RETRIES)(perform),
            shared=ray.put(shared),
            known=ray.put(known_of(on)),
            environments=ray.put(_environments(jobs, site, on)),
            cores=min(workers or there, there),
            ahead=1 if limited else AHEAD,
        )
        crew.do(jobs, site, report)


def _environments(jobs: Sequence[Job], site: Site, on: Workbench) -> Environments | None:
    """What a rule of any of the jobs judges by; its probe lies in the grid's folder, as ever."""
    place = site.place(on, 0, "sequential")
    asked = {
        rule for job in jobs for rule in site.place(on, job.seed, "").rules(job.method, site.rule)
    }
    return environments_of(asked, place)


def perform(
    order: Order,
    shared: Shared,
    known: Known,
    stage: Mapping[str, Files],
    environments: Environments | None = None,
) -> Any:
    """On a node: do one run in a temporary folder; its record and the files of its folder."""
    import torch

    if order.version != __version__:
        raise EmbedcalError(
            f"expected embedcal {order.version} on every node, found {__version__} on "
            f"{platform.node()}: install the same one"
        )
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="embedcal-") as name:
        folder = Path(name)
        os.environ["EMBEDCAL_HOME"] = str(folder / "home")  # what is remembered, the driver notes
        site = replace(order.site, folder=folder / "runs", environments=environments)
        for first, files in stage.items():
            unpack(files, site.folder / first)
        setting = order.setting
        if order.source:
            own = folder / Path(setting.method).name
            own.write_bytes(order.source)
            setting = replace(setting, method=str(own))
        on = workbench(cast(FeatureCache, known), site.attributes, shared)
        (job,) = plan([setting], [order.seed], site, on)
        if order.before:
            unpack(order.before, site.folder / job.id)
        record = do(job, site, on, "ray")
        return record, pack(site.folder / job.id)


@dataclass
class _Waiting:
    """Stage runs are nobody's to be told of; those that another process holds are waited for."""

    held: list[Job] = field(default_factory=list)

    def started(self, running: int) -> None: ...

    def ended(self, job: Job, record: Record | None) -> None:
        if record is None:
            self.held.append(job)


@dataclass(frozen=True, kw_only=True)
class _Crew:
    """A cluster with everything in its object store; ``work`` is the task."""

    ray: Any
    on: Workbench
    work: Any
    shared: Any
    known: Any
    environments: Any
    cores: int
    ahead: int  # runs sent for each core
    _stages: dict[str, Any] = field(default_factory=dict)  # a run's id -> its files in the store

    def do(self, jobs: Sequence[Job], site: Site, report: Report) -> None:
        """The runs that these start from, then these, some for each core on their way at once."""
        self._first(jobs, site)
        queue = iter(jobs)
        flight: dict[Any, tuple[Job, ExitStack]] = {}
        with ExitStack() as claims:
            try:
                while True:
                    while len(flight) < self.ahead * self.cores:
                        job = next(queue, None)
                        if job is None:
                            break
                        own = claims.enter_context(ExitStack())
                        if not own.enter_context(claim(site.folder / job.id, wait=False)):
                            report.ended(job, None)
                        elif (known := found(job, site, self.on)) is not None:
                            own.close()
                            report.ended(job, known)
                        else:
                            flight[self._send(job, site)] = (job, own)
                    if not flight:
                        return
                    report.started(min(self.cores, len(flight)))
                    for ended in self.ray.wait([*flight], timeout=1.0)[0]:
                        job, own = flight.pop(ended)
                        record = self._receive(ended, job, site)
                        own.close()
                        report.ended(job, record)
            finally:  # of whatever is left when something went wrong
                for sent in flight:
                    self.ray.cancel(sent, force=True)

    def _first(self, jobs: Sequence[Job], site: Site) -> None:
        """Do the runs that these jobs start from, or wait for whoever is doing them."""
        by_rule: dict[str, list[Job]] = defaultdict(list)
        for job in jobs:
            if job.method.stage is not None:
                by_rule[job.method.stage.select].append(job)
        for starting in by_rule.values():
            left: Sequence[Job] = stages(starting, self.on, site)
            while left:
                waiting = _Waiting()
                self.do(left, staged_site(site, starting[0]), waiting)
                left = waiting.held
                if left:
                    time.sleep(POLL)

    def _send(self, job: Job, site: Site) -> Any:
        own, folder = Path(job.setting.method), site.folder / job.id
        order = Order(
            setting=job.setting,
            seed=job.seed,
            site=site,
            source=own.read_bytes() if own.suffix == ".py" else b"",
            before=pack(folder) if (folder / "run.json").is_file() else {},
        )
        stage = self._stage(job, site)
        return self.work.remote(order, self.shared, self.known, stage, self.environments)

    def _stage(self, job: Job, site: Site) -> Any:
        """The stored run that a job starts from, put into the store once.

        One that failed is not there: the job finds out for itself, and fails for the same reason.
        """
        for first in stages([job], self.on, site):
            if first.id not in self._stages and (site.folder / first.id / "run.json").is_file():
                files = pack(site.folder / first.id)
                self._stages[first.id] = self.ray.put({first.id: files})
            return self._stages.get(first.id, {})
        return {}

    def _receive(self, sent: Any, job: Job, site: Site) -> Record:
        """Store what came back of a run; where nothing did, the reason."""
        errors = self.ray.exceptions
        began = time.perf_counter()
        try:
            record, files = self.ray.get(sent)
        except errors.RayTaskError as error:  # not the run's own: those come back as records
            if isinstance(error.cause, EmbedcalError):
                raise EmbedcalError(str(error.cause)) from None
            raise
        except errors.RayError as error:
            lost = EmbedcalError(
                f"expected a worker to finish the run, found {RETRIES + 1} lost over it "
                f"({type(error).__name__}): memory may be short; give --jobs 1 and --retry-failed"
            )
            return fail(job, site, self.on, lost, time.perf_counter() - began)
        try:
            unpack(files, site.folder / job.id)
            append(site.folder, record)
        except OSError as error:
            return fail(job, site, self.on, error, record["seconds"])
        if record["status"] == "done":
            log(self.on.cache.fingerprint, job.id, record["rules"])
        return cast(Record, record)
