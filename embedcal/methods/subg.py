"""Subsampling by group: train on as many examples of every group as the rarest has."""

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
class SUBG(Gradient):
    """Minimises the mean cross-entropy over one random subset with n_min examples of every group.

    Idrissi et al., 2022 (arXiv:2110.14503), SUBG. n_min is the size of the rarest group; the
    subset is drawn once, without replacement, from the run's seed, and stays for all epochs.
    Deviation: the authors' code keeps nothing where a group is missing from train; here only
    groups that occur are counted.

    An epoch is as short as the subset, and so are its steps: raise ``--epochs`` where the rarest
    group is very small. The authors' settings are those named under ``rwg``.
    """

    name = "subg"

    @property
    def needs(self) -> frozenset[str]:
        return super().needs | {"train.g"}

    def prepare(self, task: Task, generator: torch.Generator) -> IntArray:
        """Positions (m,) of the subset."""
        check_several(task.train.g, "groups", self.name)
        return balanced_rows(task.train.g, generator)

    def rows(self, task: Task, plan: IntArray) -> IntArray:
        return plan

    def loss(
        self, head: Head, state: State, batch: Batch, hyper: Mapping[str, Tensor]
    ) -> tuple[Tensor, State]:
        return cross_entropy(head(batch.x), batch.y).mean(), state
