"""The runs of a recipe over one cache: fitted where they are not there, then read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from embedcal.cache import FeatureCache
from embedcal.comparing.choosing import choose
from embedcal.comparing.recorded import Found, Pool
from embedcal.evaluate import rule
from embedcal.grids import Space, grid, load, space
from embedcal.grids.jobs import Record, Site, plan
from embedcal.grids.settings import settings_of
from embedcal.methods import find
from embedcal.methods.base import Gradient
from embedcal.reproducing.overlapping import Overlaps
from embedcal.reproducing.recipe import Part, Planned, Recipe
from embedcal.runs import Run
from embedcal.workbench import Workbench


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What a planned run came to over one cache: the configuration that validation chose.

    ``found`` are the test metrics of each seed, AIOU among them where the recipe has it;
    ``no_overlap`` is why there is no AIOU though it was asked for. ``chosen`` are the options that
    were tried, ``why`` the reason where there is nothing.
    """

    part: str
    run: str
    method: str
    variant: str
    selection: str
    labels_used: tuple[str, ...]
    chosen: Mapping[str, Any]
    configurations: int
    seeds: tuple[int, ...]
    runs: tuple[str, ...]
    seconds: float
    found: tuple[Mapping[str, Any], ...]
    notes: tuple[str, ...]
    why: str = ""
    no_overlap: str = ""


@dataclass(frozen=True, kw_only=True)
class Course:
    """The runs of one part. ``root``: the images, where their digests do not lead to them."""

    recipe: Recipe
    part: Part
    cache: FeatureCache
    folder: Path
    root: str | Path | None = None

    @property
    def planned(self) -> tuple[Planned, ...]:
        """The runs that some row of this part asks for, in the recipe's order."""
        used = {row.run for row in self.recipe.rows if row.part == self.part.name}
        return tuple(run for run in self.recipe.runs if run.name in used)

    def spaces(self, run: Planned) -> tuple[Space, ...]:
        """What a run tries. Options: of the recipe, of the part, tried, the run's own; in this
        order, the last counts."""
        options: Mapping[str, Any] = {}
        tables: Sequence[Mapping[str, Any]] = ({},)
        if issubclass(find(run.method), Gradient):
            options = {**self.recipe.trained, **self.part.trained}
            tables = self.recipe.tried or tables
        return tuple(space(run.method, {**options, **table, **run.options}) for table in tables)

    def run(self, seeds: Sequence[int], **how: Any) -> None:
        """Whatever of the part's runs is not there yet."""
        by_rule: dict[str, list[Space]] = {}
        for run in self.planned:
            own = run.select if run.select and rule(run.select).on_demand else self.recipe.select
            by_rule.setdefault(own, []).extend(self.spaces(run))
        # A rule that runs keep only where they are asked for it goes first, so that none runs twice
        for select in sorted(by_rule, key=lambda name: not rule(name).on_demand):
            grid(
                by_rule[select],
                self.cache,
                seeds=seeds,
                select=select,
                attribute=self.part.attribute,
                out=self.folder,
                **how,
            )

    def measured(self, seeds: Sequence[int], device: str) -> Iterable[Measured]:
        """What each run came to, read from its records."""
        on = Workbench(self.cache, self.part.attribute)
        site = Site(
            cache=self.cache.meta.path,
            attributes=on.attributes,
            folder=self.folder,
            device=device,
            select=self.recipe.select,
            inferred=on.inferred,
        )
        planned = self.planned
        records = load(self.folder).records if planned else {}
        for run in planned:
            jobs = plan(settings_of(self.spaces(run)), seeds, site, on)
            yield self._one(run, [records[job.id] for job in jobs], on, device)

    def _one(self, run: Planned, records: Sequence[Record], on: Workbench, device: str) -> Measured:
        select = rule(run.select or self.recipe.select)
        pool = Pool(
            dataset=self.cache.meta.dataset,
            backbone=self.cache.meta.backbone,
            path=str(self.cache.meta.path),
            fingerprint=self.cache.fingerprint,
            attributes=on.attributes,
            done=tuple(
                Run(folder=self.folder / record["id"], record=record)
                for record in records
                if record["status"] == "done"
            ),
            failed=(),
        )
        failed = [record for record in records if record["status"] != "done"]
        found, _ = pool.under(select)
        first = records[0]
        reason = ""
        if failed:
            reason = f"{len(failed)} of {len(records)} runs failed, the first with: "
            reason += str(failed[0]["reason"])
        common = {"part": self.part.name, "run": run.name, "method": first["method"]}
        if not found:
            return Measured(
                **common,
                variant=str(first["variant"]),
                selection=select.name,
                labels_used=(),
                chosen={},
                configurations=0,
                seeds=(),
                runs=(),
                seconds=0.0,
                found=(),
                notes=(),
                why=reason or f"no run kept the rule '{select.name}'",
            )
        choice = choose(found, select, pool)
        entries = [kept for _, kept in choice.found]
        maps, no_overlap = self._overlaps(choice.found, on, device)
        behind = [inner.record for inner, _ in choice.found]
        options = {"variant": behind[0]["variant"], "head": behind[0]["head"]}
        options |= behind[0]["options"]
        return Measured(
            **common,
            variant=str(behind[0]["variant"]),
            selection=str(entries[0]["rule"]),
            labels_used=tuple(entries[0]["labels_used"]),
            chosen={name: options[name] for name in choice.varied},
            configurations=choice.configurations,
            seeds=tuple(record["seed"] for record in behind),
            runs=tuple(record["id"] for record in behind),
            seconds=float(np.mean([record["seconds"] for record in behind])),
            found=tuple(
                {**entry["test"], **more} for entry, more in zip(entries, maps, strict=True)
            ),
            notes=(*choice.notes, *([reason] if reason else [])),
            no_overlap=no_overlap,
        )

    def _overlaps(
        self, found: Sequence[Found], on: Workbench, device: str
    ) -> tuple[Sequence[Mapping[str, float]], str]:
        """AIOU of each run, if the recipe has it; empty, with the reason, where it cannot be."""
        nothing: Sequence[Mapping[str, float]] = [{}] * len(found)
        if not self.recipe.overlaps:
            return nothing, ""
        region: Any = self.recipe.region
        overlaps = Overlaps(folder=self.folder, region=region, root=self.root, device=device)
        maps, why = overlaps.of(found, on)
        return maps or nothing, why
