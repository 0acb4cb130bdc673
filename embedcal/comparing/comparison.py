"""Runs -> one table: the best configuration of each method over its seeds, and what beats what.

A row is a method (or whatever ``by`` says). Its configuration is chosen by the selection rule's
own score on validation, averaged over seeds, and never on test. Only runs over one cache, with
the same attributes, are compared: each such pool is a block of its own.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from embedcal.comparing.cells import cells_notes
from embedcal.comparing.choosing import any_seed, choose, mean_ranks
from embedcal.comparing.judging import about_groups, judged, labeller
from embedcal.comparing.recorded import (
    Found,
    Pool,
    collect,
    lacking_note,
    named,
    none_under,
    option,
    plain,
)
from embedcal.comparing.rows import VECTORS as VECTORS
from embedcal.comparing.rows import Row as Row
from embedcal.comparing.rows import rights, row_of
from embedcal.comparing.verdicts import counted, sentence, summary
from embedcal.evaluate import Rule, Strata, bootstrap
from embedcal.evaluate.paired import Difference, holm, paired
from embedcal.grids.results import no_garbage
from embedcal.scored import count
from embedcal.types import EmbedcalError

FACTS = ("method", "variant", "head", "dataset", "backbone")
LEVEL = 0.05
FEWEST_DRAWS, MOST_DRAWS = 2000, 10_000


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Row ``a`` against row ``b`` on the same test images; ``adjusted`` is Holm's p-value."""

    a: str
    b: str
    difference: Difference
    adjusted: float
    holds: bool
    sentence: str


