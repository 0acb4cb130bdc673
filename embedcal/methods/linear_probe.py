"""CLIP's linear probe: logistic regression with an L2 penalty on frozen features."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from embedcal.heads import Head, LinearHead
from embedcal.methods._bounds import at_least, defaults
from embedcal.methods._logistic import Limits, principal_axes, solve_logistic
from embedcal.methods.base import Solver, option
from embedcal.threads import threads
from embedcal.types import EmbedcalError, Examples, Level, Task

SHARED = 1 << 22  # multiplications of one product from which threads gain
NO_SCALE = 1e-12  # relative deviation below which a feature counts as constant


@dataclass(frozen=True, kw_only=True)
class LinearProbe(Solver):
    """Minimises ||W||^2 / 2 + C sum_i v_i CE(W f_i + b, y_i) over all of train, b unpenalised.

    Radford et al., 2021 (arXiv:2103.00020), appendix A.3: L-BFGS, at most 1000 steps, C swept.
    The objective is that of scikit-learn's LogisticRegression, so two classes have one row of
    weights w = w_1 - w_0. v_i is 1, or n / (K n_k) for the k-th of K classes or groups with rows.
    A fit stops at ``--max-iter`` even if it is not converged, and is used as it is.

    Deviations: features are of unit length unless ``--features`` says otherwise; the tolerance is
    on the weights. The same problem solved beside others has the same weights, to that tolerance.
    """

    name = "linear-probe"
    random = False

    c: float = option(
        1.0, "inverse strength C of the penalty", grid=(0.001, 0.01, 0.1, 1.0, 10.0, 100.0, 1000.0)
    )
    features: str = option(
        "normalised",
        "what is fitted: unit embeddings, embeddings, or vectors before the projection",
        choices=("normalised", "embedding", "pooled"),
        grid=("normalised", "embedding"),
    )
    standardise: str = option(
        "off", "divide each feature by its deviation in train first", choices=("off", "on")
    )
    balance: str = option(
        "none",
        "what weighs the same in the sum: rows, classes or groups",
        choices=("none", "class", "group"),
    )
    max_iter: int = option(1000, "steps at most")
    tol: float = option(1e-5, "relative error of the weights at which a fit is finished")

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("c", "tol"):
            if getattr(self, name) <= 0:
                raise EmbedcalError(
                    f"expected --{name} to be positive, found {getattr(self, name)}: "
                    f"{defaults(self, name)}"
                )
        at_least(self, max_iter=1)

    @property
    def head_name(self) -> str:
        return "linear"

    @property
    def level(self) -> Level:
        return "pooled" if self.features == "pooled" else "embedding"

    @property
    def needs(self) -> frozenset[str]:
        groups = {"train.g"} if self.balance == "group" else set()
        return frozenset({"train.x", "train.y"} | groups)

    def solve(self, task: Task, seed: int) -> Head:
        return self.solve_stack([self], task, [seed])[0]

    @property
    def stack_key(self) -> Hashable:
        # Equal needs too: a run that reads no groups is not given any by its company.
        return self.features, self.standardise, self.needs

    @classmethod
    def solve_stack(cls, methods: Sequence[Self], task: Task, seeds: Sequence[int]) -> list[Head]:
        first = methods[0]
        assert all(method.stack_key == first.stack_key for method in methods)
        target = _target(task, by_group="train.g" in first.needs)
        x = torch.from_numpy(np.asarray(task.train.x, np.float64))
        if first.features == "normalised":
            x = F.normalize(x, dim=1)
        scale = _deviation(x) if first.standardise == "on" else torch.ones_like(x[0])
        # Problems of like C take like numbers of steps, so they go together, the longest first.
        order = sorted(range(len(methods)), key=lambda k: -methods[k].c)
        limits = Limits(
            tol=torch.tensor([methods[k].tol for k in order], dtype=torch.float64),
            steps=torch.tensor([methods[k].max_iter for k in order]),
        )
        weights = torch.stack([methods[k]._row_weights(task.train) for k in order])
        with threads(shared=x.numel() * len(methods) * len(target) >= SHARED):
            found = solve_logistic(principal_axes(x / scale), target, weights, limits)
        heads = {
            k: first._head(weight / scale, bias)
            for k, weight, bias in zip(order, found.weight, found.bias, strict=True)
        }
        return [heads[k] for k in range(len(methods))]

    def _row_weights(self, train: Examples) -> Tensor:
        """C v_i of each row (n,)."""
        if self.balance == "none":
            return torch.full((len(train.y),), self.c, dtype=torch.float64)
        labels = train.g if self.balance == "group" else train.y
        _, place, sizes = np.unique(labels, return_inverse=True, return_counts=True)
        return self.c * torch.from_numpy(len(labels) / (len(sizes) * sizes))[place]

    def _head(self, weight: Tensor, bias: Tensor) -> LinearHead:
        if len(weight) == 1:  # two classes: half the margin on either side, the same decision
            weight, bias = torch.cat([-weight, weight]) / 2, torch.cat([-bias, bias]) / 2
        normalise = self.features == "normalised"
        return LinearHead(weight.float(), bias.float(), normalise=normalise, level=self.level)


def _target(task: Task, *, by_group: bool) -> Tensor:
    """Rows of the classes (C, n), one-hot; for two classes that of the second alone."""
    y = torch.from_numpy(np.asarray(task.train.y, np.int64))
    counts = torch.bincount(y, minlength=task.n_classes)
    if (counts == 0).any():
        mend = "label the attribute of some, or use --balance class" if by_group else "give some"
        raise EmbedcalError(
            f"expected train rows of every class for linear-probe, found none of class "
            f"{int(counts.argmin())}: {mend}"
        )
    onehot = F.one_hot(y, task.n_classes).double().T.contiguous()
    return onehot[1:] if task.n_classes == 2 else onehot


def _deviation(x: Tensor) -> Tensor:
    """Standard deviation (d,) of each feature over rows (n, d); 1 for one that is constant."""
    deviation = x.std(0, correction=0)
    return torch.where(deviation > NO_SCALE * x.abs().amax(0), deviation, 1.0)
