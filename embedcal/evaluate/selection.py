"""Rules that choose an epoch, a C or a variant, each with the labels that it looks at.

Chosen on validation by name, recorded in every run. Names as in the results; the one that looks
at test says "oracle". Group labels for selection are labels used: ``val.worst_class`` is the rule
for those who have none (SubpopBench: Yang et al. 2023, arXiv:2302.12254), and ``val.env`` another,
which judges by environments that a probe's logits give away (EVaLS: Ghaznavi et al. 2024,
arXiv:2410.05345).
"""

from __future__ import annotations

from dataclasses import dataclass

from embedcal.errors import did_you_mean
from embedcal.evaluate.metrics import Metrics
from embedcal.types import EmbedcalError, Split


@dataclass(frozen=True, kw_only=True)
class Rule:
    """A way to choose among epochs or runs.

    ``needs`` are the arrays that it reads, in the words of a method's needs; ``split`` is the
    split whose metrics ``score`` wants, None for a rule that looks at none. ``statistic`` is the
    name of the score in a record. An ``oracle`` looks at test: an upper bound, never a result.
    A rule of ``environments`` has those that a probe gives away in place of groups, so the labels
    that the probe is fitted to are among its needs.
    """

    name: str
    statistic: str | None
    split: Split | None
    needs: frozenset[str]
    environments: bool = False

    @property
    def oracle(self) -> bool:
        return self.split == "test"

    @property
    def reads_groups(self) -> bool:
        return any(need.endswith(".g") for need in self.needs)

    @property
    def on_demand(self) -> bool:
        """Whether a run keeps a head for it only if asked to: it peeks, or costs a probe."""
        return self.oracle or self.environments

    def score(self, metrics: Metrics) -> float:
        """The number to maximise, from metrics of ``split``; 0 for a rule that looks at none.

        A rule of environments wants metrics whose groups are the environments.
        """
        if self.statistic is None:
            return 0.0
        name = "worst_group" if self.environments else self.statistic
        value: float | None = getattr(metrics, name)
        if value is None:
            raise EmbedcalError(
                f"expected attribute labels on {self.split} for the rule '{self.name}', found "
                "none: choose 'val.worst_class', or add an attribute to the data set"
            )
        return value

    def improves(self, score: float, best: float | None) -> bool:
        """Whether an epoch replaces the best so far: strictly better, so that the first wins ties.

        (Group DRO, WILDS and the CLIP fine-tuning papers compare with >.) Under ``last`` every
        epoch replaces the one before.
        """
        return self.statistic is None or best is None or score > best


RULES: tuple[Rule, ...] = (
    Rule(
        name="val.worst_group",
        statistic="worst_group",
        split="val",
        needs=frozenset({"val.y", "val.g"}),
    ),
    Rule(name="val.worst_class", statistic="worst_class", split="val", needs=frozenset({"val.y"})),
    Rule(
        name="val.env",
        statistic="worst_env",
        split="val",
        needs=frozenset({"train.y", "val.y"}),
        environments=True,
    ),
    Rule(name="val.mean", statistic="mean", split="val", needs=frozenset({"val.y"})),
    Rule(name="last", statistic=None, split=None, needs=frozenset()),
    Rule(
        name="oracle.worst_group",
        statistic="worst_group",
        split="test",
        needs=frozenset({"test.y", "test.g"}),
    ),
)


def rule(name: str) -> Rule:
    """The rule of that name; EmbedcalError with the nearest name otherwise."""
    for known in RULES:
        if known.name == name:
            return known
    names = [known.name for known in RULES]
    hint = did_you_mean(name, names, "val.worst_class needs no group labels")
    raise EmbedcalError(
        f"expected a selection rule among {', '.join(names)}, found '{name}': {hint}"
    )


def default_rule(has_attributes: bool) -> Rule:  # noqa: FBT001 - one question, one answer
    """``val.worst_group`` where attributes exist, else ``val.worst_class``."""
    return rule("val.worst_group" if has_attributes else "val.worst_class")
