"""A recipe run: the grid over each of its caches, then every number beside the published one."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from embedcal.cache import FeatureCache
from embedcal.comparing.recorded import plain
from embedcal.cores import check_jobs
from embedcal.datasets.places import data_dir
from embedcal.grids.running import Watch, seeds_of
from embedcal.reproducing.judging import Cell, Status, decimals, judge, percent_of
from embedcal.reproducing.measuring import Course, Measured
from embedcal.reproducing.reading import recipe as read
from embedcal.reproducing.recipe import OVERLAP, Recipe, Row
from embedcal.reproducing.supply import Supplied, caveats, described, supply


@dataclass(frozen=True, kw_only=True)
class Place:
    """A part of a recipe: its cache, or what is needed for one, one sentence each."""

    name: str
    described: str
    cache: str | None
    fingerprint: str | None
    needed: tuple[str, ...]
    asked: bool


@dataclass(frozen=True, kw_only=True)
class Reproduction:
    """A published table, ours beside theirs. ``folder`` has the runs; ``seconds`` are in all."""

    recipe: Recipe
    cells: tuple[Cell, ...]
    measured: tuple[Measured, ...]
    places: tuple[Place, ...]
    notes: tuple[str, ...]
    seeds: tuple[int, ...]
    folder: Path
    seconds: float

    @property
    def ok(self) -> bool:
        """Whether every number that is judged lies within its tolerance.

        One whose run failed or whose cache is missing does not; numbers that are only shown, and
        those of parts that the given caches leave out, do not count.
        """
        return all(cell.status == "within" for cell in self.cells if cell.judged)

    @property
    def counts(self) -> dict[str, int]:
        """How many numbers there are of each status."""
        return dict(Counter(cell.status for cell in self.cells))

    @property
    def record(self) -> dict[str, Any]:
        """As JSON holds it: percent and points, AIOU as it is, null for what is not a number."""
        recipe = self.recipe
        found: dict[str, Any] = plain(
            {
                "recipe": recipe.name,
                "title": recipe.title,
                "source": recipe.source,
                "arxiv": recipe.arxiv,
                "verified": recipe.verified,
                "ran": recipe.ran,
                "ok": self.ok,
                "counts": self.counts,
                "cells": [
                    {**asdict(cell), "difference": cell.difference, "judged": cell.judged}
                    for cell in self.cells
                ],
                "runs": [
                    {key: value for key, value in asdict(one).items() if key != "found"}
                    for one in self.measured
                ],
                "parts": [asdict(place) for place in self.places],
                "tolerances": [asdict(tolerance) for tolerance in recipe.tolerances],
                "deviations": recipe.deviations,
                "notes": [*recipe.notes, *self.notes],
                "seeds": self.seeds,
                "folder": str(self.folder),
                "seconds": round(self.seconds, 3),
            }
        )
        return found


def reproduce(  # noqa: PLR0913 - a public function has the options that it has
    name: str | Path,
    *,
    cache: FeatureCache | Sequence[FeatureCache] | None = None,
    seeds: int | Sequence[int] | None = None,
    out: str | Path | None = None,
    engine: str = "auto",
    device: str = "auto",
    jobs: int | None = None,
    watch: Watch | None = None,
    root: str | Path | None = None,
) -> Reproduction:
    """Run a recipe and put every number beside the published one.

    Args:
        name: a recipe's name, or a file ``path.toml`` with one.
        cache: open caches to run over; by default those on this machine that fit. What comes with
            the package is cached where it is not yet.
        seeds: how many, from 0 on, or which; by default the recipe's.
        out: folder of the runs; by default one of the recipe's under the user's data directory.
        engine: ``sequential``, ``processes``, ``batched``, ``ray``, or ``auto``.
        device: where heads are trained.
        jobs: processes at once, by default one for each core.
        watch: is told how far the grid over a cache is.
        root: folder of the images; a cache that is not there is then made from them. AIOU looks
            for them there where it does not find them by their digests.

    Returns:
        The table. A run that fails is in it with its reason, and so is a part without a cache.

    Raises:
        EmbedcalError: for a recipe that is not there or not right, and where there is no cache at
            all, with what to fetch and what to type.

    Example:
        >>> import embedcal
        >>> found = embedcal.reproduce("birds-quick")
        >>> found.ok, found.cells[0].row, found.cells[0].published
        (True, 'zeroshot', 97.1)
    """
    began = time.perf_counter()
    wanted = read(name)
    check_jobs(jobs)
    given = [cache] if isinstance(cache, FeatureCache) else cache
    numbers = seeds_of(wanted.seeds if seeds is None else seeds)
    folder = Path(out).expanduser() if out is not None else data_dir() / "reproduced" / wanted.name
    measured: dict[tuple[str, str], Measured] = {}
    with ExitStack() as stack:
        supplied = supply(wanted, given, root, stack)
        for one in supplied:
            if one.cache is None:
                continue
            course = Course(recipe=wanted, part=one.part, cache=one.cache, folder=folder, root=root)
            course.run(numbers, engine=engine, device=device, jobs=jobs, watch=watch)
            for found in course.measured(numbers, device):
                measured[found.part, found.run] = found
        notes = [line for one in supplied if one.cache for line in caveats(one.cache)]
        places = tuple(_place(one) for one in supplied)
    notes += [f"{m.part}, {m.run}: {note}" for m in measured.values() for note in m.notes]
    by_part = {one.part.name: one for one in supplied}
    return Reproduction(
        recipe=wanted,
        cells=tuple(
            _cell(wanted, row, index, by_part[row.part], measured.get((row.part, row.run)))
            for row in wanted.rows
            for index in range(len(wanted.columns))
        ),
        measured=tuple(measured.values()),
        places=places,
        notes=tuple(dict.fromkeys(notes)),
        seeds=numbers,
        folder=folder,
        seconds=time.perf_counter() - began,
    )


def _cell(
    recipe: Recipe, row: Row, index: int, supplied: Supplied, measured: Measured | None
) -> Cell:
    """One number with what is said of it."""
    column = recipe.columns[index]
    published = float(row.values[index])
    judged_by = recipe.tolerance(row, column)
    tolerance = judged_by.of(column.name) if judged_by and not math.isnan(published) else None
    unmeasured = row.unmeasured or column.unmeasured
    values: tuple[float, ...] = ()
    if measured is not None and not unmeasured:
        values = tuple(percent_of(metrics, column.metric) for metrics in measured.found)
    ours = float(np.mean(values)) if values else math.nan
    why = (
        unmeasured
        or row.doubt
        or column.doubt
        or ("it cannot be read" if math.isnan(published) else "")
    )
    status: Status
    if unmeasured:
        status = "unmeasured"
    elif supplied.cache is None:
        status = "missing" if supplied.asked else "left out"
        why = f"no cache for {row.part}" if supplied.asked else "no cache of it was given"
    elif column.metric in OVERLAP and measured is not None and measured.no_overlap:
        status, why = "unmeasured", measured.no_overlap
    elif math.isnan(ours):
        status = "failed"
        why = (measured.why if measured else "") or f"the runs have no {column.metric}"
    else:
        status = judge(published, ours, tolerance)
    return Cell(
        part=row.part,
        row=row.name,
        column=column.name,
        metric=column.metric,
        published=published,
        ours=ours,
        values=values,
        deviation=float(np.std(values, ddof=1)) if len(values) > 1 else math.nan,
        tolerance=tolerance,
        status=status,
        why=why,
        decimals=decimals(other.values[index] for other in recipe.rows),
    )


def _place(one: Supplied) -> Place:
    return Place(
        name=one.part.name,
        described=described(one.part),
        cache=str(one.cache.meta.path) if one.cache else None,
        fingerprint=one.cache.fingerprint if one.cache else None,
        needed=one.needed,
        asked=one.asked,
    )
