"""Group DRO: minimise the loss of the group that fares worst."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from embedcal.heads import Head
from embedcal.losses import cross_entropy, group_means, group_weights
from embedcal.methods.base import Batch, Gradient, option
from embedcal.types import EmbedcalError, Task


@dataclass(frozen=True, kw_only=True)
class GroupDRO(Gradient):
    """Minimises sum_g q_g l_g, with q raised where the loss is high.

    Sagawa et al., 2020 (arXiv:1911.08731), algorithm 1, as WILDS runs it: l_g is the mean
    cross-entropy of the group's members in the batch (0 if there are none), q is updated before
    it weighs the loss, starts uniform over the groups present in train, and carries no gradient.
    Batches are uniform over groups, as the authors' ``--reweight_groups``.
    """

    name = "group-dro"
    variants = ("wilds",)

    variant: str = option("wilds", "which reading of the paper or its code")
    sampler: str = option(
        "group",
        "batches: every example once an epoch, or equally often by group or class",
        choices=("iid", "group", "class"),
    )
    eta: float = option(0.01, "step size of the group weights", grid=(0.001, 0.01, 0.1), hyper=True)

    @property
    def needs(self) -> frozenset[str]:
        return super().needs | {"train.g"}

    def prepare(self, task: Task) -> Tensor:
        """Whether each group occurs in train: (G,) of 0 and 1."""
        counts = torch.bincount(torch.as_tensor(task.train.g), minlength=task.n_groups)
        if int((counts > 0).sum()) < 2:
            raise EmbedcalError(
                "expected at least two groups in train for group-dro, found one: use erm"
            )
        return (counts > 0).float()

    def init(self, plan: Tensor) -> Tensor:
        return plan / plan.sum()

    def loss(
        self, head: Head, state: Tensor, batch: Batch, hyper: Mapping[str, Tensor]
    ) -> tuple[Tensor, Tensor]:
        assert batch.g is not None  # declared in needs
        losses = group_means(cross_entropy(head(batch.x), batch.y), batch.g, state.shape[-1])
        q = group_weights(state, losses, hyper["eta"])
        return (q * losses).sum(), q
