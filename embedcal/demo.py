"""The main job on data that comes along: make birds or digits, cache, fit methods, one table."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from embedcal.cache import open_cache
from embedcal.caching import cache
from embedcal.comparing.budgets import EXTRA, kind
from embedcal.comparing.budgets import KINDS as KINDS
from embedcal.datasets.options import ReadOptions
from embedcal.datasets.places import data_dir
from embedcal.datasets.printable import printable
from embedcal.evaluate import Rule, bootstrap, default_rule, metrics_from_dict, rule, summarise
from embedcal.fitting import configure, fit_on
from embedcal.methods import find, labels_of, names
from embedcal.methods.base import Method, Offer, Solver
from embedcal.methods.base import options as method_options
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

# Over digits the text side of the tiny CLIP is of no use, so the heads are linear. Val has as many
# images of any colour: its plain mean is a mean over groups, and the worst of 25 groups of eleven
# images is 0 for most epochs and chooses nothing.
LINEAR: Mapping[str, Any] = {"head": "linear", "features": "embedding", "epochs": 100}
OFFER = Offer(  # what a cache of digits through the tiny CLIP has
    levels=frozenset({"pooled", "embedding"}),
    banks=frozenset({"class", "attribute", "context"}),
    projection=True,
    attributes=True,
)
DIGITS = (
    Entry(method="zeroshot"),
    Entry(method="erm", select="val.mean", options=LINEAR),
    Entry(method="rwg", select="val.mean", options=LINEAR),
    Entry(method="group-dro", select="val.mean", options=LINEAR),
    Entry(method="dfr", options={"features": "pooled"}),
)

# What can be shown without a download, and how many pictures it has.
DATASETS = {"birds": 5894, "digits": 1797}


def kind_of(method: Method, select: Rule) -> str:
    """Which of ``KINDS`` a method is, the rule that selects its epoch included."""
    return kind(labels_of(method) | (frozenset() if isinstance(method, Solver) else select.needs))


def every_entry(dataset: str = "birds") -> tuple[Entry, ...]:
    """Every method that is installed, with its defaults and a few settings of their own name.

    A method that reads no group itself comes twice: selected with the groups of validation images
    and without. Nothing is trained twice for it. Over ``digits`` each comes once, selected by
    ``val.mean``, with a linear head where it has one.
    """
    if dataset == "digits":
        return tuple(_over_digits(name, options) for name, options in _settings())
    found = []
    for method, options in _settings():
        chosen = configure(method, options)
        reads_groups = any(need.endswith(".g") for need in labels_of(chosen))
        if not isinstance(chosen, Solver) and not reads_groups:
            found.append(Entry(method=method, options=options, select="val.worst_class"))
        found.append(Entry(method=method, options=options))
    return tuple(found)


def _settings() -> tuple[tuple[str, Mapping[str, Any]], ...]:
    return (*((name, {}) for name in names()), *EXTRA)


def _over_digits(method: str, options: Mapping[str, Any]) -> Entry:
    """A method as it suits digits: a linear head where it takes one, else as it is."""
    choices = {item.name: item.metadata["choices"] for item in method_options(find(method))}
    if {"linear", "projection"} <= set(choices.get("head", ())):
        given = {**LINEAR, **options}
        try:
            configure(method, given).resolve(OFFER)
        except EmbedcalError:  # it trains CLIP's projection and nothing else
            given = dict(options)
        return Entry(method=method, options=given, select="val.mean")
    pooled = {"features": "pooled"} if "pooled" in choices.get("features", ()) else {}
    return Entry(method=method, options={**pooled, **options}, select="val.mean")


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

    ``common`` marks the groups that are the largest of their class in train. ``every``: all
    methods, rows in the order of ``KINDS``.
    """

    dataset: str
    cache: Path
    images: Path
    runs: Path
    group_names: tuple[str, ...]
    common: tuple[bool, ...]
    rows: tuple[Row, ...]
    seeds: int
    seconds: Mapping[str, float]
    every: bool = False

    @property
    def record(self) -> dict[str, Any]:
        """As JSON holds it."""
        return {
            "dataset": self.dataset,
            "cache": str(self.cache),
            "images": str(self.images),
            "runs": str(self.runs),
            "group_names": list(self.group_names),
            "common": list(self.common),
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
    dataset: str = "birds",
    *,
    rows: int | None = None,
    seeds: int = 3,
    seed: int = 0,
    every: bool = False,
    progress: Bars | None = None,
) -> Demo:
    """Make a data set, cache it through the tiny CLIP, fit, and summarise over head seeds.

    ``dataset`` is ``birds``, drawn scenes that the tiny CLIP knows, or ``digits``, real handwriting
    in five colours that it does not. ``rows`` pictures (5,894 or 1,797 by default) with this
    ``seed``; ``seeds`` head seeds a method; ``every`` method instead of a few. Nothing is done
    twice: a second call reads what the first one made.
    """
    if dataset not in DATASETS:
        raise EmbedcalError(
            f"expected --dataset to be one of {', '.join(DATASETS)}, found '{printable(dataset)}': "
            "choose one of them; embedcal cache takes any other"
        )
    if seeds < 1:
        raise EmbedcalError(f"expected --seeds of 1 or more, found {seeds}: take 3, the default")
    start = time.perf_counter()
    size = DATASETS[dataset] if rows is None else rows
    report = cache(
        dataset,
        backbone="tiny",
        read=ReadOptions(
            rows=size, seed=seed, progress=progress.counter("make", size) if progress else None
        ),
        progress=progress.stage if progress else None,
    )
    cached = time.perf_counter()
    entries = every_entry(dataset) if every else {"birds": SHORT, "digits": DIGITS}[dataset]
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
        groups, common = opened.group_names(), _common(on)
    end = time.perf_counter()
    return Demo(
        dataset=dataset,
        cache=report.path,
        images=data_dir() / dataset / f"rows-{size}-seed-{seed}",
        runs=data_dir() / "runs" / report.path.stem,
        group_names=groups,
        common=common,
        rows=tuple(table),
        seeds=seeds,
        seconds={"cache": cached - start, "fit": end - cached, "total": end - start},
        every=every,
    )


def _common(on: Workbench) -> tuple[bool, ...]:
    """For each group whether it is the largest of its class in train."""
    counts = on.strata("test", "embedding").train_group_counts
    assert counts is not None
    return tuple((counts == counts.max(1, keepdims=True)).ravel().tolist())


def fit_entry(on: Workbench, entry: Entry, seeds: Iterable[int]) -> Row:
    """Fit one entry for each head seed, once where nothing in it is random, and summarise."""
    chosen = configure(entry.method, entry.options)
    select = rule(entry.select) if entry.select else default_rule(has_attributes=True)
    runs = [
        fit_on(on, entry.method, entry.options, seed=seed, select=select.name)
        for seed in (seeds if chosen.random else list(seeds)[:1])
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
