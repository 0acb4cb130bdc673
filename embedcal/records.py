"""The record of a run: what it was, what every rule kept, and the metrics of the rule chosen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from embedcal.environments import Environments
from embedcal.evaluate import (
    RULES,
    Rule,
    as_dict,
    bootstrap,
    default_rule,
    evaluate_strata,
    rule,
)
from embedcal.keep import Kept
from embedcal.methods import labels_of
from embedcal.methods.base import Marks, Method, Solver
from embedcal.types import Split, TextBank
from embedcal.workbench import Workbench

if TYPE_CHECKING:
    from torch import Tensor

NAMES = ("text.attribute", "text.context", "text.group", "text.pairs")  # prompts that name what
JUDGED: tuple[Split, ...] = ("val", "test")


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """What fitting left: the best head of each rule, the validation curve, and how it was made.

    ``marks`` are the rows that the method took for rare, ``environments`` those that a rule was
    asked to judge by.
    """

    best: Mapping[str, Kept]
    curve: Sequence[Mapping[str, float]]
    seconds: float
    engine: str
    marks: Marks | None = None
    environments: Environments | None = None


def selection_of(method: Method, wanted: Rule) -> str:
    """The rule that a run stands under; a solver has its own, however it was asked for."""
    return method.selection if isinstance(method, Solver) else wanted.name


def identity(method: Method, seed: int, on: Workbench) -> dict[str, Any]:
    """What a record says of a run before it is fitted.

    A method that reads the class prompts and no label has them for its classifier: the record
    says which they are.
    """
    meta = on.cache.meta
    found: dict[str, Any] = {
        "method": method.name,
        "variant": method.variant,
        "head": method.head_name,
        "options": method.record(),
        "seed": seed,
        "cache": {
            "path": str(meta.path),
            "fingerprint": on.cache.fingerprint,
            "dataset": meta.dataset,
            "backbone": meta.backbone,
            "rows": meta.rows,
        },
        "attributes": list(on.attributes),
    }
    if on.inferred:
        found["inferred"] = dict(on.inferred)
    reads_labels = any(need.endswith((".y", ".g", ".a")) for need in labels_of(method))
    if "text.class" in method.needs and not reads_labels and "class" in on.cache.banks:
        bank = on.cache.text("class").first(method.n_templates)
        found["prompts"] = prompts_of(bank)
    names = sorted(need for need in method.needs if need in NAMES)
    if names and not reads_labels:
        found["names"] = names
    return found


def prompts_of(bank: TextBank) -> dict[str, Any]:
    """The texts that a bank is made of: prompts with templates, or with descriptions of each."""
    found: dict[str, Any] = {"prompts": list(bank.prompts)}
    if bank.descriptions:
        return {**found, "descriptions": [list(texts) for texts in bank.descriptions]}
    return {**found, "templates": list(bank.templates)}


def by_rule(
    method: Method, fitted: Fitted, logits: Mapping[str, Tensor], on: Workbench
) -> dict[str, Any]:
    """For every rule its epoch, its labels used, and the accuracies of both splits.

    Judged by predicted classes; calibration and intervals are worked out for the chosen rule only.
    """
    measured: dict[tuple[int, Split], dict[str, Any]] = {}
    found = {}
    for name, kept in fitted.best.items():
        entry: dict[str, Any] = {"epoch": kept.epoch, "labels_used": _labels_used(method, name, on)}
        for split in JUDGED:
            if (kept.epoch, split) not in measured:
                classes = logits[f"{name}/{split}"].numpy().argmax(1)
                cells = on.strata(split, method.level)
                measured[kept.epoch, split] = as_dict(evaluate_strata(classes, cells))
            entry[split] = dict(measured[kept.epoch, split])
        entry["val"]["in_sample"] = isinstance(method, Solver) and method.fits_val
        found[name] = entry
    return found


def in_environments(
    rules: Mapping[str, Any], logits: Mapping[str, Tensor], found: Environments
) -> dict[str, Any]:
    """The entries of :func:`by_rule` with the worst environment of validation of each head."""
    return {
        name: {
            **entry,
            "val": {
                **entry["val"],
                "worst_env": found.accuracy(logits[f"{name}/val"].numpy().argmax(1)),
            },
        }
        for name, entry in rules.items()
    }


def chosen(
    method: Method,
    wanted: Rule,
    logits: Mapping[str, Tensor],
    on: Workbench,
    rules: Mapping[str, Any],
) -> dict[str, Any]:
    """What of a record depends on the selection rule: labels used, metrics, whether it peeks.

    ``rules`` is what the run keeps under each, as :func:`by_rule` and :func:`in_environments` say.
    """
    name = selection_of(method, wanted)
    measured: dict[str, Any] = {}
    for split in JUDGED:
        cells = on.strata(split, method.level)
        outputs = logits[f"{name}/{split}"].numpy()
        ends = bootstrap((outputs.argmax(1) == cells.y)[None], cells)
        measured[split] = as_dict(evaluate_strata(outputs, cells), ends)
    measured["val"]["in_sample"] = isinstance(method, Solver) and method.fits_val
    kept = rules[name]["val"]
    if "worst_env" in kept:
        measured["val"]["worst_env"] = kept["worst_env"]
    return {
        "selection": name,
        "oracle": not isinstance(method, Solver) and wanted.oracle,
        "labels_used": _labels_used(method, name, on),
        **measured,
    }


def _labels_used(method: Method, name: str, on: Workbench) -> list[str]:
    """Label arrays that the method, its stage, or the rule of this name reads.

    Groups of inferred attributes say so: ``val.g (inferred: water)``.
    """
    needs = rule(name).needs if name in {known.name for known in RULES} else frozenset()
    used = labels_of(method) | needs
    mark = f" (inferred: {', '.join(on.inferred)})" if on.inferred else ""
    labels = sorted(need for need in used if need.endswith((".y", ".g", ".a")))
    return [need if need.endswith(".y") else need + mark for need in labels]


def kept_under(record: Mapping[str, Any], select: str) -> Mapping[str, Any] | None:
    """What a stored run keeps under a rule: its entry of ``rules``, None where it has none.

    A solver has one choice, its own, which stands under every rule once this has judged it.
    """
    if record.get("status") != "done":
        return None
    rules: Mapping[str, Any] = record["rules"]
    found: Mapping[str, Any] | None = rules.get(select)
    if found is None and not {known.name for known in RULES} & set(rules):
        found = next(iter(rules.values()))
    return found if found is not None and judged_by(rule(select), found) else None


def judged_by(wanted: Rule, entry: Mapping[str, Any]) -> bool:
    """Whether an entry of ``rules`` has the rule's score, which not every run has met."""
    return not wanted.environments or wanted.statistic in entry["val"]


def score_of(record: Mapping[str, Any], select: str) -> float | None:
    """What a rule makes of a stored run on its split; None where it cannot judge it.

    A rule that looks at nothing, ``last``, chooses among runs by the default rule's statistic.
    """
    kept, judge = kept_under(record, select), rule(select)
    if kept is None:
        return None
    if judge.statistic is None:
        judge = default_rule(bool(record["attributes"]))
    value = kept[judge.split or "val"].get(judge.statistic)
    return None if value is None else float(value)
