"""Just train twice: what a first run gets wrong counts more in the second."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from embedcal.heads import Head
from embedcal.losses import cross_entropy
from embedcal.methods._bounds import at_least
from embedcal.methods.base import Batch, Gradient, Marks, Stage, option
from embedcal.types import EmbedcalError, IntArray, Task

SAME = (
    "head", "scope", "temperature", "prototype", "templates", "features",
    "optimizer", "lr", "weight_decay", "momentum", "batch_size", "clip_norm",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class JTT(Gradient):
    """Minimises lambda sum_{i in E} CE_i + sum_{i not in E} CE_i, E what a first run gets wrong.

    Liu et al., 2021 (arXiv:2107.09044). A first ERM run of ``--stage-epochs`` epochs with the same
    head and update rule predicts the training split in evaluation mode; the examples that it
    misclassifies are the error set E. The second run starts afresh, where the first one did.

    Variants, with lambda = ``--upweight``: ``paper`` puts each example of E lambda times into the
    training rows (as does the code of Idrissi et al., 2022, arXiv:2110.14503); ``official``, the
    authors' code, appends lambda copies to the data, so that E counts 1 + lambda times; ``subpop``
    takes every row once an epoch and minimises the mean of w_i CE_i over a batch, w = lambda on E
    and 1 elsewhere, not divided by the weights, as the official code of Yang et al., 2023
    (arXiv:2302.12254). Copies spread over the batches of a longer epoch, weights do not.

    The authors' settings, for whole networks: SGD with momentum 0.9, lr 1e-5, batches of 64;
    Waterbirds weight decay 1, 60 epochs and then 300, lambda 100; CelebA weight decay 0.1, 1 epoch
    and then 50, lambda 50; all chosen by the worst group of val. Over strong features a first run
    soon gets everything right: keep it short.
    """

    name = "jtt"
    variants = ("paper", "official", "subpop")

    upweight: int = option(50, "lambda, how often or how much an error counts", grid=(20, 50, 100))
    stage_epochs: int = option(5, "epochs of the first ERM run", grid=(1, 3, 5, 10))
    stage_select: str = option(
        "last",
        "rule that chooses the first run's epoch",
        choices=("val.mean", "val.worst_class", "val.worst_group", "last"),
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self, upweight=1, stage_epochs=1)

    @property
    def stage(self) -> Stage:
        options = {name: getattr(self, name) for name in SAME} | {"epochs": self.stage_epochs}
        return Stage(method="erm", options=options, select=self.stage_select)

    def prepare(self, task: Task, generator: torch.Generator) -> Tensor:
        """How often each training row counts: (n,), 1 outside the error set."""
        wrong = _errors(task)
        found = int(wrong.sum())
        if found == 0:
            raise EmbedcalError(
                "expected training examples that the first run misclassifies for jtt, found none: "
                f"lower --stage-epochs (now {self.stage_epochs}) or --lr"
            )
        if found == len(wrong):
            raise EmbedcalError(
                "expected training examples that the first run classifies rightly for jtt, found "
                f"none: raise --stage-epochs (now {self.stage_epochs}) or --lr"
            )
        times = self.upweight + (self.variant == "official")
        return torch.where(wrong, times, 1)

    def marks(self, task: Task) -> Marks:
        """The error set."""
        return Marks(split="train", rows=np.flatnonzero(_errors(task).numpy()))

    def rows(self, task: Task, plan: Tensor) -> IntArray | None:
        if self.variant == "subpop":
            return None
        return np.repeat(np.arange(len(plan)), plan.numpy())

    def init(self, plan: Tensor) -> Tensor:
        weighted = self.variant == "subpop"
        return plan.float() if weighted else torch.ones(len(plan))

    def loss(
        self, head: Head, state: Tensor, batch: Batch, hyper: Mapping[str, Tensor]
    ) -> tuple[Tensor, Tensor]:
        return (state[batch.index] * cross_entropy(head(batch.x), batch.y)).mean(), state


def _errors(task: Task) -> Tensor:
    """Which training rows (n,) the first run gets wrong."""
    wrong: Tensor = task.stage.logits.argmax(1) != torch.as_tensor(task.train.y)
    return wrong
