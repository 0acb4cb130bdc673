"""A grid: every setting with every seed, whatever is missing done once, by whoever is there."""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from embedcal.cache import FeatureCache
from embedcal.cores import check_jobs
from embedcal.datasets.places import data_dir, remember
from embedcal.evaluate import default_rule, rule
from embedcal.fitting import check_rule, configure, seed_of
from embedcal.grids.engines import check_engine, work
from embedcal.grids.jobs import Job, Record, Site, plan
from embedcal.grids.results import Results, ask
from embedcal.grids.search import Everything, search_of
from embedcal.grids.settings import Setting, Space, default_space, parse
from embedcal.records import kept_under, score_of
from embedcal.streaming import limit
from embedcal.types import EmbedcalError
from embedcal.workbench import Workbench

MANY = 100_000  # runs that no one asks for on purpose
TOLD = 0.2  # seconds between two tellings
POLL = 0.3  # seconds between looks at what another process is doing
MOST = 100_000  # seeds of a grid


@dataclass(frozen=True, kw_only=True)
class Tally:
    """How far a grid is. ``best`` is the setting ahead by the selection rule, with its score."""

    total: int
    done: int
    reused: int
    failed: int
    running: int
    best: tuple[str, float] | None
    rule: str


@dataclass(frozen=True, kw_only=True)
class Grid:
    """What a grid's command asked for, and what came of it.

    ``records`` are in the order of the plan, failed ones among them; ``reused`` of them were there
    before. ``settings`` are the configurations, by the id of each run. ``refused`` combinations of
    a default grid or of a search are none that their method takes, and were left out.
    """

    folder: Path
    records: tuple[Record, ...]
    settings: Mapping[str, Setting]
    select: str
    reused: int
    refused: int
    seconds: float

    @property
    def done(self) -> tuple[Record, ...]:
        return tuple(record for record in self.records if record["status"] == "done")

    @property
    def failed(self) -> tuple[Record, ...]:
        return tuple(record for record in self.records if record["status"] == "failed")

    @property
    def best(self) -> tuple[str, float] | None:
        """The best setting by the mean validation score of its seeds, and that score."""
        return _best(self.records, self.settings, self.select)


Watch = Callable[[Tally], None]


def grid(  # noqa: PLR0913 - a public function has the options that it has
    specs: Sequence[str | Setting | Space],
    cache: FeatureCache,
    *,
    seeds: int | Sequence[int] = 5,
    select: str | None = None,
    attribute: str | Sequence[str] | None = None,
    out: str | Path | None = None,
    device: str = "auto",
    memory: str | int | None = None,
    engine: str = "auto",
    jobs: int | None = None,
    default_grid: bool = False,
    budget: int | None = None,
    search: str = "random",
    search_seed: int = 0,
    retry_failed: bool = False,
    watch: Watch | None = None,
) -> Grid:
    """Fit every setting with every seed over a cache; what is there already is not done again.

    Args:
        specs: ``"cfr:neg=rns,nns:lr=1e-4,1e-3"``, or settings and spaces as values.
        cache: an open cache.
        seeds: how many, from 0 on, or which. A method that draws nothing runs once.
        select: the rule by which runs are judged on the way; each keeps what every rule chose.
        attribute: the one that makes the groups, or several for the product of their values, in
            any order; all of the cache's by default.
        out: the grid's folder; by default one of its own under the user's data directory.
        device: where heads are trained.
        memory: as for ``fit``: what is larger stays in the file, for every process.
        engine: ``sequential``, ``processes``, ``batched``, ``ray``, or ``auto``.
        jobs: processes at once, by default one for each core.
        default_grid: methods given by their bare name bring the grids of their own options.
        budget: try so many settings of each method instead of all.
        search: how those are chosen: ``random`` or ``optuna``.
        search_seed: decides the search.
        retry_failed: do runs again that failed before.
        watch: is told after every change how far the grid is.

    Returns:
        The grid, with one record for every run that was asked for.

    Raises:
        EmbedcalError: for what is wrong with the command, before anything is run. A run that fails
            is a record with its reason.

    Example:
        >>> import embedcal
        >>> with embedcal.open("birds.h5") as cache:
        ...     found = embedcal.grid(["erm:lr=1e-3,1e-2:epochs=2", "zeroshot"], cache, seeds=2)
        >>> len(found.done), len(found.failed)  # zero-shot draws nothing: it runs once
        (5, 0)
    """
    began = time.perf_counter()
    check_engine(engine, device)
    check_jobs(jobs)
    on = Workbench(cache, attribute, limit(memory))
    wanted = rule(select) if select else default_rule(on.has_groups("val"))
    check_rule(wanted, on)
    spaces = spaces_of(specs, default_grid=default_grid)
    numbers = seeds_of(seeds)
    find = search_of(search, spaces, budget, search_seed)
    folder = Path(out).expanduser() if out is not None else _own(on, spaces, budget, search)
    site = Site(
        cache=cache.meta.path,
        attributes=on.attributes,
        folder=folder,
        device=device,
        select=wanted.name,
        retry_failed=retry_failed,
        inferred=on.inferred,
        memory=on.memory,
    )
    if isinstance(find, Everything):
        _check_size(spaces, len(numbers))
    command = _command(on, spaces, numbers, budget, search, wanted.name)
    course = _Course(site=site, on=on, watch=watch)
    drawn = default_grid or budget is not None  # nobody wrote down each combination
    for settings in find.rounds():
        taken = [not drawn or _takes(setting, on) for setting in settings]
        if not any(taken):  # plan says why the first of them is refused
            taken = [True] * len(taken)
        course.refused += len(taken) - sum(taken)
        admitted = [setting for setting, ok in zip(settings, taken, strict=True) if ok]
        planned = plan(admitted, numbers, site, on)
        ask(folder, [job.id for job in planned], command)
        course.go(planned, engine, jobs)
        if not find.listens:
            continue
        find.tell(
            [
                course.score(setting, numbers) if ok else None
                for setting, ok in zip(settings, taken, strict=True)
            ]
        )
    remember("grid", folder)
    records = [course.results.records[job.id] for job in course.planned]
    return Grid(
        folder=folder,
        records=tuple(records),
        settings={job.id: job.setting for job in course.planned},
        select=wanted.name,
        reused=course.reused,
        refused=course.refused,
        seconds=time.perf_counter() - began,
    )


