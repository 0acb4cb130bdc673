"""Every method over one cache: who is best among those that read the same, and at what cost."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from embedcal.cache import FeatureCache
from embedcal.comparing.cells import cells_notes
from embedcal.comparing.recorded import GROUP_METRICS, Pool, metric_of, number, plain, pool_of
from embedcal.comparing.verdicts import counted
from embedcal.cores import check_jobs
from embedcal.datasets.places import data_dir
from embedcal.evaluate import Rule, rule
from embedcal.fitting import check_rule
from embedcal.grids import Grid, Space, load, read_grid
from embedcal.grids import grid as run_grid
from embedcal.grids.running import Watch
from embedcal.leading.entrants import Field, field_of, field_of_spaces
from embedcal.leading.standings import Done, Standing, failures, standings
from embedcal.methods import find, names
from embedcal.runs import Run
from embedcal.scored import count
from embedcal.streaming import limit
from embedcal.types import EmbedcalError
from embedcal.workbench import Workbench

BUDGET = 8  # settings of each method, its defaults among them
KEPT = ("val.worst_class", "val.worst_group")  # by every run, whatever rule it was asked for


@dataclass(frozen=True, kw_only=True)
class Leaderboard:
    """What :func:`leaderboard` found: standings by budget, what was left out and why, the cost.

    ``rules`` are the names of the rules that chose. ``refused`` has a reason for each method that
    the cache cannot serve, or of which no run ended. ``runs`` were asked for, ``reused`` of them
    were there before, ``failed`` have no result. ``run_seconds`` are those of all runs, first runs
    included, and ``seconds`` those of this call.
    """

    dataset: str
    backbone: str
    cache: Path
    fingerprint: str
    attributes: tuple[str, ...]
    group_names: tuple[str, ...]
    metric: str
    rules: tuple[str, ...]
    oracle: bool
    effort: str
    seeds: int
    standings: tuple[Standing, ...]
    refused: Mapping[str, str]
    notes: tuple[str, ...]
    folder: Path
    runs: int
    reused: int
    failed: int
    run_seconds: float
    seconds: float

    @property
    def record(self) -> dict[str, Any]:
        """As JSON holds it: fractions, null for what is not a number."""
        found = asdict(self) | {"cache": str(self.cache), "folder": str(self.folder)}
        record: dict[str, Any] = plain(found)
        return record


def leaderboard(  # noqa: PLR0913 - a public function has the options that it has
    cache: FeatureCache,
    methods: str | Sequence[str] | None = None,
    *,
    select: str | Sequence[str] | None = None,
    seeds: int | Sequence[int] = 5,
    budget: int | None = None,
    quick: bool = False,
    default_grid: bool = False,
    grid: str | Path | Sequence[Space] | None = None,
    options: Mapping[str, str] | None = None,
    search_seed: int = 0,
    attribute: str | Sequence[str] | None = None,
    metric: str | None = None,
    oracle: bool = False,
    out: str | Path | None = None,
    device: str = "auto",
    engine: str = "auto",
    jobs: int | None = None,
    memory: str | int | None = None,
    retry_failed: bool = False,
    watch: Watch | None = None,
) -> Leaderboard:
    """Fit every method with several settings and seeds, choose by a rule, and rank by labels read.

    What is there already is not done again, so that the same call goes on with what was
    interrupted, and a larger one adds to it.

    Args:
        cache: an open cache.
        methods: names; by default all. Those that the cache cannot serve are left out, each with
            the reason.
        select: the rule, or several, that choose each run's epoch and each method's setting. By
            default val.worst_class, which reads classes alone, and val.worst_group, where any row
            of val is in a group. A method is in every budget of labels that one of them brings it
            to, by the last that does.
        seeds: how many, from 0 on, or which.
        budget: settings of each method, by default 8: its defaults, and others drawn at random
            from its own grid.
        quick: the defaults alone.
        default_grid: every setting of each method's own grid.
        grid: spaces of settings, or a TOML file of them, in place of the methods' own grids.
        options: held for every method that takes them, as texts: ``{"head": "linear"}``.
        search_seed: decides which settings are drawn.
        attribute: as for :func:`embedcal.grid`.
        metric: what is ranked by, by default the worst group, or class where no row of test is in
            a group.
        oracle: allow a rule that looks at test.
        out: folder of the runs; by default one of the cache's own under the user's data directory.
        device: where heads are trained.
        engine: as for :func:`embedcal.grid`.
        jobs: processes at once, by default one for each core.
        memory: as for :func:`embedcal.grid`.
        retry_failed: do runs again that failed before.
        watch: is told after every change how far the runs are.

    Returns:
        The leaderboard, with a standing for each method and budget of labels.

    Raises:
        EmbedcalError: for what is wrong with the call, and where the cache serves no method.

    Example:
        >>> import embedcal
        >>> with embedcal.open("birds.h5") as cache:
        ...     board = embedcal.leaderboard(
        ...         cache, ["erm", "dfr"], quick=True, seeds=1, options={"epochs": "2"}, out="board"
        ...     )
        >>> sorted({standing.kind for standing in board.standings})
        ['class labels', 'groups of training images', 'groups of validation images']
    """
    effort, most = _effort(quick=quick, budget=budget, default_grid=default_grid, grid=grid)
    check_jobs(jobs)
    on = Workbench(cache, attribute, limit(memory))
    rules = _rules(select, on, oracle=oracle)
    ranked_by = _metric(metric, on)
    if grid is None:
        asked = _methods(methods)
        found = field_of(on, asked, budget=most, search_seed=search_seed, fixed=options)
    else:
        if methods is not None or options:
            raise EmbedcalError(
                "expected a grid of its own or methods and options to hold, found both: say it all "
                "in the grid"
            )
        spaces = read_grid(grid)[0] if isinstance(grid, str | Path) else tuple(grid)
        found = field_of_spaces(on, spaces)
    settings = [setting for entrant in found.entrants for setting in entrant.settings]
    if not settings:
        reason = next(iter(found.refused.values()), "no method was named")
        raise EmbedcalError(
            f"expected a method that {cache.meta.path.name} can serve, found none, the first "
            f"because of: {reason}"
        )
    folder = Path(out).expanduser() if out is not None else _own(on)
    grids: list[Grid] = []
    # A rule that runs keep only where they are asked for it goes first, so that none runs twice.
    for one in sorted(rules, key=lambda one: not one.on_demand):
        grids.append(
            run_grid(
                settings, cache, seeds=seeds, select=one.name, attribute=attribute, out=folder,
                device=device, engine=engine, jobs=jobs, memory=memory, watch=watch,
                retry_failed=retry_failed and not grids,
            )
        )  # fmt: skip
    return _board(on, rules, found, grids, ranked_by, effort)


def _board(
    on: Workbench,
    rules: Sequence[Rule],
    field: Field,
    grids: Sequence[Grid],
    metric: str,
    effort: str,
) -> Leaderboard:
    last, cache = grids[-1], on.cache
    records = load(last.folder).records
    pool = pool_of([Run(folder=last.folder / r["id"], record=r) for r in last.records])
    done = Done(pool=pool, settings=last.settings, records=records)
    lost, remarks = failures(field.entrants, done)
    ranked, notes = standings(field.entrants, rules, done, metric)
    scored = [count(cache.fingerprint, one.name) for one in rules]
    times = " and ".join(
        f"{counted(tally.times, 'time')} under {one.name}"
        for one, tally in zip(rules, scored, strict=True)
    )
    seeds = {record["seed"] for record in last.records}
    return Leaderboard(
        dataset=pool.dataset,
        backbone=pool.backbone,
        cache=cache.meta.path,
        fingerprint=cache.fingerprint,
        attributes=on.attributes,
        group_names=cache.group_names(on.attributes) if on.attributes else (),
        metric=metric,
        rules=tuple(one.name for one in rules),
        oracle=any(one.oracle for one in rules),
        effort=effort,
        seeds=len(seeds),
        standings=ranked,
        refused={**field.refused, **lost},
        notes=(
            *field.notes,
            *notes,
            *remarks,
            *_judges(pool, rules, last.folder),
            f"test rows of this cache have been scored {times}",
        ),
        folder=last.folder,
        runs=len(last.records),
        reused=len(last.records) - sum(len(g.records) - g.reused for g in grids),
        failed=len(last.failed),
        run_seconds=done.seconds(list(last.settings)),
        seconds=sum(g.seconds for g in grids),
    )


def _judges(pool: Pool, rules: Sequence[Rule], folder: Path) -> Iterator[str]:
    """What a rule of environments judged by, and what its probe cost, which no row has."""
    from embedcal.environments import FOLDER

    for one in rules:
        yield from cells_notes(pool.under(one)[0], one)
        if one.environments:
            probes = load(folder / FOLDER).records.values()
            seconds = math.fsum(number(probe.get("seconds")) for probe in probes)
            yield f"{one.name}: the probe of its environments took {seconds:.1f} s, counted nowhere"


def _effort(
    *,
    quick: bool,
    budget: int | None,
    default_grid: bool,
    grid: str | Path | Sequence[Space] | None,
) -> tuple[str, int | None]:
    """How hard is searched in words, and how many settings of a method that is; None: all."""
    asked = {
        "--quick": quick,
        "--budget": budget is not None,
        "--default-grid": default_grid,
        "--grid": grid is not None,
    }
    given = [option for option, there in asked.items() if there]
    if len(given) > 1:
        raise EmbedcalError(
            f"expected one of {', '.join(asked)}, found {' and '.join(given)}: choose one"
        )
    if budget is not None and budget < 1:
        raise EmbedcalError(
            f"expected --budget of 1 or more, found {budget}: take {BUDGET}, the default"
        )
    if quick:
        return "defaults alone", 1
    if default_grid:
        return "every setting of each method's own grid", None
    if grid is not None:
        return "the settings of a grid that was given", None
    most = budget or BUDGET
    return f"at most {counted(most, 'setting')} a method, its defaults among them", most


def _rules(select: str | Sequence[str] | None, on: Workbench, *, oracle: bool) -> tuple[Rule, ...]:
    if select is None:
        wanted: Sequence[str] = KEPT if on.has_groups("val") else KEPT[:1]
        if oracle:
            wanted = ("oracle.worst_group",)
    else:
        wanted = (select,) if isinstance(select, str) else tuple(dict.fromkeys(select))
    found = tuple(rule(name) for name in wanted)
    if not found:
        raise EmbedcalError("expected a rule to choose by, found none: leave it out, or name one")
    for one in found:
        if one.oracle and not oracle:
            raise EmbedcalError(
                f"expected a rule on validation, found '{one.name}', which looks at test: give "
                "--oracle to see an upper bound, or choose val.worst_group"
            )
        check_rule(one, on)
    return found


def _metric(metric: str | None, on: Workbench) -> str:
    """The metric's name, checked before anything is run."""
    there = GROUP_METRICS if on.has_groups("test") else frozenset()
    if not on.has_groups("train"):
        there -= {"train_weighted"}
    return metric_of(metric, there, f"test of {on.cache.meta.path.name}")


def _methods(methods: str | Sequence[str] | None) -> tuple[str, ...]:
    """Names, or files, of methods, each once; a wrong one is an error with the nearest names."""
    if methods is None:
        return tuple(names())
    asked = (methods,) if isinstance(methods, str) else tuple(dict.fromkeys(methods))
    if not asked:
        raise EmbedcalError("expected methods, found none named: leave it out for all")
    for name in asked:
        find(name)
    return asked


def _own(on: Workbench) -> Path:
    """A folder for the leaderboards of this cache: a larger one goes on with a smaller one."""
    what: list[Any] = [on.cache.fingerprint, on.attributes, *([on.inferred] if on.inferred else [])]
    digest = hashlib.sha256(json.dumps(what).encode()).hexdigest()[:8]
    return data_dir() / "leaderboards" / f"{on.cache.meta.path.stem}-{digest}"
