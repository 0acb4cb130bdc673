"""Runs -> rows: each configuration's test accuracies, with intervals, against a reference.

A row is one configuration and never the best of several. Rows are compared on the same test images;
p-values are adjusted by Holm's method within a block and a metric.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from embedcal.evaluate import Interval, Strata, bootstrap
from embedcal.evaluate.paired import Difference, holm, paired
from embedcal.evaluate.strata import statistics
from embedcal.grids.results import load
from embedcal.records import score_of
from embedcal.runs import Run
from embedcal.types import EmbedcalError

LEVEL = 0.05
FEWEST_DRAWS, MOST_DRAWS = 2000, 10_000

Record = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Judge:
    """A column of accuracies: its name, the labels it judges by, and the statistic."""

    name: str
    cells: Strata
    statistic: str


@dataclass(frozen=True, kw_only=True)
class Score:
    """One accuracy on test of one row; fractions. ``values`` of each seed, ``deviation`` theirs.

    ``difference`` is this row less its reference, None for a reference; ``adjusted`` its p-value.
    """

    mean: float
    values: tuple[float, ...]
    deviation: float
    interval: Interval
    difference: Difference | None = None
    adjusted: float = math.nan

    @property
    def holds(self) -> bool:
        return self.adjusted < LEVEL


@dataclass(frozen=True, kw_only=True)
class Draft:
    """A configuration before it is judged: its name, its runs, what it is compared with.

    ``series`` is its name without the option that lines are drawn over.
    """

    label: str
    series: str
    method: str
    options: Mapping[str, Any]
    records: tuple[Record, ...]
    reference: str


@dataclass(frozen=True, kw_only=True)
class Row:
    """One configuration. ``scores`` by the judges' names; ``looked`` what was found out beside.

    ``validation`` is the mean score of the selection rule; ``in_sample`` where the method fitted
    those rows. ``seconds`` are of one run with its first stage. ``failed`` seeds have no scores.
    """

    label: str
    series: str
    method: str
    options: Mapping[str, Any]
    reference: str
    labels_used: tuple[str, ...]
    selection: str
    seeds: tuple[int, ...]
    runs: tuple[str, ...]
    scores: Mapping[str, Score]
    validation: float
    in_sample: bool
    seconds: float
    failed: int
    looked: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Court:
    """Where runs lie and how they are judged: labels of test, and the rule that chose epochs."""

    folder: Path
    select: str
    judges: tuple[Judge, ...]

    def rows(self, drafts: Sequence[Draft]) -> tuple[Row, ...]:
        """Every draft with a finished run as a row, in order, judged and compared."""
        seconds = self._seconds()
        rows, correct = [], {}
        for draft in drafts:
            done = [record for record in draft.records if record["status"] == "done"]
            if done:
                correct[draft.label] = self._correct(done)
                rows.append(self._row(draft, done, correct[draft.label], seconds))
        for judge in self.judges:
            rows = _compared(rows, correct, judge)
        return tuple(rows)

    def _row(
        self,
        draft: Draft,
        done: Sequence[Record],
        correct: np.ndarray,
        seconds: Mapping[str, float],
    ) -> Row:
        name = self._rule(done[0])
        entry = done[0]["rules"][name]
        validation = [score for r in done if (score := score_of(r, self.select)) is not None]
        spent = [seconds[r["id"]] + seconds.get(str(r["stage"]), 0.0) for r in done]
        return Row(
            label=draft.label,
            series=draft.series,
            method=draft.method,
            options=dict(draft.options),
            reference=draft.reference,
            labels_used=tuple(entry["labels_used"]),
            selection=name,
            seeds=tuple(record["seed"] for record in done),
            runs=tuple(record["id"] for record in done),
            scores={judge.name: _score(correct, judge) for judge in self.judges},
            validation=float(np.mean(validation)) if validation else math.nan,
            in_sample=bool(entry["val"].get("in_sample")),
            seconds=float(np.mean(spent)),
            failed=len(draft.records) - len(done),
        )

    def _rule(self, record: Record) -> str:
        """The rule that a run is read under; a solver's one head stands under every rule."""
        rules = record["rules"]
        return self.select if self.select in rules else str(next(iter(rules)))

    def _correct(self, done: Sequence[Record]) -> np.ndarray:
        """Which test images each run gets right, (r, n)."""
        y = self.judges[0].cells.y
        found = []
        for record in done:
            run = Run(folder=self.folder / record["id"], record=record)
            if not np.array_equal(run.strata("test").y, y):
                raise EmbedcalError(
                    f"expected the test split of the cache in run {run.id}, found another: delete "
                    f"{run.folder}, and give the command again"
                )
            found.append(run.logits(self._rule(record), "test").argmax(1) == y)
        return np.stack(found)

    def _seconds(self) -> dict[str, float]:
        """Seconds of every run of the folder, stages among them, by id."""
        found = load(self.folder).records.items()
        return {name: float(record["seconds"]) for name, record in found}


def _score(correct: np.ndarray, judge: Judge) -> Score:
    each = statistics(judge.cells.totals(correct), judge.cells)[judge.statistic]
    return Score(
        mean=float(each.mean()),
        values=tuple(each.tolist()),
        deviation=float(each.std(ddof=1)) if len(each) > 1 else math.nan,
        interval=getattr(bootstrap(correct, judge.cells), judge.statistic),
    )


def _compared(rows: Sequence[Row], correct: Mapping[str, np.ndarray], judge: Judge) -> list[Row]:
    """The rows with their difference from their reference in one metric."""
    there = {row.label for row in rows}
    against = [row for row in rows if row.label != row.reference and row.reference in there]
    draws = min(MOST_DRAWS, max(FEWEST_DRAWS, 50 * len(against)))
    found = [
        paired(
            correct[row.label], correct[row.reference], judge.cells, judge.statistic, draws=draws
        )
        for row in against
    ]
    adjusted = holm([difference.p_value for difference in found])
    by_label = {
        row.label: (difference, p)
        for row, difference, p in zip(against, found, adjusted, strict=True)
    }
    compared = []
    for row in rows:
        if row.label in by_label:
            difference, p = by_label[row.label]
            score = replace(row.scores[judge.name], difference=difference, adjusted=p)
            row = replace(row, scores={**row.scores, judge.name: score})
        compared.append(row)
    return compared
