"""The best configuration of a row by validation, averaged over seeds; ranks over seeds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np

from embedcal.comparing.recorded import Found, Pool, configuration, number, varied
from embedcal.comparing.verdicts import counted
from embedcal.evaluate import Rule, default_rule
from embedcal.types import EmbedcalError


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The runs of the chosen configuration by seed, its score, and out of how many it is.

    ``varied``: the options in which these differ.
    """

    found: tuple[Found, ...]
    score: float
    configurations: int
    varied: tuple[str, ...]
    notes: tuple[str, ...]


def choose(items: Sequence[Found], wanted: Rule, pool: Pool) -> Choice:
    """The configuration with the best mean score over its seeds; of equal ones the first.

    The score is the rule's own, on the split that it looks at. ``last`` looks at none: there the
    default rule's score on validation chooses, with a note. Only configurations with the most
    seeds compete, since one lucky seed would beat a mean of five, and those in which no seed
    changes anything. A score on validation rows that were fitted is no match for one on others.
    """
    notes: list[str] = []
    configurations: dict[str, dict[int, Found]] = {}
    for item in items:
        record = item[0].record
        configurations.setdefault(configuration(record), {})[record["seed"]] = item
    again = len(items) - sum(map(len, configurations.values()))
    if again:
        notes.append(
            f"{counted(again, 'run')} of the same configuration and seed, made by another version: "
            "the last counts"
        )
    most = max(map(len, configurations.values()))
    able = [seeds for seeds in configurations.values() if len(seeds) == most or not _random(seeds)]
    fewer = len(configurations) - len(able)
    if fewer:
        notes.append(
            f"{counted(fewer, 'configuration')} of {len(configurations)} not in the choice, having "
            f"fewer seeds than {most}"
        )
    split, statistic = wanted.split, wanted.statistic
    if split is None or statistic is None:
        split, statistic = "val", default_rule(pool.by_groups).statistic
        assert statistic is not None
        if len(able) > 1:
            notes.append(f"'{wanted.name}' scores nothing: chosen by val.{statistic}")
    if split == "val":
        apart = [seeds for seeds in able if not _in_sample(seeds)]
        if 0 < len(apart) < len(able):
            notes.append(
                f"{counted(len(able) - len(apart), 'configuration')} of {len(configurations)} not "
                "in the choice, having fitted the validation rows"
            )
            able = apart
    scores = [
        float(np.mean([number(kept[split].get(statistic)) for _, kept in seeds.values()]))
        for seeds in able
    ]
    if len(able) > 1 and all(map(math.isnan, scores)):
        notes.append(
            f"none of {counted(len(able), 'configuration')} has a {split}.{statistic} to choose "
            "by: the first counts"
        )
    best = int(np.argmax([-math.inf if math.isnan(score) else score for score in scores]))
    return Choice(
        found=tuple(able[best][seed] for seed in sorted(able[best])),
        score=scores[best],
        configurations=len(configurations),
        varied=varied([next(iter(seeds.values()))[0].record for seeds in configurations.values()]),
        notes=tuple(notes),
    )


def any_seed(method: str, variant: str, options: Mapping[str, Any]) -> bool:
    """Whether another seed could give another result: so also where the method is not there."""
    from embedcal.fitting import configure

    if not method.endswith(".py"):  # a file runs only where a person names it
        with suppress(EmbedcalError, TypeError, ValueError):  # a record may be of another version
            return configure(method, {"variant": variant, **options}).random
    return True


def _random(seeds: Mapping[int, Found]) -> bool:
    record = next(iter(seeds.values()))[0].record
    return any_seed(record["method"], record["variant"], record["options"])


def _in_sample(seeds: Mapping[int, Found]) -> bool:
    return any(kept["val"].get("in_sample") for _, kept in seeds.values())


def mean_ranks(rows: Sequence[Mapping[int, float]]) -> list[float]:
    """The mean over seeds of each row's rank, 1 the best; equal values share their mean rank.

    Each row maps its seeds to values. A seed counts where two rows or more have it; NaN for a row
    without such a seed.
    """
    ranks: list[list[float]] = [[] for _ in rows]
    for seed in sorted({seed for row in rows for seed in row}):
        having = [
            index for index, row in enumerate(rows) if not math.isnan(row.get(seed, math.nan))
        ]
        if len(having) < 2:
            continue
        values = np.array([rows[index][seed] for index in having])
        for index, value in zip(having, values, strict=True):
            above, equal = (values > value).sum(), (values == value).sum()
            ranks[index].append(float(above + (equal + 1) / 2))
    return [float(np.mean(found)) if found else math.nan for found in ranks]
