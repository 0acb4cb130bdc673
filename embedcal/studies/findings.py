"""What a study found, in sentences made from its numbers. They name differences, never causes."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from embedcal.comparing.effects import decompose
from embedcal.comparing.verdicts import counted, points
from embedcal.datasets.printable import printable
from embedcal.evaluate import Interval
from embedcal.fitting import configure
from embedcal.studies.preset import Preset
from embedcal.studies.result import Block
from embedcal.studies.rows import LEVEL, Row
from embedcal.types import FloatArray, IntArray

NAMED = 6  # rows that one sentence lists
SETS = 8  # rows whose calibration sets are listed
FEWEST = 4  # rows for a rank correlation
PERMUTATIONS = 9999


def metric_words(metric: str) -> str:
    """ "worst_group" as words."""
    return metric.replace("train_weighted", "train-weighted accuracy").replace("_", " ")


def findings(chosen: Preset, block: Block) -> tuple[str, ...]:
    """What can be said of one block, in the order: data, differences, choice, what else."""
    where = f"{printable(block.dataset)} through {printable(block.backbone)}"
    seeds = sorted({len(row.seeds) for row in block.rows})
    found = [
        f"{counted(len(block.rows), 'configuration')} on {where}: "
        f"{counted(block.test_rows, 'test row')}, {_seeds(seeds)}, epochs by {block.rule}."
    ]
    own = "the first row of its method"
    if chosen.attributes == "each":
        own = "the same method with the groups of all"
    for metric in block.metrics:
        found += _differences(block.rows, metric, own)
    if any(row.reference != row.label for row in block.rows):
        found.append(_what_for(block))
    found += _choice(chosen, block)
    if chosen.look == "calibration":
        found += _sets(block.rows)
    found += _associations(chosen, block)
    found += _effects(chosen, block)
    return tuple(found)


def across(chosen: Preset, blocks: Sequence[Block]) -> tuple[str, ...]:
    """What can be said over several caches: which row each chooses, and what holds in all."""
    if len(blocks) < 2:
        return ()
    choices = [
        f"{best.label} on {printable(block.dataset)} through {printable(block.backbone)}"
        for block in blocks
        if (best := _best(chosen, block.rows)) is not None
    ]
    found = [f"Validation chooses {'; '.join(choices)}."] if choices else []
    metric = blocks[0].metrics[0]
    verdicts: dict[str, list[int]] = {}
    for block in blocks:
        for row in block.rows:
            score = row.scores.get(metric)
            if score is not None and score.difference is not None:
                sign = _sign(row, metric) if score.holds else 0
                verdicts.setdefault(row.label, []).append(sign)
    everywhere = {label: set(v) for label, v in verdicts.items() if len(v) == len(blocks)}
    same = [label for label, signs in everywhere.items() if signs in ({1}, {-1})]
    against = [label for label, signs in verdicts.items() if {1, -1} <= set(signs)]
    found.append(
        f"In {metric_words(metric)}, {len(same)} of {counted(len(everywhere), 'difference')} "
        f"measured on all {len(blocks)} caches hold with the same sign on each"
        + (f" ({_listed(same)})" if same else "")
        + (f"; opposite signs hold for {_listed(against)}" if against else "")
        + ". Caches are not compared with each other."
    )
    return tuple(found)


def _seeds(counts: Sequence[int]) -> str:
    if len(counts) == 1:
        return f"{counted(counts[0], 'seed')} each"
    return f"{counts[0]} to {counts[-1]} seeds each"


def _differences(rows: Sequence[Row], metric: str, own: str) -> list[str]:
    """What is shown to be higher than its reference, lower, or not; ``own`` names several."""
    compared = [row for row in rows if row.scores[metric].difference is not None]
    if not compared:
        return []
    words = metric_words(metric)
    start = f"{words[0].upper()}{words[1:]}"
    references = {row.reference for row in compared}
    if len(references) == 1:
        (base,) = (row for row in rows if row.label in references)
        score = base.scores[metric]
        start += f": {base.label} has {points(score.mean)} % ({_ends(score.interval)}); against it,"
    else:
        start += f", each row against {own}:"
    higher, lower = (
        [
            _moved(row, metric)
            for row in compared
            if row.scores[metric].holds and _sign(row, metric) == s
        ]
        for s in (1, -1)
    )
    open_ = [row for row in compared if not row.scores[metric].holds]
    alone = [_signed(row, metric) for row in open_ if _excludes(row, metric)]
    level = [row.label for row in open_ if not _excludes(row, metric)]
    parts = []
    if higher:
        parts.append(f"shown to be higher, in points: {_listed(higher)}")
    if lower:
        parts.append(f"shown to be lower, in points: {_listed(lower)}")
    if alone:
        parts.append(f"not shown once all comparisons are counted: {_listed(alone)}")
    if level:
        parts.append(f"no difference is shown for {_listed(level)}")
    return [f"{start} {'; '.join(parts)}."]


def _sign(row: Row, metric: str) -> int:
    difference = row.scores[metric].difference
    return 0 if difference is None else int(np.sign(difference.difference))


def _excludes(row: Row, metric: str) -> bool:
    """Whether the interval of the difference, on its own, leaves 0 out."""
    difference = row.scores[metric].difference
    return difference is not None and not difference.interval[0] <= 0 <= difference.interval[1]


def _signed(row: Row, metric: str) -> str:
    difference = row.scores[metric].difference
    assert difference is not None
    return f"{row.label} by {points(difference.difference)} ({_ends(difference.interval)})"


def _moved(row: Row, metric: str) -> str:
    """ "group-dro by 3.1 (0.5 to 5.7)", whichever the direction."""
    difference = row.scores[metric].difference
    assert difference is not None
    low, high = difference.interval
    if difference.difference < 0:
        low, high = -high, -low
    return f"{row.label} by {points(abs(difference.difference))} ({_ends((low, high))})"


def _what_for(block: Block) -> str:
    text = "Intervals are 95 % and for these test rows"
    compared = sum(row.label != row.reference for row in block.rows)
    alone = any(
        len(row.seeds) == 1 and configure(row.method, row.options).random for row in block.rows
    )
    if alone:
        text += ", and what has one seed says nothing of other seeds"
    else:
        text += " and, in differences, for seeds"
    if any(len(row.seeds) == 2 for row in block.rows):
        text += ", of which two say very little"
    return f"{text}; {counted(compared, 'comparison')} a metric, adjusted by Holm's method."


def _best(chosen: Preset, rows: Sequence[Row]) -> Row | None:
    """What validation chooses among the rows that did not fit it.

    Nothing where rows have groups of their own: the worst of few groups is no match for the worst
    of many.
    """
    if chosen.attributes == "each":
        return None
    able = [row for row in rows if not row.in_sample and not math.isnan(row.validation)]
    return max(able, key=lambda row: row.validation, default=None)


def _choice(chosen: Preset, block: Block) -> list[str]:
    best, metric = _best(chosen, block.rows), block.metrics[0]
    if best is None or len(block.rows) < 2:
        return []
    score = best.scores[metric]
    text = (
        f"Validation chooses {best.label} ({points(best.validation)} % there by {block.rule}); "
        f"its {metric_words(metric)} on test is {points(score.mean)} % ({_ends(score.interval)})."
    )
    left = [row.label for row in block.rows if row.in_sample]
    if left:
        text += f" Not in that choice, since they fitted validation: {_listed(left)}."
    top = max(block.rows, key=lambda row: row.scores[metric].mean)
    if top.label != best.label:
        text += (
            f" The highest on test, {top.label} with {points(top.scores[metric].mean)} %, is known "
            "only by looking at test."
        )
    return [text]


def _sets(rows: Sequence[Row]) -> list[str]:
    """The calibration sets, one after another."""
    listed = []
    for row in rows:
        size = row.looked.get("rows", math.nan)
        if math.isnan(size) or size == 0:
            continue
        text = f"{row.label}: {size:,.0f} rows"
        precision = row.looked.get("precision", math.nan)
        if not math.isnan(precision):
            text += (
                f", {points(precision)} % of them of rare groups, which are "
                f"{points(row.looked['recall'])} % of all such rows"
            )
        listed.append(text)
    if not listed:
        return []
    more = f"; and {len(listed) - SETS} more" if len(listed) > SETS else ""
    return [f"Calibration sets, means over seeds: {'; '.join(listed[:SETS])}{more}."]


def _associations(chosen: Preset, block: Block) -> list[str]:
    """Rank correlations of what a scatter is drawn over with the first metric."""
    if chosen.figure != "scatter":
        return []
    metric = block.metrics[0]
    found = []
    for name in chosen.x:
        pairs = [
            (value, row.scores[metric].mean)
            for row in block.rows
            if not math.isnan(value := value_of(row, name))
        ]
        if len(pairs) < FEWEST:
            continue
        x, y = np.array(pairs).T
        rho, p = rank_correlation(x, y)
        if math.isnan(rho):
            continue
        rows = f"over {len(pairs)} configurations (rank correlation {rho:.2f}, p = {p:.3f})"
        if p < LEVEL:
            way = "higher" if rho > 0 else "lower"
            found.append(f"More {name} goes with a {way} {metric_words(metric)} {rows}.")
        else:
            found.append(f"No association of {name} with {metric_words(metric)} is shown {rows}.")
    if found:
        found[-1] += " Configurations differ in more than that, so no cause is shown."
    return found


def value_of(row: Row, name: str) -> float:
    """Seconds, or what was looked at, of a row; NaN where there is none."""
    return row.seconds if name == "seconds" else row.looked.get(name, math.nan)


def rank_correlation(x: FloatArray, y: FloatArray) -> tuple[float, float]:
    """Spearman's rank correlation, and a two-sided p-value by permutation; NaN for constants."""
    a, b = _ranks(x), _ranks(y)
    if not (a.std() > 0 and b.std() > 0):
        return math.nan, math.nan
    a, b = (a - a.mean()) / a.std(), (b - b.mean()) / b.std()
    rho = float(a @ b) / len(a)
    rng = np.random.default_rng(0)
    drawn = rng.permuted(np.tile(a, (PERMUTATIONS, 1)), axis=1) @ b / len(a)
    extreme = int((np.abs(drawn) >= abs(rho) - 1e-12).sum())
    return rho, (extreme + 1) / (PERMUTATIONS + 1)