@dataclass
class _Course:
    """A grid under way: what is planned, what is known of it; the engines report to it."""

    site: Site
    on: Workbench
    watch: Watch | None
    planned: list[Job] = field(default_factory=list)
    reused: int = 0
    refused: int = 0
    results: Results = field(init=False)
    _busy: list[Job] = field(default_factory=list)
    _running: int = 0
    _told: float = 0.0
    _fresh: set[str] = field(default_factory=set)  # of this command: done or failed just now

    def __post_init__(self) -> None:
        self.results = Results(self.site.folder)

    def go(self, jobs: Sequence[Job], engine: str, workers: int | None) -> None:
        """Do what is missing of these jobs, and wait for what other processes are doing."""
        known = {job.id for job in self.planned}
        self.planned += [job for job in jobs if job.id not in known]
        self.results.refresh()
        left = [job for job in jobs if not self._finished(job)]
        self.reused += len(jobs) - len(left)
        self._tell()
        while left:
            self._busy = []
            work(engine, left, self.site, self.on, self, workers=workers)
            self.results.refresh()
            left = [job for job in self._busy if not self._finished(job)]
            if left:
                self._running = 0
                self._tell()
                time.sleep(POLL)
        self._running = 0
        self._tell(now=True)

    def _finished(self, job: Job) -> bool:
        record = self.results.records.get(job.id)
        if record is None:
            return False
        if record["status"] == "failed":
            return not self.site.retry_failed or job.id in self._fresh
        return kept_under(record, self.site.select) is not None

    def started(self, running: int) -> None:
        self._running = running
        self._tell()

    def ended(self, job: Job, record: Record | None) -> None:
        if record is None:
            self._busy.append(job)
            return
        self._fresh.add(job.id)
        self.results.records[job.id] = record
        self._tell()

    def score(self, setting: Setting, seeds: Iterable[int]) -> float | None:
        """The mean validation score of a setting over its seeds; None where one failed."""
        jobs = plan([setting], seeds, self.site, self.on)
        scores = [score_of(self.results.records[job.id], self.site.select) for job in jobs]
        found = [score for score in scores if score is not None]
        return sum(found) / len(found) if len(found) == len(jobs) else None

    def _tell(self, *, now: bool = False) -> None:
        """Tell the watch how far it is, five times a second at most unless ``now``."""
        if self.watch is None or (not now and time.monotonic() - self._told < TOLD):
            return
        self._told = time.monotonic()
        records = [self.results.records.get(job.id) for job in self.planned]
        ended = [record for record in records if record is not None]
        failed = sum(record["status"] == "failed" for record in ended)
        settings = {job.id: job.setting for job in self.planned}
        self.watch(
            Tally(
                total=len(self.planned),
                done=len(ended) - failed,
                reused=self.reused,
                failed=failed,
                running=self._running,
                best=_best(ended, settings, self.site.select),
                rule=self.site.select,
            )
        )


