"""Subsampling by class: train on as many examples of every class as the rarest has."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from embedcal.heads import Head
from embedcal.losses import cross_entropy
from embedcal.methods._balancing import balanced_rows, check_several
from embedcal.methods.base import Batch, Gradient, State
from embedcal.types import IntArray, Task


@dataclass(frozen=True, kw_only=True)
class SUBY(Gradient):
    """Minimises the mean cross-entropy over one random subset with n_min examples of every class.

    Idrissi et al., 2022 (arXiv:2110.14503), SUBY: what SUBG does with groups, done with classes,
    so that no attribute label is read. The subset is drawn once, without replacement, from the
    run's seed, and stays for all epochs; only classes that occur in train are counted. The
    authors' settings are those named under ``rwg``.
    """

    name = "suby"

    def prepare(self, task: Task, generator: torch.Generator) -> IntArray:
        """Positions (m,) of the subset."""
        check_several(task.train.y, "classes", self.name)
        return balanced_rows(task.train.y, generator)

    def rows(self, task: Task, plan: IntArray) -> IntArray:
        return plan

    def loss(
        self, head: Head, state: State, batch: Batch, hyper: Mapping[str, Tensor]
    ) -> tuple[Tensor, State]:
        return cross_entropy(head(batch.x), batch.y).mean(), state