@dataclass(frozen=True, kw_only=True)
class Block:
    """The rows of one cache, the best test mean first, and the reference against each other row.

    ``reference`` is the baseline asked for, or the row with the highest test mean; since that one
    is picked by looking at test, ``comparisons`` then counts every pair of rows.
    """

    dataset: str
    backbone: str
    fingerprint: str
    attributes: tuple[str, ...]
    group_names: tuple[str, ...]
    metric: str
    rule: str
    oracle: bool
    rows: tuple[Row, ...]
    reference: str
    comparisons: int
    pairs: tuple[Pair, ...]
    summary: str
    scored: str
    notes: tuple[str, ...]
    judged: bool = False  # by these attributes on test, whatever the runs were fitted with


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What :func:`compare` found: a block for each cache."""

    by: tuple[str, ...]
    blocks: tuple[Block, ...]
    notes: tuple[str, ...]

    @property
    def record(self) -> dict[str, Any]:
        """As JSON holds it: fractions, null for what is not a number."""
        found: dict[str, Any] = plain(asdict(self))
        return found


@no_garbage()  # thousands of records, all of which stay
def compare(  # noqa: PLR0913 - a public function has the options that it has
    runs: Sequence[str | Path] | str | Path,
    *,
    by: str = "method",
    select: str | None = None,
    oracle: bool = False,
    metric: str | None = None,
    baseline: str | None = None,
    attribute: str | Sequence[str] | None = None,
    cache: str | Path | None = None,
) -> Comparison:
    """Compare finished runs on test, each row by its best configuration on validation.

    ``runs``: folders of runs, folders of single runs, or ``results.jsonl`` files. ``by``: what
    makes a row, one or several of method, variant, head, backbone and options, with commas.
    ``select``: the selection rule (by default val.worst_group, val.worst_class without
    attributes); one that looks at test only with ``oracle``. ``metric``: what is compared, by
    default the worst group (or class). ``baseline``: the row that every other is compared with.
    ``attribute``: judge the stored predictions on test by groups of this attribute of the cache,
    or of the product of several, in place of those that a run was fitted with; what validation
    chose stays. ``cache``: where the cache lies now, if not where it was.

    A difference holds where its p-value, adjusted by Holm's method, is below 0.05. EmbedcalError
    where there is nothing to compare and for names that do not exist.

    Example:
        >>> import embedcal
        >>> with embedcal.open("birds.h5") as cache:
        ...     found = embedcal.grid(["zeroshot", "erm:epochs=2"], cache, seeds=2, out="runs")
        >>> sorted(row.label for row in embedcal.compare("runs").blocks[0].rows)
        ['erm', 'zeroshot']
    """
    pools = [pool for pool in collect(runs) if pool.done]
    if attribute:
        pools = judged(pools, attribute, cache)
    keys = _keys(by, pools)
    notes = []
    if len(pools) > 1:
        notes.append(
            f"{len(pools)} different caches or choices of attributes: each has a table of its own, "
            "and nothing is compared across them"
        )
    drafts = [_draft(pool, keys, pool.rule(select, oracle=oracle), metric) for pool in pools]
    drafts = [draft for draft in drafts if draft.rows]
    if not drafts:
        raise none_under(pools, pools[0].rule(select, oracle=oracle))
    if baseline is not None:
        labels = [row.label for draft in drafts for row in draft.rows]
        named(baseline, labels, "a row as baseline")
    blocks = tuple(_block(draft, baseline) for draft in drafts)
    return Comparison(by=keys, blocks=blocks, notes=tuple(notes))


@dataclass(frozen=True, kw_only=True)
class _Draft:
    """The rows of a pool with the runs behind each, before anything is tested."""

    pool: Pool
    rule: Rule
    metric: str
    rows: tuple[Row, ...]
    behind: Mapping[str, tuple[Found, ...]]
    notes: tuple[str, ...]


def _keys(by: str, pools: Sequence[Pool]) -> tuple[str, ...]:
    known = set(FACTS)
    for pool in pools:
        for run in (*pool.done, *pool.failed):
            known.update(run.record["options"])
    keys = tuple(key.strip().replace("-", "_") for key in by.split(",") if key.strip())
    for key in keys:
        named(key, known, "a fact or an option to make rows by")
    if not keys:
        raise EmbedcalError("expected something to make rows by, found nothing: give --by method")
    return keys


def _draft(pool: Pool, keys: Sequence[str], wanted: Rule, metric: str | None) -> _Draft:
    """Every row of a pool by its best configuration, the highest test mean first."""
    name = pool.metric(metric)
    found, lacking = pool.under(wanted)
    notes = about_groups(pool)
    label = labeller(pool, partial(_label, keys=keys))
    notes += cells_notes(found, wanted)
    if lacking:
        notes.append(lacking_note(lacking, wanted))
    members: dict[str, list[Found]] = {}
    for item in found:
        members.setdefault(label(item[0].record), []).append(item)
    failed = Counter(label(run.record) for run in pool.failed)
    notes += [
        f"{row}: {'its only run' if times == 1 else f'all of its {times} runs'} failed"
        for row, times in failed.items()
        if row not in members
    ]
    choices = {row: choose(items, wanted, pool) for row, items in members.items()}
    notes += [f"{row}: {note}" for row, choice in choices.items() for note in choice.notes]
    rows = [row_of(row, choice, wanted, name) for row, choice in choices.items()]
    ranks = mean_ranks([dict(zip(row.seeds, row.values, strict=True)) for row in rows])
    rows = [
        replace(row, mean_rank=rank, failed=failed[row.label])
        for row, rank in zip(rows, ranks, strict=True)
    ]
    rows.sort(key=lambda row: -math.inf if math.isnan(row.mean) else row.mean, reverse=True)
    return _Draft(
        pool=pool,
        rule=wanted,
        metric=name,
        rows=tuple(rows),
        behind={row: choice.found for row, choice in choices.items()},
        notes=tuple(notes),
    )


def _label(record: Mapping[str, Any], *, keys: Sequence[str]) -> str:
    """Facts as they are, options with their names; those that a method lacks are left out."""
    facts = [str(option(record, key)) for key in keys if key in FACTS]
    options = [f"{k}={option(record, k)}" for k in keys if k in record["options"]]
    return " ".join([*facts, *options]) or f"no {', '.join(keys)}"


def _block(draft: _Draft, baseline: str | None) -> Block:
    """Intervals and differences from the predictions of the chosen runs."""
    pool, metric, rows = draft.pool, draft.metric, list(draft.rows)
    notes = list(draft.notes)
    correct, cells = rights(draft.behind, pool.judge)
    gone = [row.label for row in rows if row.label not in correct]
    if gone:
        notes.append(f"no intervals for {', '.join(gone)}: no predictions of these test rows")
    for index, row in enumerate(rows):
        if cells is not None and row.label in correct:
            ends = getattr(bootstrap(correct[row.label], cells), metric)
            rows[index] = replace(row, interval=ends)
    labels = [row.label for row in rows]
    given = baseline in labels
    if baseline is not None and not given:
        notes.append(f"'{baseline}' has no runs here: the best row is the reference")
    reference = baseline if baseline is not None and given else labels[0]
    k = len(labels)
    comparisons = k - 1 if given else k * (k - 1) // 2
    pairs: tuple[Pair, ...] = ()
    if cells is not None and reference in correct:
        others = [row for row in rows if row.label != reference and row.label in correct]
        against = next(row for row in rows if row.label == reference)
        sides = [(other, against) if given else (against, other) for other in others]
        pairs = _pairs(sides, metric, comparisons, correct, cells)
    if pairs and 2 * comparisons / (MOST_DRAWS + 1) >= LEVEL:
        notes.append(f"{comparisons} comparisons are too many to show any: name a baseline")
    scored = count(pool.fingerprint, draft.rule.name)
    return Block(
        dataset=pool.dataset,
        backbone=pool.backbone,
        fingerprint=pool.fingerprint,
        attributes=pool.attributes,
        group_names=pool.group_names(*(len(rows[0].metrics.get(name, ())) for name in VECTORS)),
        metric=metric,
        rule=draft.rule.name,
        oracle=draft.rule.oracle,
        rows=tuple(rows),
        reference=reference,
        comparisons=comparisons,
        pairs=pairs,
        summary=_summary(reference, pairs, labels, given=given),
        scored=f"test rows of this cache have been scored under {draft.rule.name} "
        f"{counted(scored.times, 'time')}, for {counted(scored.runs, 'run')}",
        notes=tuple(notes),
        judged=pool.judge is not None,
    )


def _pairs(
    sides: Sequence[tuple[Row, Row]],
    metric: str,
    comparisons: int,
    correct: Mapping[str, np.ndarray],
    cells: Strata,
) -> tuple[Pair, ...]:
    # Enough draws that the smallest p-value, 2 / (draws + 1), can pass Holm's correction.
    draws = min(MOST_DRAWS, max(FEWEST_DRAWS, 50 * comparisons))
    found = [
        paired(correct[a.label], correct[b.label], cells, metric, draws=draws) for a, b in sides
    ]
    adjusted = holm([difference.p_value for difference in found], comparisons)
    return tuple(
        Pair(
            a=a.label,
            b=b.label,
            difference=difference,
            adjusted=p,
            holds=p < LEVEL,
            sentence=sentence(a.label, b.label, difference, p, (_by_luck(a), _by_luck(b))),
        )
        for (a, b), difference, p in zip(sides, found, adjusted, strict=True)
    )


def _by_luck(row: Row) -> bool:
    """Whether a row's runs could have come out otherwise; of several seeds nobody asks."""
    return len(row.seeds) > 1 or any_seed(row.method, row.variant, row.options)


def _summary(reference: str, pairs: Sequence[Pair], labels: Sequence[str], *, given: bool) -> str:
    """What the pairs come to; of a row without predictions nothing is shown."""
    above: dict[str, list[str]] = {"beaten": [], "equal": [], "better": []}
    for pair in pairs:
        other, ahead = (pair.a, -1) if given else (pair.b, 1)
        won = ahead * pair.difference.difference > 0
        above["equal" if not pair.holds else "beaten" if won else "better"].append(other)
    tested = {reference, *(label for pair in pairs for label in (pair.a, pair.b))}
    above["equal"] += [label for label in labels if label not in tested]
    return summary(reference, given=given, **above)