def spaces_of(
    specs: Sequence[str | Setting | Space], *, default_grid: bool = False
) -> tuple[Space, ...]:
    """Texts, settings and spaces as spaces; a bare method may stand for its default grid."""
    if isinstance(specs, str):
        raise EmbedcalError(
            f"expected a list of methods for a grid, found '{specs}': write ['{specs}']"
        )
    if not specs:
        raise EmbedcalError(
            "expected at least one method for a grid, found none: write, say, erm cfr:neg=rns,nns"
        )
    found = []
    for spec in specs:
        if isinstance(spec, Setting):
            space = Space(method=spec.method, axes={name: (v,) for name, v in spec.options.items()})
        elif isinstance(spec, str | Space):
            space = parse(spec) if isinstance(spec, str) else spec
        else:
            raise EmbedcalError(
                f"expected a method for a grid, found {spec!r:.60}: write text, say "
                "'erm:lr=1e-3,1e-2', or give a Setting"
            )
        if default_grid and not space.axes:
            space = default_space(space.method)
        found.append(space)
    return tuple(found)


def seeds_of(seeds: int | Iterable[int]) -> tuple[int, ...]:
    """So many seeds from 0 on, or those of a list, each once; EmbedcalError for what is neither."""
    if isinstance(seeds, str | bytes):
        raise EmbedcalError(f"expected a number of seeds or a list, found {seeds!r}: give 3")
    if isinstance(seeds, Iterable):
        numbers = tuple(dict.fromkeys(map(seed_of, seeds)))
    else:
        numbers = tuple(range(min(seed_of(seeds), MOST + 1)))
    if not 0 < len(numbers) <= MOST:
        raise EmbedcalError(
            f"expected one seed or more, {MOST:,} seeds at most, found {seeds}: give a number or "
            "a list"
        )
    return numbers


def _takes(setting: Setting, on: Workbench) -> bool:
    try:
        configure(setting.method, setting.options).resolve(on.offer)
    except EmbedcalError:
        return False
    return True


def _check_size(spaces: Sequence[Space], seeds: int) -> None:
    for space in spaces:
        next(space.product())  # a range ends here, in a line of its own
    runs = sum(space.size for space in spaces) * seeds
    if MANY < runs < math.inf:  # without end: a range, of which the search says more
        raise EmbedcalError(
            f"expected at most {MANY:,} runs in a grid, found {runs:,.0f}: choose fewer values, or "
            "draw some of them with --budget N"
        )


def _own(on: Workbench, spaces: Sequence[Space], budget: int | None, search: str) -> Path:
    """A folder for this grid over this cache; more seeds of it go into the same one."""
    what: list[Any] = [on.cache.fingerprint, on.attributes, _written(spaces)]
    what.append(budget and [budget, search])
    what += [on.inferred] if on.inferred else []
    digest = hashlib.sha256(json.dumps(what).encode()).hexdigest()[:8]
    return data_dir() / "grids" / f"{on.cache.meta.path.stem}-{digest}"


def _written(spaces: Sequence[Space]) -> list[Any]:
    return [
        [space.method, {name: _axis(axis) for name, axis in space.axes.items()}] for space in spaces
    ]


def _axis(axis: Any) -> Any:
    return list(axis) if isinstance(axis, tuple) else f"{axis.low:g}..{axis.high:g}"


def _command(
    on: Workbench,
    spaces: Sequence[Space],
    seeds: Sequence[int],
    budget: int | None,
    search: str,
    select: str,
) -> dict[str, Any]:
    found = {
        "runs": _written(spaces),
        "seeds": list(seeds),
        "select": select,
        "attributes": list(on.attributes),
        "fingerprint": on.cache.fingerprint,
    }
    return found if budget is None else {**found, "budget": budget, "search": search}


def _best(
    records: Iterable[Record], settings: Mapping[str, Setting], select: str
) -> tuple[str, float] | None:
    scores: dict[str, list[float]] = {}
    for record in records:
        score = score_of(record, select)
        if score is not None:
            scores.setdefault(settings[record["id"]].label, []).append(score)
    means = {label: sum(found) / len(found) for label, found in scores.items()}
    best = max(means, key=lambda label: means[label], default=None)
    return None if best is None else (best, means[best])