def _ranks(values: FloatArray) -> FloatArray:
    """1 for the smallest; equal values share their mean rank."""
    below = (values[:, None] > values).sum(1)
    equal = (values[:, None] == values).sum(1)
    ranks: FloatArray = below + (equal + 1) / 2
    return ranks


def _effects(chosen: Preset, block: Block) -> list[str]:
    """How the spread falls on options, for methods with a full grid of two or more of them."""
    found = []
    metric = block.metrics[0]
    for method, options in chosen.varying().items():
        own = [row for row in block.rows if row.method == method]
        full = math.prod(len({repr(row.options.get(o)) for row in own}) for o in options)
        if not own or len(options) < 2 or len(own) != full or chosen.attributes == "each":
            continue
        y = np.array([value for row in own for value in row.scores[metric].values])
        times = [len(row.seeds) for row in own]
        codes = {o: _codes([repr(row.options.get(o)) for row in own]) for o in options}
        parts = decompose(
            y,
            {name: np.repeat(code, times) for name, code in codes.items()},
            np.repeat(np.arange(len(own)), times),
        )
        shares = []
        for name in sorted(parts.shares, key=lambda name: -parts.shares[name]):
            text = f"{name} {100 * parts.shares[name]:.0f} %"
            # NaN where too few runs are left to tell.
            shares.append(text if parts.p_values[name] < LEVEL else f"{text} (as by chance)")
        rest = "interactions and seeds" if parts.seeds is None else "interactions"
        shares.append(f"{rest} {100 * parts.interactions:.0f} %")
        if parts.seeds is not None:
            shares.append(f"seeds {100 * parts.seeds:.0f} %")
        found.append(
            f"The spread of {metric_words(metric)} over {counted(len(y), 'run')} of {method} falls "
            f"on {', '.join(shares)}."
        )
    return found


def _codes(values: Sequence[str]) -> IntArray:
    return np.unique(values, return_inverse=True)[1]


def _ends(ends: Interval) -> str:
    return f"{points(ends[0])} to {points(ends[1])}"


def _listed(texts: Sequence[str]) -> str:
    more = len(texts) - NAMED
    return ", ".join(texts[:NAMED]) + (f" and {more} more" if more > 0 else "")
