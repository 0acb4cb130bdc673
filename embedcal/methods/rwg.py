"""Reweighting by group: cross-entropy in which every group counts the same."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from embedcal.heads import Head
from embedcal.losses import cross_entropy
from embedcal.methods._balancing import check_several, row_weights
from embedcal.methods.base import Batch, Gradient, Plan, Step, batches, option
from embedcal.types import Task


@dataclass(frozen=True, kw_only=True)
class RWG(Gradient):
    """Minimises the mean cross-entropy in which every group weighs the same, whatever its size.

    Idrissi et al., 2022 (arXiv:2110.14503), RWG. Variant ``sampler`` draws batches with
    replacement, an example with probability 1 / (G n_g), n draws an epoch, and takes the plain
    mean, as the authors' code. Variants ``weights`` and ``sqrt`` take every example once an epoch
    and minimise mean_i w_g CE_i with w_g = G n_g^-1 / sum_h n_h^-1, or with n_g^-1/2: ReWeight and
    its square root in the official code of Yang et al., 2023 (arXiv:2302.12254); the mean is not
    divided by the weights in the batch. Only groups that occur in train are drawn or summed over;
    G counts all, which scales the loss of ``weights`` where one is missing, as that code does.

    The authors trained whole networks: SGD with momentum 0.9, learning rate 1e-5 to 1e-3, weight
    decay 1e-4 to 1, batches of 2 to 128, 360 epochs on Waterbirds and 60 on CelebA.
    """

    name = "rwg"
    variants = ("sampler", "weights", "sqrt")

    variant: str = option("sampler", "how groups are made equal: by draws, or by weights")
    sampler: str = option("variant", "batches: as the variant has them", choices=("variant",))

    @property
    def needs(self) -> frozenset[str]:
        return super().needs | {"train.g"}

    def prepare(self, task: Task, generator: torch.Generator) -> Tensor:
        """What each training row weighs: (n,)."""
        check_several(task.train.g, "groups", self.name)
        return row_weights(task.train.g, task.n_groups, self.variant)

    def steps(
        self, task: Task, plan: Plan, epoch: int, generator: torch.Generator
    ) -> Iterator[Step]:
        labels = task.train.g if self.variant == "sampler" else None
        for index in batches(len(task.train), self.batch_size, generator, labels, task.train.x):
            yield Step(batch=index)

    def init(self, plan: Tensor) -> Tensor:
        return plan

    def loss(
        self, head: Head, state: Tensor, batch: Batch, hyper: Mapping[str, Tensor]
    ) -> tuple[Tensor, Tensor]:
        return (state[batch.index] * cross_entropy(head(batch.x), batch.y)).mean(), state
