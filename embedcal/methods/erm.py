"""Empirical risk minimisation: the baseline that learns whatever predicts on average."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from embedcal.heads import Head
from embedcal.losses import cross_entropy
from embedcal.methods.base import Batch, Gradient, Plan, State, fixed_part, option
from embedcal.types import EmbedcalError, IntArray, Task


@dataclass(frozen=True, kw_only=True)
class ERM(Gradient):
    """Minimises the mean cross-entropy mean_i CE(logits_i, y_i).

    With the projection head: Yang et al., 2023 (arXiv:2304.03916), the baseline of their table 4.
    With the linear head: a linear probe on the unit embedding. Deviation: AdamW by default; the
    papers' SGD is ``--optimizer sgd --lr 1e-4 --weight-decay 1e-5 --epochs 300``.
    """

    name = "erm"

    fraction: float = option(1.0, "train on this fixed random part of the training split")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.fraction <= 1:
            raise EmbedcalError(
                f"expected --fraction above 0 and at most 1, found {self.fraction}: it is a share "
                "of train"
            )

    def rows(self, task: Task, plan: Plan) -> IntArray | None:
        return None if self.fraction == 1 else fixed_part(len(task.train), self.fraction)[0]

    def loss(
        self, head: Head, state: State, batch: Batch, hyper: Mapping[str, Tensor]
    ) -> tuple[Tensor, State]:
        return cross_entropy(head(batch.x), batch.y).mean(), state
