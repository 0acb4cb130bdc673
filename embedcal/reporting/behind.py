"""The runs behind a comparison's rows: their predictions, intervals and curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt

from embedcal.comparing.comparison import Row
from embedcal.comparing.recorded import Found, Pool, configuration, groups_of, number, varied
from embedcal.evaluate import Intervals, Rule, Strata, bootstrap, default_rule
from embedcal.reporting.content import Configuration, Configurations, Curve, Groups, Line
from embedcal.runs import Run, load_run
from embedcal.types import EmbedcalError, FloatArray

MOST = 1000  # configurations in the table; a page of more is slow to open, and nobody reads it
TESTED = 60  # configurations that get intervals besides the chosen ones
DRAWN_SEEDS = 10  # curves of one row
WORST = {True: "worst_group", False: "worst_class"}  # with attributes, and without


@dataclass(frozen=True, kw_only=True)
class Source:
    """The runs that a block is made of: a pool's, with what one rule kept of each."""

    pool: Pool
    rule: Rule
    metric: str
    found: tuple[Found, ...]

    @cached_property
    def by_id(self) -> dict[str, Found]:
        return {run.id: (run, entry) for run, entry in self.found}

    def cells(self, run: Run) -> Strata:
        """The labels of the test rows by which a run is judged here."""
        return self.pool.judge.cells if self.pool.judge is not None else run.strata("test")

    def tested(self, run: Run, rule: str) -> Tested | None:
        """What a run predicted on test; None where that is gone or damaged."""
        from safetensors import SafetensorError

        with suppress(EmbedcalError, SafetensorError, OSError, KeyError, TypeError, ValueError):
            logits, cells = run.logits(rule, "test"), self.cells(run)
            if logits.ndim == 2 and len(logits) == len(cells) and np.isfinite(logits).all():
                return Tested(run=run, logits=logits, cells=cells)
        return None

    def intervals(self, found: Sequence[Found]) -> Intervals | None:
        """95 % intervals of the mean over runs; None unless all were tested on the same images."""
        every = [self.tested(run, entry["rule"]) for run, entry in found]
        known = [each for each in every if each is not None]
        if not known or len(known) < len(every):
            return None
        cells = known[0].cells
        if any(not np.array_equal(each.cells.cell, cells.cell) for each in known):
            return None
        return bootstrap(np.stack([each.predicted == cells.y for each in known]), cells)


def source(pool: Pool, rule: Rule, metric: str) -> Source:
    """A pool's runs under a rule, gone through once."""
    return Source(pool=pool, rule=rule, metric=metric, found=tuple(pool.under(rule)[0]))


@dataclass(frozen=True, kw_only=True)
class Tested:
    """One run on test: logits (n, C) under its rule, and the labels that it was judged by."""

    run: Run
    logits: npt.NDArray[np.float32]
    cells: Strata

    @cached_property
    def predicted(self) -> npt.NDArray[np.int64]:
        found: npt.NDArray[np.int64] = self.logits.argmax(1)
        return found

    @cached_property
    def margin(self) -> FloatArray:
        """The logit of the true class less the largest other one, (n,)."""
        places, others = np.arange(len(self.logits)), self.logits.astype(np.float64)
        own = others[places, self.cells.y]
        others[places, self.cells.y] = -np.inf
        margin: FloatArray = own - others.max(axis=1)
        return margin


def lines(rows: Sequence[Row], of: Source) -> tuple[Line, ...]:
    """The rows of a block, each with its intervals."""
    second = "mean" if of.metric == "train_weighted" else "train_weighted"
    if any(second not in row.metrics for row in rows):
        second = "mean"
    return tuple(
        Line(row=row, intervals=of.intervals([of.by_id[run] for run in row.runs]), second=second)
        for row in rows
    )


