"""Runs -> one table: the best configuration of each method over its seeds, and what beats what.

A row is a method (or whatever ``by`` says). Its configuration is chosen by the selection rule's
own score on validation, averaged over seeds, and never on test. Only runs over one cache, with
the same attributes, are compared: each such pool is a block of its own.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from embedcal.comparing.choosing import Choice, choose, mean_ranks
from embedcal.comparing.judging import about_groups, judged, labeller
from embedcal.comparing.recorded import Found, Pool, collect, named, number, option, plain
from embedcal.comparing.verdicts import counted, sentence, summary
from embedcal.evaluate import Interval, Rule, Strata, bootstrap
from embedcal.evaluate.paired import Difference, holm, paired
from embedcal.grids.results import no_garbage
from embedcal.scored import count
from embedcal.types import EmbedcalError

FACTS = ("method", "variant", "head", "dataset", "backbone")
LEVEL = 0.05
AVERAGED = ("worst_group", "train_weighted", "group_mean", "worst_class", "class_mean", "mean")
VECTORS = ("groups", "classes")
FEWEST_DRAWS, MOST_DRAWS = 2000, 10_000


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
        wanted = pools[0].rule(select, oracle=oracle).name
        raise EmbedcalError(
            f"expected runs that kept the rule '{wanted}', found none: choose another rule, or fit "
            "them again under it"
        )
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
    if lacking:
        notes.append(f"{counted(lacking, 'run')} left out: kept nothing under {wanted.name}")
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
    rows = [_row(row, choice, wanted, name) for row, choice in choices.items()]
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


def _row(label: str, choice: Choice, wanted: Rule, metric: str) -> Row:
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


def _block(draft: _Draft, baseline: str | None) -> Block:
    """Intervals and differences from the predictions of the chosen runs."""
    pool, metric, rows = draft.pool, draft.metric, list(draft.rows)
    notes = list(draft.notes)
    correct, cells = _tested(draft)
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
        summary=_summary(reference, pairs, given=given),
        scored=f"test rows of this cache have been scored under {draft.rule.name} "
        f"{counted(scored.times, 'time')}, for {counted(scored.runs, 'run')}",
        notes=tuple(notes),
        judged=pool.judge is not None,
    )


def _tested(draft: _Draft) -> tuple[dict[str, np.ndarray], Strata | None]:
    """Rights and wrongs (r, n) of each row whose predictions are there, and the labels."""
    from safetensors import SafetensorError

    correct: dict[str, np.ndarray] = {}
    judge = draft.pool.judge
    cells = None if judge is None else judge.cells
    for row in draft.rows:
        # Results may lie here without their predictions, or with a damaged file of them.
        with suppress(EmbedcalError, SafetensorError, OSError, KeyError, TypeError, ValueError):
            found = []
            for run, entry in draft.behind[row.label]:
                own = run.strata("test") if judge is None else judge.cells
                cells = cells or own
                if not np.array_equal(own.cell, cells.cell):
                    raise EmbedcalError(
                        f"expected one test split for all runs of a cache, found another in "
                        f"{run.folder}: fit it again"
                    )
                found.append(run.logits(entry["rule"], "test").argmax(1) == own.y)
            correct[row.label] = np.stack(found)
    return correct, cells


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
    # What reads no labels is not fitted, so that no seed could change it.
    return tuple(
        Pair(
            a=a.label,
            b=b.label,
            difference=difference,
            adjusted=p,
            holds=p < LEVEL,
            sentence=sentence(
                a.label, b.label, difference, p, (bool(a.labels_used), bool(b.labels_used))
            ),
        )
        for (a, b), difference, p in zip(sides, found, adjusted, strict=True)
    )


def _summary(reference: str, pairs: Sequence[Pair], *, given: bool) -> str:
    above: dict[str, list[str]] = {"beaten": [], "equal": [], "better": []}
    for pair in pairs:
        other, ahead = (pair.a, -1) if given else (pair.b, 1)
        won = ahead * pair.difference.difference > 0
        above["equal" if not pair.holds else "beaten" if won else "better"].append(other)
    return summary(reference, given=given, **above)
