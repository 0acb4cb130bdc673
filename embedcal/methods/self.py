"""SELF: fine-tune a probe on the few rows of val about which it and another one disagree."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np
import torch

from embedcal.heads import Head
from embedcal.methods._heldout import (
    Descent,
    FromProbe,
    Linear,
    balanced_batches,
    highest,
    in_one_order,
    log_softmax,
    losses,
)
from embedcal.methods.base import Marks, Solved, option
from embedcal.methods.erm import ERM
from embedcal.types import EmbedcalError, FloatArray, IntArray, Task

SCORES = (
    "early-disagreement",
    "dropout-disagreement",
    "early-misclassification",
    "misclassification",
    "random",
)


@dataclass(frozen=True, kw_only=True)
class SELF(FromProbe):
    """Minimises the cross-entropy of a probe, fine-tuned on the n rows of val that score highest.

    LaBonte et al., 2023 (arXiv:2309.08534). A linear probe of train, fitted with class-balanced
    batches, judges a random half of val. Its n highest scores are kept, and the probe goes on from
    where it is: ``--steps`` steps of SGD with momentum on batches of them, classes equally often on
    average. With p the probe's probabilities, the scores are

    * ``early-disagreement``: KL(p_early || p), p_early of the same probe after ``--early-epochs``;
    * ``dropout-disagreement``: KL(p_dropout || p), a mask of its own on the inputs of every row;
    * ``misclassification``, ``early-misclassification``: the cross-entropy of p, or of p_early;
    * ``random``: the control.

    All but the misclassification scores need y of the n chosen rows alone: labels used = n, though
    a run's record names whole arrays and says val.y. The official code chooses n, the step and the
    score by the worst group of val. Where the half has fewer than n rows, all of them are taken.

    Deviations: unit embeddings, times sqrt(d) while steps are taken; AdamW for the probe (with
    ``--features embedding`` take ``--stage-lr 1e-2``); no augmented images. Weaker over a cache: an
    early checkpoint of a network has other features too, and train-mode batch normalisation moves
    its dropout pass; here both disagreements are of one layer over the same features.
    ``early-disagreement`` fits the probe a second time, up to the early epoch.
    """

    name = "self"

    score: str = option(
        "early-disagreement", "what ranks the rows", choices=SCORES, grid=SCORES[:4]
    )
    n: int = option(100, "rows to fine-tune on", grid=(20, 100, 500))
    early_epochs: int = option(
        10, "epochs of the early probe; the official code tries 10, 20, 50 of 100"
    )
    dropout: float = option(0.5, "share of the inputs that a mask drops; official: 0.5, 0.7, 0.9")
    steps: int = option(250, "steps of fine-tuning")
    lr: float = option(1e-3, "learning rate", grid=(1e-4, 1e-3, 1e-2))
    momentum: float = option(0.9, "momentum of sgd")
    weight_decay: float = option(1e-4, "weight decay")
    batch_size: int = option(32, "examples a step")
    stage_sampler: str = option(
        "class",
        "the first ERM run's batches: every example once an epoch, or classes equally often",
        choices=("iid", "class"),
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check(n=1, early_epochs=1, steps=1, batch_size=1)
        self.check(lr=0, momentum=0, weight_decay=0, dropout=0)
        if self.dropout >= 1:
            raise EmbedcalError(
                f"expected --dropout below 1, found {self.dropout}: a mask leaves something"
            )
        if self._early and self.early_epochs >= self.stage_epochs:
            raise EmbedcalError(
                f"expected --early-epochs below --stage-epochs, found {self.early_epochs} and "
                f"{self.stage_epochs}: lower the first"
            )

    @property
    def _early(self) -> bool:
        return self.score.startswith("early")

    @property
    def needs(self) -> frozenset[str]:
        return super().needs | ({"train.x", "train.y"} if self._early else set())

    def solve(self, task: Task, seed: int) -> Head:
        return self.solved(task, seed).head

    def solved(self, task: Task, seed: int) -> Solved:
        """The head, and the rows that it was fine-tuned on, of those that were kept back."""
        rng = np.random.default_rng([seed, 0])
        probe = Linear.of(task.stage.head)
        with in_one_order():
            kept, chosen = self._chosen(task, seed, rng)
            x, y = self.inputs(task.val.x[chosen]), task.val.y[chosen]
            stretch = self.stretch(x.shape[1])
            descent = Descent(
                probe.scaled(1 / stretch),
                optimizer="sgd",
                momentum=self.momentum,
                weight_decay=self.weight_decay,
            )
            for rows in islice(_endless(y, self.batch_size, rng), self.steps):
                descent.step(stretch * x[rows], y[rows], self.lr)
        head = self.made(descent.layer.scaled(stretch))
        return Solved(head=head, marks=Marks(split="val", rows=chosen, among=kept))

    def chosen(self, task: Task, seed: int, rng: np.random.Generator) -> IntArray:
        """Positions in val of the n rows to fine-tune on, the highest score first."""
        return self._chosen(task, seed, rng)[1]

    def _chosen(self, task: Task, seed: int, rng: np.random.Generator) -> tuple[IntArray, IntArray]:
        """Positions in val that are kept back, and :meth:`chosen` of them."""
        size = len(task.val.x)
        kept = np.sort(rng.permutation(size)[: max(1, round(self.share * size))])
        return kept, kept[highest(self._scores(task, kept, seed, rng), self.n)]

    def _scores(
        self, task: Task, kept: IntArray, seed: int, rng: np.random.Generator
    ) -> FloatArray:
        """What ranks the rows kept back (m,), and reads y of them only where it has to."""
        x, probe = self.inputs(task.val.x[kept]), Linear.of(task.stage.head)
        if self.score == "random":
            return rng.random(len(x))
        if self.score == "misclassification":
            return losses(probe.logits(x), task.val.y[kept])
        if self.score == "dropout-disagreement":
            stays = rng.random(x.shape) >= self.dropout
            return divergence(probe.logits(x * stays / (1 - self.dropout)), probe.logits(x))
        early = self.early(task, seed).logits(x)
        if self.score == "early-misclassification":
            return losses(early, task.val.y[kept])
        return divergence(early, probe.logits(x))

    def early(self, task: Task, seed: int) -> Linear:
        """The first run's probe as it is after ``--early-epochs``.

        A finished stage hands on one head, so its first epochs are done again: same start, same
        batches, same steps, in float64.
        """
        assert self.stage is not None
        erm = ERM(**self.stage.options)
        erm = replace(erm, lr=erm.step_size)
        generator = torch.Generator().manual_seed(seed)
        plan = erm.prepare(task, generator)
        start: Head = erm.start_head(task, generator)
        descent = Descent(Linear.of(start), optimizer="adamw", weight_decay=erm.weight_decay)
        for epoch in range(1, self.early_epochs + 1):
            for step in erm.steps(task, plan, epoch, generator):
                rows = step.batch.numpy()
                descent.step(self.inputs(task.train.x[rows]), task.train.y[rows], erm.lr)
        return descent.layer


def divergence(logits: FloatArray, other: FloatArray) -> FloatArray:
    """KL(p || q) / C (n,) of each row, p and q the softmax of logits (n, C) and of the other.

    The official code divides by C, which changes no order.
    """
    log_p, log_q = log_softmax(logits), log_softmax(other)
    found: FloatArray = (np.exp(log_p) * (log_p - log_q)).mean(1)
    return found


def _endless(y: IntArray, batch_size: int, rng: np.random.Generator) -> Iterator[IntArray]:
    while True:
        yield from balanced_batches(y, batch_size, rng)
