"""The main job on embedded data: render birds, cache them, fit methods, print one table."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from embedcal.cache import open_cache
from embedcal.caching import cache
from embedcal.datasets.options import ReadOptions
from embedcal.datasets.places import data_dir
from embedcal.evaluate import Rule, bootstrap, default_rule, metrics_from_dict, rule, summarise
from embedcal.fitting import configure, fit_on
from embedcal.methods import labels_of, names
from embedcal.methods.base import Method, Solver
from embedcal.types import EmbedcalError
from embedcal.workbench import Workbench

if TYPE_CHECKING:
    from embedcal.progress import Bars
    from embedcal.runs import Run


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One line of a comparison: a method with options, and the rule that selects its epoch."""

    method: str
    select: str | None = None  # None: the default rule
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """The method with every option that is not its default."""
        return " ".join([self.method, *(f"{k}={v}" for k, v in self.options.items())])


# ERM is chosen by what is known without groups.
SHORT = (
    Entry(method="zeroshot"),
    Entry(method="erm", select="val.mean"),
    Entry(method="cfr"),
    Entry(method="group-dro"),
    Entry(method="dfr"),
)

# What a method reads, the rule that selects its epoch included, from nothing to everything.
KINDS = (
    "nothing",
    "class labels",
    "class labels and attribute names",
    "groups of validation images",
    "groups of training images",
)


def kind_of(method: Method, select: Rule) -> str:
    """Which of ``KINDS`` a method under a rule is."""
    reads = labels_of(method) | (frozenset() if isinstance(method, Solver) else select.needs)
    if reads & {"train.g", "train.a"}:
        return KINDS[4]
    if any(need.endswith((".g", ".a")) for need in reads):
        return KINDS[3]
    if "text.attribute" in reads:
        return KINDS[2]
    return KINDS[1] if any(need.endswith(".y") for need in reads) else KINDS[0]


def every_entry() -> tuple[Entry, ...]:
    """Every method that is installed, with its defaults and a few settings of their own name.

    A method that reads no group itself comes twice: selected with the groups of validation images
    and without. Nothing is trained twice for it.
    """
    found = []
    for method, options in (*((name, {}) for name in names()), *EXTRA):
        chosen = configure(method, options)
        reads_groups = any(need.endswith(".g") for need in labels_of(chosen))
        if not isinstance(chosen, Solver) and not reads_groups:
            found.append(Entry(method=method, options=options, select="val.worst_class"))
        found.append(Entry(method=method, options=options))
    return tuple(found)


EXTRA: tuple[tuple[str, dict[str, Any]], ...] = (
    ("spurious", {"vs_weight": 1.0, "ls_weight": 0.0}),
    ("cfr", {"calibration": "erm"}),
    ("cfr", {"calibration": "none"}),
    ("dfr", {"variant": "train"}),
    ("dfr", {"balance": "class"}),
)


@dataclass(frozen=True, kw_only=True)
class Row:
    """One method over its seeds, as the table shows it. Fractions; groups in the cache's order.

    ``kind`` is one of ``KINDS``: what the method and its selection rule read.
    """

    method: str
    label: str
    kind: str
    labels_used: tuple[str, ...]
    selection: str
    groups: tuple[float, ...]
    worst_group: float
    interval: tuple[float, float]
    deviation: float
    train_weighted: float
    seconds: float
    runs: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Demo:
    """What the demo did: the cache, a row a method, seconds in all.

    ``every``: all methods, rows in the order of ``KINDS``.
    """

    cache: Path
    images: Path
    runs: Path
    group_names: tuple[str, ...]
    rows: tuple[Row, ...]
    seeds: int
    seconds: Mapping[str, float]
    every: bool = False

    @property
    def record(self) -> dict[str, Any]:
        """As JSON holds it."""
        return {
            "cache": str(self.cache),
            "images": str(self.images),
            "runs": str(self.runs),
            "group_names": list(self.group_names),
            "seeds": self.seeds,
            "seconds": dict(self.seconds),
            "methods": [
                {
                    "method": row.method,
                    "label": row.label,
                    "kind": row.kind,
                    "labels_used": list(row.labels_used),
                    "selection": row.selection,
                    "groups": list(row.groups),
                    "worst_group": row.worst_group,
                    "interval": list(row.interval),
                    "deviation": None if np.isnan(row.deviation) else row.deviation,
                    "train_weighted": row.train_weighted,
                    "seconds": row.seconds,
                    "runs": list(row.runs),
                }
                for row in self.rows
            ],
        }


