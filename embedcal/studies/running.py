"""A study: its grid over each cache, a table, figures, and what was found, in one folder."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from embedcal.annotating import labelled
from embedcal.cache import FeatureCache
from embedcal.cores import check_jobs
from embedcal.datasets.places import data_dir
from embedcal.datasets.printable import printable
from embedcal.evaluate import default_rule, rule
from embedcal.fitting import check_rule
from embedcal.grids import Grid, Setting, Tally, grid, load, seeds_of
from embedcal.studies.cutting import cut, short
from embedcal.studies.findings import across, findings
from embedcal.studies.looking import look
from embedcal.studies.markdown import markdown
from embedcal.studies.needs import check
from embedcal.studies.plots import draw
from embedcal.studies.preset import Preset, preset
from embedcal.studies.result import Block, Cost, Study
from embedcal.studies.rows import Court, Draft, Judge
from embedcal.types import EmbedcalError, Level
from embedcal.workbench import Workbench


@dataclass(frozen=True, kw_only=True)
class Order:
    """How the runs of a study are to be done."""

    seeds: tuple[int, ...]
    select: str | None
    device: str
    engine: str
    jobs: int | None
    watch: Callable[[Tally], None] | None
    folder: Path
    attribute: str | Sequence[str] | None
    runs: Path  # by default one for all studies, which share many runs


def study(  # noqa: PLR0913 - a public function has the options that it has
    name: str | Path,
    caches: Sequence[FeatureCache],
    *,
    seeds: int | Sequence[int] | None = None,
    select: str | None = None,
    attribute: str | Sequence[str] | None = None,
    out: str | Path | None = None,
    engine: str = "auto",
    device: str = "auto",
    jobs: int | None = None,
    quick: bool = False,
    watch: Callable[[Tally], None] | None = None,
) -> Study:
    """Run a study over one or several caches; runs that are there already are not done again.

    Args:
        name: a study of :func:`studies`, or a TOML file of one's own.
        caches: open caches. Each has rows of its own; several backbones are several caches.
        seeds: how many, from 0 on, or which; the study's own number by default.
        select: the rule that chooses epochs; ``val.worst_group`` where attributes exist.
        attribute: the one that makes the groups, or several; all of each cache's by default.
        out: the study's folder; by default one of its own under the user's data directory.
        engine: how runs are done, as for a grid.
        device: where heads are trained.
        jobs: processes at once, by default one for each core.
        quick: one seed and two epochs: to see that it runs, and for nothing else.
        watch: is told how far each grid is.

    Returns:
        The study. Its folder holds ``study.json``, ``study.md`` and the figures. Runs lie in a
        folder for each cache, in it if ``out`` is given, else in one that all studies share.

    Raises:
        EmbedcalError: for an unknown study and for a cache that lacks what it needs, before
            anything is run, and where every run failed.

    Example:
        >>> import embedcal
        >>> with embedcal.open("birds.h5") as cache:
        ...     found = embedcal.study("samplers", [cache], quick=True, out="samplers")
        >>> sorted(path.name for path in found.folder.glob("study.*"))
        ['study.json', 'study.md']
    """
    began = time.perf_counter()
    chosen = preset(name)
    check_jobs(jobs)
    if isinstance(caches, FeatureCache):
        caches = [caches]
    if not caches:
        raise EmbedcalError(f"expected a cache for the study {chosen.name}, found none: name one")
    different = {cache.fingerprint: labelled(cache, attribute) for cache in caches}
    for cache in different.values():
        check(chosen.name, chosen.needs, cache, attribute)
    if quick:
        chosen = replace(chosen, seeds=1, spaces=tuple(map(short, chosen.spaces)))
    order = Order(
        seeds=seeds_of(chosen.seeds if seeds is None else seeds),
        select=_on_validation(select),
        device=device,
        engine=engine,
        jobs=jobs,
        watch=watch,
        folder=Path(out).expanduser() if out else data_dir() / "studies" / chosen.name,
        attribute=attribute,
        runs=Path(out).expanduser() if out else data_dir() / "studies" / "runs",
    )
    blocks, costs = [], []
    for cache in different.values():
        block, cost = _block(chosen, cache, order)
        blocks.append(block)
        costs.append(cost)
    drawn = []
    for index, block in enumerate(blocks, start=1):
        stem = "figure" if len(blocks) == 1 else f"figure-{index}"
        drawn.append(replace(block, figures=draw(chosen, block, order.folder / stem)))
    done = Study(
        name=chosen.name,
        title=chosen.title,
        question=chosen.question,
        quick=quick,
        folder=order.folder,
        seeds=order.seeds,
        blocks=tuple(drawn),
        found=across(chosen, blocks),
        cost=Cost(
            runs=sum(cost.runs for cost in costs),
            reused=sum(cost.reused for cost in costs),
            failed=sum(cost.failed for cost in costs),
            run_seconds=sum(cost.run_seconds for cost in costs),
            wall_seconds=time.perf_counter() - began,
        ),
    )
    _write(order.folder / "study.md", markdown(done))
    _write(order.folder / "study.json", json.dumps(done.record, indent=1) + "\n")
    return done


def _block(chosen: Preset, cache: FeatureCache, order: Order) -> tuple[Block, Cost]:
    """Every run over one cache, judged."""
    on = Workbench(cache, order.attribute)
    wanted = rule(order.select) if order.select else default_rule(on.has_groups("val"))
    check_rule(wanted, on)
    fitted, notes = cut(chosen, on)
    folder = order.runs / f"{cache.meta.path.stem}-{cache.fingerprint[:8]}"
    each = on.attributes if chosen.attributes == "each" else ()
    grids = {
        attribute: grid(
            fitted.settings,
            cache,
            seeds=order.seeds,
            select=wanted.name,
            attribute=attribute or on.attributes,
            out=folder,
            device=order.device,
            engine=order.engine,
            jobs=order.jobs,
            watch=order.watch,
        )
        for attribute in (None, *each)
    }
    drafts = [
        draft
        for attribute, done in grids.items()
        for draft in _drafts(fitted, done, attribute if each else "")
    ]
    judges = _judges(on, each)
    rows = Court(folder=folder, select=wanted.name, judges=judges).rows(drafts)
    reasons = dict.fromkeys(
        f"{draft.label} failed: {record['reason']}"
        for draft in drafts
        for record in draft.records
        if record["status"] == "failed"
    )
    notes = (*notes, *map(_line, reasons))
    if not rows:
        raise EmbedcalError(
            f"expected a finished run for the study {chosen.name}, found none over "
            f"{cache.meta.path.name}: {notes[-1] if notes else 'no setting fits this cache'}"
        )
    if fitted.look:
        rows = look(rows, fitted.look, on, folder)
    block = Block(
        cache=cache.meta.path,
        fingerprint=cache.fingerprint,
        dataset=cache.meta.dataset,
        backbone=cache.meta.backbone,
        attributes=on.attributes,
        rule=wanted.name,
        test_rows=len(judges[0].cells),
        metrics=tuple(judge.name for judge in judges),
        rows=rows,
        found=(),
        notes=notes,
    )
    return replace(block, found=findings(fitted, block)), _cost(tuple(grids.values()), folder)


def _drafts(chosen: Preset, done: Grid, attribute: str | None) -> list[Draft]:
    """The configurations of a grid; with several attributes, named by whose groups they have."""
    groups = ""
    if attribute != "":
        groups = f", groups of {printable(attribute)}" if attribute else ", groups of all"
    labels, series = chosen.labels(), chosen.series()
    by_label: dict[str, tuple[Setting, list[dict[str, object]]]] = {}
    for record in done.records:
        setting = done.settings[record["id"]]
        by_label.setdefault(setting.label, (setting, []))[1].append(record)
    first: dict[str, str] = {}
    for key, (setting, _) in by_label.items():
        within = setting.method if chosen.reference == "of its method" else ""
        first.setdefault(within, labels[key])
    drafts = []
    for key, (setting, records) in by_label.items():
        within = setting.method if chosen.reference == "of its method" else ""
        # With the groups of one attribute a method is compared with itself, given all groups.
        reference = f"{labels[key]}, groups of all" if groups else first[within]
        drafts.append(
            Draft(
                label=f"{labels[key]}{groups}",
                series=f"{series[key]}{groups}",
                method=setting.method,
                options=setting.options,
                records=tuple(records),
                reference=reference,
            )
        )
    return drafts


def _judges(on: Workbench, each: Sequence[str]) -> tuple[Judge, ...]:
    """Worst group and average; worst class and mean without attributes; or each one's groups."""
    level: Level = "embedding" if "embedding" in on.cache.meta.levels else "pooled"
    cells = on.strata("test", level)
    names = (
        "worst_group" if cells.n_attributes else "worst_class",
        "train_weighted" if cells.train_group_counts is not None else "mean",
    )
    if not each:
        return tuple(Judge(name=name, cells=cells, statistic=name) for name in names)
    judges = [Judge(name="worst_group", cells=cells, statistic="worst_group")]
    for attribute in each:
        own = Workbench(on.cache, attribute).strata("test", level)
        name = f"worst_group by {printable(attribute)}"
        judges.append(Judge(name=name, cells=own, statistic="worst_group"))
    return tuple(judges)


def _cost(grids: Sequence[Grid], folder: Path) -> Cost:
    records = [record for done in grids for record in done.records]
    stages = {record["stage"] for record in records if record.get("stage")}
    known = load(folder).records
    first = sum(known[name]["seconds"] for name in stages if name in known)
    return Cost(
        runs=len(records),
        reused=sum(done.reused for done in grids),
        failed=sum(len(done.failed) for done in grids),
        run_seconds=sum(record["seconds"] for record in records) + first,
        wall_seconds=sum(done.seconds for done in grids),
    )


def _on_validation(select: str | None) -> str | None:
    if select is not None and rule(select).oracle:
        raise EmbedcalError(
            f"expected a rule on validation for a study, found '{select}', which looks at test: "
            "choose val.worst_group, val.worst_class, val.mean or last"
        )
    return select


def _line(text: str) -> str:
    return printable(text, longest=400)


def _write(path: Path, text: str) -> None:
    part = path.with_name(path.name + ".part")
    part.write_text(text)
    part.replace(path)
