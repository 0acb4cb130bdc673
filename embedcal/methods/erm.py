"""Empirical risk minimisation: the baseline that learns whatever predicts on average."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from embedcal.heads import Head
from embedcal.losses import cross_entropy
from embedcal.methods.base import Batch, Gradient, State


@dataclass(frozen=True, kw_only=True)
class ERM(Gradient):
    """Minimises the mean cross-entropy mean_i CE(logits_i, y_i).

    With the projection head: Yang et al., 2023 (arXiv:2304.03916), the baseline of their table 4.
    With the linear head: a linear probe on the unit embedding. Deviation: AdamW by default; the
    papers' SGD is ``--optimizer sgd --lr 1e-4 --weight-decay 1e-5 --epochs 300``.
    """

    name = "erm"

    def loss(
        self, head: Head, state: State, batch: Batch, hyper: Mapping[str, Tensor]
    ) -> tuple[Tensor, State]:
        return cross_entropy(head(batch.x), batch.y).mean(), state