def demo(
    *,
    rows: int = 5894,
    seeds: int = 3,
    seed: int = 0,
    every: bool = False,
    progress: Bars | None = None,
) -> Demo:
    """Render the birds, cache them through the tiny CLIP, fit, and summarise over head seeds.

    ``rows`` pictures of the world with this ``seed``; ``seeds`` head seeds a method; ``every``
    method instead of a few. Nothing is done twice: a second call reads what the first one made.
    """
    if seeds < 1:
        raise EmbedcalError(f"expected --seeds of 1 or more, found {seeds}")
    start = time.perf_counter()
    report = cache(
        "birds",
        backbone="tiny",
        read=ReadOptions(
            rows=rows, seed=seed, progress=progress.counter("render", rows) if progress else None
        ),
        progress=progress.stage if progress else None,
    )
    cached = time.perf_counter()
    entries = every_entry() if every else SHORT
    with open_cache(report.path) as opened:
        on = Workbench(opened)
        table = []
        for done, entry in enumerate(entries):
            if progress:
                progress.stage("fit", done, len(entries))
            table.append(fit_entry(on, entry, range(seeds)))
        if progress:
            progress.stage("fit", len(entries), len(entries))
        table.sort(key=lambda row: KINDS.index(row.kind) if every else 0)
        groups = opened.group_names()
    end = time.perf_counter()
    return Demo(
        cache=report.path,
        images=data_dir() / "birds" / f"rows-{rows}-seed-{seed}",
        runs=data_dir() / "runs" / report.path.stem,
        group_names=groups,
        rows=tuple(table),
        seeds=seeds,
        seconds={"cache": cached - start, "fit": end - cached, "total": end - start},
        every=every,
    )


def fit_entry(on: Workbench, entry: Entry, seeds: Iterable[int]) -> Row:
    """Fit one entry for each head seed, once where nothing in it is random, and summarise."""
    chosen = configure(entry.method, entry.options)
    select = rule(entry.select) if entry.select else default_rule(has_attributes=True)
    runs = [
        fit_on(on, entry.method, entry.options, seed=seed, select=select.name)
        for seed in seeds
        if entry.method != "zeroshot" or seed == 0
    ]
    return _summary(on, entry, kind_of(chosen, select), runs)


def _summary(on: Workbench, entry: Entry, kind: str, runs: Sequence[Run]) -> Row:
    """Means over runs that differ in their seed, with the interval that their test images allow."""
    found = summarise([metrics_from_dict(run.test) for run in runs])
    first = runs[0].record
    cells = on.strata("test", "embedding")
    correct = np.stack([run.predictions()["test"].numpy().argmax(1) == cells.y for run in runs])
    ends = bootstrap(correct, cells).worst_group
    assert found.mean.groups is not None
    assert found.mean.worst_group is not None
    assert found.mean.train_weighted is not None
    assert ends is not None
    return Row(
        method=first["method"],
        label=entry.label,
        kind=kind,
        labels_used=tuple(first["labels_used"]),
        selection=first["selection"],
        groups=found.mean.groups,
        worst_group=found.mean.worst_group,
        interval=ends,
        deviation=found.std.worst_group if found.std.worst_group is not None else float("nan"),
        train_weighted=found.mean.train_weighted,
        seconds=float(np.mean([run.record["seconds"] for run in runs])),
        runs=tuple(run.id for run in runs),
    )