def configurations(found: Sequence[Line], of: Source) -> Configurations:
    """Every configuration of a pool, best by validation first, as many as a page can hold."""
    chosen = {run: line.intervals for line in found for run in line.row.runs}
    members: dict[object, list[Found]] = {}
    of_method: dict[str, list[Found]] = {}
    for item in of.found:
        record = item[0].record
        members.setdefault((groups_of(record), configuration(record)), []).append(item)
        of_method.setdefault(record["method"], []).append(item)
    differ = {name: varied([run.record for run, _ in items]) for name, items in of_method.items()}
    made = [(_configuration(items, found, of, differ), items) for items in members.values()]
    made.sort(key=lambda pair: -np.nan_to_num(pair[0].validation, nan=-np.inf))
    shown = []
    for place, (one, items) in enumerate(made[:MOST]):
        ends = chosen.get(items[0][0].id)
        if ends is None and place < TESTED:
            ends = of.intervals(items)
        used = items[0][0].id in chosen
        shown.append(replace(one, chosen=used, interval=getattr(ends, of.metric, None)))
    return Configurations(shown=tuple(shown), total=len(made), tested=min(TESTED, len(shown)))


def _configuration(
    items: Sequence[Found],
    found: Sequence[Line],
    of: Source,
    differ: Mapping[str, tuple[str, ...]],
) -> Configuration:
    record = items[0][0].record
    facts = {"variant": record["variant"], "head": record["head"], **record["options"]}
    settings = [f"{k}={facts[k]}" for k in differ[record["method"]] if k in facts]
    if of.pool.judge is not None:  # of runs that were fitted with various groups
        settings.append(f"groups of {', '.join(record['attributes']) or 'none'}")
    # As compare chooses: by the rule's own score, by the default rule's for one that scores nothing
    judge = of.rule if of.rule.statistic else default_rule(of.pool.by_groups)
    return Configuration(
        method=record["method"],
        setting=", ".join(settings),
        chosen=False,
        seeds=len(items),
        validation=_mean(items, judge.split or "val", judge.statistic or of.metric),
        worst=_mean(items, "test", of.metric),
        interval=None,
        average=_mean(items, "test", found[0].second),
        labels_used=tuple(items[0][1]["labels_used"]),
        seconds=float(np.mean([number(run.record.get("seconds")) for run, _ in items])),
    )


def _mean(items: Sequence[Found], split: str, name: str) -> float:
    return float(np.mean([number(entry[split].get(name)) for _, entry in items]))


def groups(found: Sequence[Line], of: Source, names: Sequence[str]) -> Groups | None:
    """How many rows each group has in each split, from any run that tells; None where none does."""
    for line in found:
        with suppress(EmbedcalError, OSError, KeyError, TypeError, ValueError):
            run = of.by_id[line.row.runs[0]][0]
            test = of.cells(run)
            val = run.strata("val") if of.pool.judge is None else None  # has its own groups
            if test.n_attributes:
                counts = {
                    "train": test.train_group_counts,
                    "val": None if val is None else val.group_sizes,
                }
                counts["test"] = test.group_sizes
            else:
                counts = {
                    "val": None if val is None else val.sizes.sum(1),
                    "test": test.sizes.sum(1),
                }
            known = {
                split: tuple(int(n) for n in np.ravel(sizes))
                for split, sizes in counts.items()
                if sizes is not None and np.size(sizes)
            }
            what = "group" if test.n_attributes else "class"
            labels = tuple(names) or tuple(f"class {c}" for c in range(test.n_classes))
            return Groups(what=what, names=labels, counts=known)
    return None


def curves(found: Sequence[Line], of: Source) -> tuple[Curve, ...]:
    """Validation by epoch of every row that was trained in epochs, from the folders of its runs."""
    made = []
    for place, line in enumerate(found):
        drawn: list[tuple[tuple[float, ...], tuple[float, ...], int]] = []
        for name in line.row.runs[:DRAWN_SEEDS]:
            with suppress(EmbedcalError, OSError, KeyError, TypeError, ValueError):
                run = load_run(of.by_id[name][0].folder)
                if run is None or len(run.record["curve"]) < 2:
                    continue
                points = run.record["curve"]
                worst = f"val.{WORST[bool(run.record['attributes'])]}"
                low = tuple(number(point.get(worst)) for point in points)
                mean = tuple(number(point.get("val.mean")) for point in points)
                drawn.append((low, mean, int(run.record["rules"][line.row.selection]["epoch"])))
        if drawn and len({len(low) for low, _, _ in drawn}) == 1:
            lows, means, kept = zip(*drawn, strict=True)
            made.append(Curve(label=line.row.label, worst=lows, mean=means, kept=kept, place=place))
    return tuple(made)
