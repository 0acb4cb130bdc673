"""One line of a comparison: the configuration chosen for it, and its runs on test."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from embedcal.comparing.choosing import Choice
from embedcal.comparing.recorded import Found, number, option
from embedcal.evaluate import Interval, Rule, Strata
from embedcal.types import EmbedcalError

if TYPE_CHECKING:
    from embedcal.comparing.judging import Judge

AVERAGED = ("worst_group", "train_weighted", "group_mean", "worst_class", "class_mean", "mean")
VECTORS = ("groups", "classes")


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line: the configuration chosen for it, and its mean over seeds. Fractions.

    ``metrics`` are test means by name (``groups`` a list); ``values`` the compared metric of each
    seed in ``seeds``, ``deviation`` theirs (NaN for one). ``interval`` answers for the test images
    and is None where predictions are gone. ``validation`` is the score that chose among
    ``configurations``; ``in_sample`` where the method fitted those rows. ``mean_rank`` is over the
    seeds that other rows have too, 1 the best. ``failed`` runs of the row are counted whatever
    their configuration.
    """

    label: str
    method: str
    variant: str
    head: str
    options: Mapping[str, Any]
    chosen: Mapping[str, Any]
    selection: str
    oracle: bool
    labels_used: tuple[str, ...]
    seeds: tuple[int, ...]
    runs: tuple[str, ...]
    mean: float
    values: tuple[float, ...]
    deviation: float
    interval: Interval | None
    metrics: Mapping[str, Any]
    mean_rank: float
    configurations: int
    validation: float
    in_sample: bool
    seconds: float
    failed: int


def row_of(label: str, choice: Choice, wanted: Rule, metric: str) -> Row:
    """The row of a chosen configuration by a metric; what takes other rows is left open."""
    record, entry = choice.found[0][0].record, choice.found[0][1]
    tests = [kept["test"] for _, kept in choice.found]
    values = tuple(number(test.get(metric)) for test in tests)
    means: dict[str, Any] = {
        name: float(np.mean([number(test.get(name)) for test in tests]))
        for name in AVERAGED
        if name in tests[0]
    }
    for name in VECTORS:
        if name in tests[0]:
            table = [[number(value) for value in test[name]] for test in tests]
            means[name] = tuple(np.mean(table, axis=0).tolist())
    return Row(
        label=label,
        method=record["method"],
        variant=record["variant"],
        head=record["head"],
        options=record["options"],
        chosen={name: option(record, name) for name in choice.varied},
        selection=entry["rule"],
        oracle=wanted.oracle and entry["rule"] == wanted.name,
        labels_used=tuple(entry["labels_used"]),
        seeds=tuple(run.record["seed"] for run, _ in choice.found),
        runs=tuple(run.id for run, _ in choice.found),
        mean=float(np.mean(values)),
        values=values,
        deviation=float(np.std(values, ddof=1)) if len(values) > 1 else math.nan,
        interval=None,
        metrics=means,
        mean_rank=math.nan,
        configurations=choice.configurations,
        validation=choice.score,
        in_sample=bool(entry["val"].get("in_sample")),
        seconds=float(np.mean([number(run.record.get("seconds")) for run, _ in choice.found])),
        failed=0,
    )


def rights(
    behind: Mapping[str, Sequence[Found]], judge: Judge | None = None
) -> tuple[dict[str, np.ndarray], Strata | None]:
    """Rights and wrongs (r, n) of each row whose predictions are there, and the labels."""
    from safetensors import SafetensorError

    correct: dict[str, np.ndarray] = {}
    cells = None if judge is None else judge.cells
    for label, runs in behind.items():
        # Results may lie here without their predictions, or with a damaged file of them.
        with suppress(EmbedcalError, SafetensorError, OSError, KeyError, TypeError, ValueError):
            found = []
            for run, entry in runs:
                own = run.strata("test") if judge is None else judge.cells
                cells = cells or own
                if not np.array_equal(own.cell, cells.cell):
                    raise EmbedcalError(
                        f"expected one test split for all runs of a cache, found another in "
                        f"{run.folder}: fit it again"
                    )
                found.append(run.logits(entry["rule"], "test").argmax(1) == own.y)
            correct[label] = np.stack(found)
    return correct, cells
