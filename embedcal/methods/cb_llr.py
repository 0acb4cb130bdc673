"""Class-balanced last-layer retraining: a new last layer on a part of val, no group labels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from embedcal.heads import LinearHead
from embedcal.methods._heldout import (
    Descent,
    HeldOut,
    Linear,
    balanced_batches,
    check_classes,
    in_one_order,
)
from embedcal.methods.base import cut_by_class, option
from embedcal.types import Task


@dataclass(frozen=True, kw_only=True)
class CBLLR(HeldOut):
    """Minimises the mean cross-entropy of a new last layer over class-balanced batches of val.

    LaBonte et al., 2023 (arXiv:2309.08534). A random half of val is kept back; the layer starts
    afresh and takes batches of it that are drawn with replacement, classes equally often on
    average: SGD with momentum, a constant learning rate. Settings are the official code's for
    Waterbirds (CelebA: batches of 100); it searches none. ``--balance group`` draws groups equally
    often in place of classes and reads val.g: DFR by gradient steps.

    Deviations: unit embeddings, times sqrt(d) while steps are taken; the half is drawn class by
    class, so that none can be missing in it; no augmented images, for a cache has none.
    """

    name = "cb-llr"

    balance: str = option("class", "what batches are balanced over", choices=("class", "group"))
    lr: float = option(3e-3, "learning rate", grid=(1e-3, 3e-3, 1e-2))
    momentum: float = option(0.9, "momentum of sgd")
    weight_decay: float = option(1e-4, "weight decay")
    epochs: int = option(100, "passes over the rows kept back")
    batch_size: int = option(32, "examples a step")

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check(lr=0, momentum=0, weight_decay=0, epochs=1, batch_size=1)

    @property
    def needs(self) -> frozenset[str]:
        return super().needs | ({"val.g"} if self.balance == "group" else set())

    def solve(self, task: Task, seed: int) -> LinearHead:
        rng = np.random.default_rng([seed, 0])
        y = task.val.y
        check_classes(y, task.n_classes, self.name)
        kept, _ = cut_by_class(y, self.share, rng)
        x, y = self.inputs(task.val.x[kept]), y[kept]
        labels = task.val.g[kept] if self.balance == "group" else y
        stretch = self.stretch(x.shape[1])
        generator = torch.Generator().manual_seed(seed)
        start = LinearHead.start(x.shape[1], task.n_classes, generator, normalise=False)
        descent = Descent(
            Linear.of(start),
            optimizer="sgd",
            momentum=self.momentum,
            weight_decay=self.weight_decay,
        )
        with in_one_order():
            for _ in range(self.epochs):
                for rows in balanced_batches(labels, self.batch_size, rng):
                    descent.step(stretch * x[rows], y[rows], self.lr)
        return self.made(descent.layer.scaled(stretch))
