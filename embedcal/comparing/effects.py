"""How much each option of a method matters: the spread of a grid's results, taken apart.

The runs of one method over one cache differ in options and in seed. With y the metric of a run,
the sum of squares about the grand mean has three parts:

* **options**: what an additive model explains, y = mean + one number for each value of each
  option. The share of an option is what the model loses without it (type II sums of squares,
  Fisher's eta squared). In a balanced grid these shares add up to the model's; else some of it
  cannot be told apart, and is reported as ``shared``;
* **interactions**: what configurations differ by beyond the additive model (lack of fit);
* **seeds**: what runs of one configuration differ by. Nothing below it can be known.

Chance gives every option a share: with N runs and v values about (v - 1) times the mean square of
what the model leaves over. ``p_value`` (the F test) says whether an option has more than that.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Float

from embedcal.comparing.recorded import (
    Found,
    Pool,
    collect,
    configuration,
    lacking_note,
    named,
    none_under,
    number,
    option,
    plain,
    varied,
)
from embedcal.comparing.verdicts import counted
from embedcal.evaluate import Rule
from embedcal.types import EmbedcalError, FloatArray, IntArray

MANY = 8  # an option with more different numbers than this is cut at its quartiles
LEVEL = 0.05


@dataclass(frozen=True, kw_only=True)
class Value:
    """One value of an option: the mean of its runs, that less the grand mean, standard error.

    ``error`` is that of the mean under the additive model, from all that it leaves over.
    """

    value: str
    mean: float
    effect: float
    error: float
    runs: int


@dataclass(frozen=True, kw_only=True)
class Effect:
    """One option: its share of the spread, and the largest less the smallest mean of a value.

    ``by_chance`` is the share that an option without any effect would have on average; NaN, as
    ``p_value``, where the additive model leaves nothing over to measure it by.
    """

    option: str
    share: float
    by_chance: float
    p_value: float
    range: float
    values: tuple[Value, ...]


@dataclass(frozen=True, kw_only=True)
class MethodEffects:
    """The options of one method over one cache, the largest share first. Shares are fractions.

    ``shared`` is what only several options together explain (0 in a balanced grid; below 0 where
    they hide each other). ``interactions`` holds the seeds' part too where no configuration has
    two seeds, and ``seeds`` is None then. ``interactions_by_chance`` is the part of them that
    seeds alone would give; NaN where no configuration has two. ``other_mean`` is the grand mean
    of the other split.
    """

    method: str
    dataset: str
    backbone: str
    fingerprint: str
    metric: str
    rule: str
    oracle: bool
    split: str
    runs: int
    configurations: int
    failed: int
    mean: float
    deviation: float
    other_mean: float
    options: tuple[Effect, ...]
    shared: float
    interactions: float
    interactions_by_chance: float
    seeds: float | None
    balanced: bool
    sentence: str
    notes: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Sensitivity:
    """What :func:`sensitivity` found: a part for each method over each cache."""

    methods: tuple[MethodEffects, ...]

    @property
    def record(self) -> dict[str, Any]:
        """As JSON holds it: fractions, null for what is not a number."""
        found: dict[str, Any] = plain(asdict(self))
        return found


def sensitivity(
    runs: Sequence[str | Path] | str | Path,
    *,
    metric: str | None = None,
    select: str | None = None,
    oracle: bool = False,
    method: str | None = None,
    split: Literal["val", "test"] = "val",
) -> Sensitivity:
    """How much each option that varies moves ``metric``, for each method and cache.

    ``runs`` as in :func:`embedcal.comparing.compare`; ``method``: this one alone. ``metric``: by
    default the worst group (or class). Epochs are those that ``select`` keeps. On validation by
    default, since what is read here is used to choose values; ``split="test"`` only to report.
    EmbedcalError where fewer than three runs, or runs of one configuration only, are found.

    Example:
        >>> import embedcal
        >>> with embedcal.open("birds.h5") as cache:
        ...     found = embedcal.grid(["erm:lr=1e-4,1e-2:epochs=2"], cache, seeds=2, out="runs")
        >>> [effect.option for effect in embedcal.sensitivity("runs").methods[0].options]
        ['lr']
    """
    if split not in ("val", "test"):
        raise EmbedcalError(
            f"expected --split val or test, found '{split}': take val, which may be chosen by"
        )
    pools = [pool for pool in collect(runs) if pool.done]
    methods = [run.record["method"] for pool in pools for run in pool.done]
    if method is not None:
        named(method, methods, "a method that has runs")
    pools = [
        replace(pool, done=tuple(r for r in pool.done if method in (None, r.record["method"])))
        for pool in pools
    ]
    pools = [pool for pool in pools if pool.done]
    rules = [pool.rule(select, oracle=oracle) for pool in pools]
    found: list[MethodEffects] = []
    for pool, wanted in zip(pools, rules, strict=True):
        found += effects_of(pool, wanted, pool.metric(metric, split), split)
    if not any(pool.under(wanted)[0] for pool, wanted in zip(pools, rules, strict=True)):
        raise none_under(pools, rules[0])
    if not found:
        which = f"of {method}" if method else "of one method"
        raise EmbedcalError(
            f"expected three runs or more {which} with different options, found none such: run a "
            "grid over the values of an option"
        )
    return Sensitivity(methods=tuple(found))


def effects_of(pool: Pool, wanted: Rule, metric: str, split: str) -> Iterator[MethodEffects]:
    """The effects of each method of one pool that has any, under a rule."""
    entries, lacking = pool.under(wanted)
    of_method: dict[str, list[Found]] = {}
    for item in entries:
        of_method.setdefault(item[0].record["method"], []).append(item)
    for key, items in of_method.items():
        part = _method(pool, key, items, metric, split)
        if part is not None:  # the note is also of methods that have no part of their own
            notes = (lacking_note(lacking, wanted),) if lacking else ()
            yield replace(part, notes=(*part.notes, *notes))


def _method(
    pool: Pool, method: str, items: Sequence[Found], metric: str, split: str
) -> MethodEffects | None:
    """The effects of one method; None where there is nothing to take apart."""
    scores = [number(entry[split].get(metric)) for _, entry in items]
    kept = [item for item, score in zip(items, scores, strict=True) if not math.isnan(score)]
    y = np.array([score for score in scores if not math.isnan(score)])
    cells = _codes([configuration(run.record) for run, _ in kept])
    options, cut = _options([run.record for run, _ in kept])
    if len(y) < 3 or not options:
        return None
    parts = decompose(y, {name: codes for name, (codes, _) in options.items()}, cells)
    error = parts.error
    effects = []
    for name, (codes, labels) in options.items():
        values = []
        for code, label in enumerate(labels):
            of_value = y[codes == code]
            values.append(
                Value(
                    value=label,
                    mean=float(of_value.mean()),
                    effect=float(of_value.mean() - y.mean()),
                    error=math.sqrt(error / len(of_value)),
                    runs=len(of_value),
                )
            )
        means = [value.mean for value in values]
        effects.append(
            Effect(
                option=name,
                share=parts.shares[name],
                by_chance=parts.by_chance[name],
                p_value=parts.p_values[name],
                range=max(means) - min(means),
                values=tuple(values),
            )
        )
    effects.sort(key=lambda effect: -effect.share)
    failed = sum(run.record["method"] == method for run in pool.failed)
    other = "test" if split == "val" else "val"
    notes = [f"{name} has many values: cut at its quartiles" for name in cut]
    notes += [
        f"{name} varies only together with others: it has no share of its own"
        for name in parts.aliased
    ]
    if failed:
        notes.append(
            f"{counted(failed, 'failed run')} left out: a value that makes runs fail looks better "
            "than it is"
        )
    if split == "val" and any(entry["val"].get("in_sample") for _, entry in kept):
        notes.append("in-sample: the method fitted the validation rows")
    first = kept[0][1]
    return MethodEffects(
        method=method,
        dataset=pool.dataset,
        backbone=pool.backbone,
        fingerprint=pool.fingerprint,
        metric=metric,
        rule=first["rule"],
        oracle=first["rule"].startswith("oracle."),
        split=split,
        runs=len(y),
        configurations=int(cells.max()) + 1,
        failed=failed,
        mean=float(y.mean()),
        deviation=float(y.std(ddof=1)),
        other_mean=float(np.mean([number(entry[other].get(metric)) for _, entry in kept])),
        options=tuple(effects),
        shared=parts.shared,
        interactions=parts.interactions,
        interactions_by_chance=parts.interactions_by_chance,
        seeds=parts.seeds,
        balanced=abs(parts.shared) < 1e-9,
        sentence=_sentence(effects, parts, metric, split),
        notes=tuple(notes),
    )


@dataclass(frozen=True, kw_only=True)
class Parts:
    """Shares of the sum of squares; see the module. ``error`` is the residual mean square."""

    shares: Mapping[str, float]
    by_chance: Mapping[str, float]
    p_values: Mapping[str, float]
    aliased: tuple[str, ...]
    shared: float
    interactions: float
    interactions_by_chance: float
    seeds: float | None
    error: float


def decompose(
    y: Float[np.ndarray, " n"], options: Mapping[str, IntArray], cells: IntArray
) -> Parts:
    """Take the spread of ``y`` (n,) apart.

    ``options`` give the value of each option in each run as 0, 1, ...; ``cells`` (n,) the
    configuration of each run. Shares are 0 where all of ``y`` are equal.
    """
    centred = y - y.mean()
    total = float(centred @ centred)
    full, rank = _fit(centred, options)
    means = np.bincount(cells, weights=centred) / np.bincount(cells)
    within = float(((centred - means[cells]) ** 2).sum())
    freedom = len(y) - rank
    error = full / freedom if freedom > 0 else math.nan
    if total <= 1e-12 * max(1.0, float(y @ y)):  # rounding, nothing else
        total, full, within, error = math.inf, 0.0, 0.0, 0.0
    shares, chance, p_values, aliased = {}, {}, {}, []
    for name in options:
        rest, rank_rest = _fit(centred, {k: v for k, v in options.items() if k != name})
        own, lost = max(0.0, rest - full), rank - rank_rest
        shares[name] = own / total if lost else 0.0
        chance[name] = lost * error / total
        p_values[name] = _f_test(own, lost, error, freedom)
        if lost == 0:
            aliased.append(name)
    configurations = int(cells.max()) + 1
    repeats = len(y) - configurations
    noise = within / repeats if repeats else math.nan
    left = max(0.0, full - within) / total
    explained = 0.0 if math.isinf(total) else 1 - full / total
    return Parts(
        shares=shares,
        by_chance=chance,
        p_values=p_values,
        aliased=tuple(aliased),
        shared=explained - sum(shares.values()),
        interactions=left,
        interactions_by_chance=max(0, configurations - rank) * noise / total,
        seeds=within / total if repeats else None,
        error=error,
    )


def _fit(y: FloatArray, options: Mapping[str, IntArray]) -> tuple[float, int]:
    """Residual sum of squares and rank of the additive model."""
    columns = [np.ones((len(y), 1))]
    columns += [np.eye(int(codes.max()) + 1)[codes][:, 1:] for codes in options.values()]
    design = np.concatenate(columns, axis=1)
    solution, _, rank, _ = np.linalg.lstsq(design, y, rcond=None)
    residual = y - design @ solution
    return float(residual @ residual), int(rank)


def _f_test(own: float, lost: int, error: float, freedom: int) -> float:
    if lost == 0 or freedom <= 0:
        return math.nan
    if error <= 1e-15:
        return 0.0 if own > 1e-15 else 1.0
    from scipy.special import fdtrc

    return float(fdtrc(lost, freedom, own / lost / error))


def _options(
    records: Sequence[Mapping[str, Any]],
) -> tuple[dict[str, tuple[IntArray, tuple[str, ...]]], list[str]]:
    """Every option that varies, as codes and the labels of its values, and those that were cut."""
    found, cut = {}, []
    for name in varied(records):
        raw = [option(record, name) for record in records]
        texts = [json.dumps(value) for value in raw]
        numeric = all(isinstance(v, int | float) and not isinstance(v, bool) for v in raw)
        if numeric and len(set(raw)) > MANY:
            cut.append(name)
            found[name] = _quartiles(np.array(raw, dtype=np.float64))
            continue
        order = sorted(set(texts), key=(lambda t: (json.loads(t), t)) if numeric else None)
        codes = np.array([order.index(text) for text in texts])
        found[name] = (codes, tuple(text.strip('"') for text in order))
    return found, cut


def _quartiles(values: FloatArray) -> tuple[IntArray, tuple[str, ...]]:
    edges = np.unique(np.quantile(values, [0.25, 0.5, 0.75], method="lower"))
    codes = _codes(np.searchsorted(edges, values).tolist())
    parts = [values[codes == code] for code in range(int(codes.max()) + 1)]
    labels = [(part.min(), f"{part.min():.3g} to {part.max():.3g}") for part in parts]
    order = np.argsort([low for low, _ in labels])
    return np.argsort(order)[codes], tuple(labels[i][1] for i in order)


def _codes(values: Sequence[Any]) -> IntArray:
    """0, 1, ... for each different value, in the order of first appearance."""
    index = {value: i for i, value in enumerate(dict.fromkeys(values))}
    return np.array([index[value] for value in values])


def _sentence(effects: Sequence[Effect], parts: Parts, metric: str, split: str) -> str:
    def words(effect: Effect) -> str:
        text = f"{effect.option} {100 * effect.share:.0f} %"
        return text if effect.p_value < LEVEL else f"{text} (no more than chance)"

    first, *others = map(words, effects)
    name, rest = first.split(" ", 1)
    text = f"{name} explains {rest} of the spread of {metric} on {split}"
    if parts.seeds is None:
        others.append(f"interactions and seeds {100 * parts.interactions:.0f} %")
    else:
        others.append(f"interactions {100 * parts.interactions:.0f} %")
        others.append(f"seeds {100 * parts.seeds:.0f} %")
    if abs(parts.shared) >= 0.005:
        others.append(f"{100 * parts.shared:.0f} % cannot be told apart")
    return f"{text}; {', '.join(others)}."
