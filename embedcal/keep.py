"""What a run keeps: for each selection rule its epoch, its head, and predictions."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from torch import Tensor

from embedcal.evaluate import Rule, evaluate_strata
from embedcal.features import Features
from embedcal.heads import Head, predict
from embedcal.types import IntArray, Level, Split
from embedcal.workbench import Workbench

if TYPE_CHECKING:
    from embedcal.environments import Environments


@dataclass(kw_only=True)
class Kept:
    """The best epoch so far under one rule; ``logits`` (n, C) of splits predicted already."""

    epoch: int
    score: float
    head: Head
    logits: Mapping[Split, Tensor] = field(default_factory=dict)


@dataclass
class Keeper:
    """Watches a training run and keeps the best head under every rule.

    It holds the labels that the method itself may not see. Test is read by an oracle rule only.
    ``environments`` are for a rule that judges by them.
    """

    on: Workbench
    level: Level
    rules: tuple[Rule, ...]
    device: str
    environments: Environments | None = None
    best: dict[str, Kept] = field(default_factory=dict)
    curve: list[dict[str, float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        assert self.environments is not None or not any(rule.environments for rule in self.rules)
        splits: set[Split] = {"val", *(rule.split or "val" for rule in self.rules)}
        self._strata = {split: self.on.strata(split, self.level) for split in splits}
        self.features: dict[Split, Features] = {
            split: self.on.features(split, self.level, self.device) for split in splits
        }

    def __call__(self, epoch: int, head: Head) -> None:
        """One run's head after an epoch: predict, then :meth:`observe`."""
        logits = {split: predict(head, x).cpu() for split, x in self.features.items()}
        classes = {split: found.argmax(1).numpy() for split, found in logits.items()}
        self.observe(epoch, classes, lambda: copy.deepcopy(head), logits)

    def observe(
        self,
        epoch: int,
        classes: Mapping[Split, IntArray],
        head: Callable[[], Head],
        logits: Mapping[Split, Tensor] | None = None,
    ) -> None:
        """Judge an epoch by the classes (n,) predicted on each of ``features``.

        ``head`` makes a copy of the head; it is asked for one only if a rule keeps this epoch.
        ``logits``, where they are at hand, are kept with it.
        """
        found = {split: evaluate_strata(classes[split], self._strata[split]) for split in classes}
        val = found["val"]
        point = {"epoch": epoch, "val.mean": val.mean, "val.worst_class": val.worst_class}
        if val.worst_group is not None:
            point["val.worst_group"] = val.worst_group
        by_cell = None
        if self.environments is not None:
            by_cell = evaluate_strata(classes["val"], self.environments.cells)
            point["val.worst_env"] = self.environments.worst(by_cell)
        self.curve.append(point)
        kept = None  # one copy of an epoch's head, whichever rules keep it
        for rule in self.rules:
            judged = by_cell if rule.environments else found[rule.split or "val"]
            assert judged is not None
            score = rule.score(judged)
            before = self.best.get(rule.name)
            if rule.improves(score, before.score if before else None):
                kept = kept or head()
                self.best[rule.name] = Kept(
                    epoch=epoch, score=score, head=kept, logits=logits or {}
                )


def rules_for(
    on: Workbench, rules: Iterable[Rule], wanted: Rule, before: Collection[str] = ()
) -> tuple[Rule, ...]:
    """The rules to keep a head for: all that the labels allow, one on demand only if wanted.

    Or if it is among ``before``, the names of those that the same run kept earlier.
    """
    return tuple(
        rule
        for rule in rules
        if (not rule.on_demand or rule == wanted or rule.name in before)
        and (not rule.reads_groups or on.has_groups(rule.split or "val"))
    )


def logits_of(best: Mapping[str, Kept], on: Workbench, level: Level) -> dict[str, Tensor]:
    """Validation and test logits (n, C) by ``RULE/SPLIT``, rows in the cache's order.

    Rules that keep the same epoch share its predictions.
    """
    splits: tuple[Split, ...] = ("val", "test")
    found: dict[tuple[int, Split], Tensor] = {}
    for kept in best.values():
        device = next(kept.head.parameters()).device
        for split in splits:
            if split in kept.logits:
                found[kept.epoch, split] = kept.logits[split]
            if (kept.epoch, split) not in found:
                x = on.features(split, level, str(device))
                found[kept.epoch, split] = predict(kept.head, x).cpu()
    return {
        f"{name}/{split}": found[kept.epoch, split].clone()
        for name, kept in best.items()
        for split in splits
    }
