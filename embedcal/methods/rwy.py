"""Reweighting by class: cross-entropy in which every class counts the same."""

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
class RWY(Gradient):
    """Minimises the mean cross-entropy in which every class weighs the same, whatever its size.

    Idrissi et al., 2022 (arXiv:2110.14503), RWY: what RWG does with groups, done with classes, so
    that no attribute label is read. Variant ``sampler`` draws batches with replacement, an example
    with probability 1 / (C n_y); ``weights`` and ``sqrt`` minimise mean_i w_y CE_i with
    w_y = C n_y^-1 / sum_c n_c^-1, or with n_y^-1/2 (Yang et al., 2023, arXiv:2302.12254, where
    attributes are unknown). Only classes that occur in train are drawn or summed over; C counts
    all. The authors' settings are those named under ``rwg``.
    """

    name = "rwy"
    variants = ("sampler", "weights", "sqrt")

    variant: str = option("sampler", "how classes are made equal: by draws, or by weights")
    sampler: str = option("variant", "batches: as the variant has them", choices=("variant",))

    def prepare(self, task: Task, generator: torch.Generator) -> Tensor:
        """What each training row weighs: (n,)."""
        check_several(task.train.y, "classes", self.name)
        return row_weights(task.train.y, task.n_classes, self.variant)

    def steps(
        self, task: Task, plan: Plan, epoch: int, generator: torch.Generator
    ) -> Iterator[Step]:
        labels = task.train.y if self.variant == "sampler" else None
        for index in batches(len(task.train), self.batch_size, generator, labels, task.train.x):
            yield Step(batch=index)

    def init(self, plan: Tensor) -> Tensor:
        return plan

    def loss(
        self, head: Head, state: Tensor, batch: Batch, hyper: Mapping[str, Tensor]
    ) -> tuple[Tensor, Tensor]:
        return (state[batch.index] * cross_entropy(head(batch.x), batch.y)).mean(), state
