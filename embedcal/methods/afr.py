"""Automatic feature reweighting: retrain the last layer on what a first run is unsure about."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from embedcal.heads import Head, LinearHead
from embedcal.losses import cross_entropy
from embedcal.methods._bounds import at_least
from embedcal.methods.base import Batch, Gradient, Stage, fixed_part, option
from embedcal.types import EmbedcalError, IntArray, Task


class State(NamedTuple):
    """What stays fixed: of each training row, and the weights that the penalty pulls to."""

    p: Tensor  # (n,) probability that the stage gives the true class
    log_beta: Tensor  # (n,) minus the log of the class's size in the second part
    start: dict[str, Tensor]  # the stage's trained weights, by name


class Plan(NamedTuple):
    """The second part's rows, beside what stays fixed."""

    rows: IntArray  # (m,)
    state: State


@dataclass(frozen=True, kw_only=True)
class AFR(Gradient):
    """Minimises sum_i mu_i CE_i + lambda ||theta - theta_0||^2 over a part of train kept back.

    Qiu et al., 2023 (arXiv:2306.11074). A first ERM run sees a fixed random 80 % of train and ends
    in theta_0; p_i is the probability that it gives the true class of example i of the other 20 %.
    There, mu_i is proportional to beta_y exp(-gamma p_i) with beta_c = 1 / (number of examples of
    class c), sums to 1 and stays fixed. theta is the last layer, its weight and bias.

    Variant ``paper`` starts at theta_0, as the authors' script does. ``notebook``, to which they
    point for the paper's numbers, starts at theta_0 plus the usual random start of a linear layer,
    uniform in +-1/sqrt(d), so that the penalty is above 0 from the first step on.

    Gradient descent as published: full batches (an epoch is a step), no momentum, no weight decay,
    the gradient's norm clipped at 1; smaller batches weigh each by its own sum of mu. The cut of
    train is the same for every seed, as theirs is.

    Deviation: unit embeddings by default, because the step that works goes with their squared
    length, which differs between encoders. The authors' last layer eats features as they are
    (``--features embedding --lr 1e-2 --stage-lr 1e-3``): learning rate 1e-2, 500 steps, gamma of 4
    to 20 and lambda of 0 to 0.3 on Waterbirds, 2e-2, 1000 steps, 1 to 3 and 1e-3 to 1e-1 on CelebA,
    all chosen by the worst group of val. Their first run trains the network: SGD, lr 3e-3, weight
    decay 1e-4, 50 epochs on Waterbirds, 20 with a cosine on CelebA.
    """

    name = "afr"
    variants = ("paper", "notebook")

    head: str = option("linear", "what is trained: the last layer", choices=("linear",))
    sampler: str = option("iid", "batches: every example once an epoch", choices=("iid",))
    optimizer: str = option("sgd", "update rule", choices=("adamw", "sgd"))
    lr: float = option(0.3, "learning rate")
    weight_decay: float = option(0.0, "weight decay")
    momentum: float = option(0.0, "momentum of sgd")
    epochs: int = option(500, "passes over the second part; steps, where batches are full")
    batch_size: int = option(0, "examples a step; 0: all at once")
    clip_norm: float = option(1.0, "clip the norm of each step's gradient to this; 0: never")
    gamma: float = option(
        8.0, "how fast weights fall with p: 0 weighs classes equally", hyper=True,
        grid=(1.0, 2.0, 4.0, 8.0, 12.0, 16.0, 20.0),
    )  # fmt: skip
    penalty: float = option(
        0.0, "lambda, weight of the squared distance to the first run", hyper=True,
        grid=(0.0, 1e-3, 1e-2, 1e-1),
    )  # fmt: skip
    stage_fraction: float = option(0.8, "share of train that the first run sees")
    stage_epochs: int = option(30, "epochs of the first ERM run")
    stage_lr: float = option(3e-2, "learning rate of the first ERM run")
    stage_select: str = option(
        "last",
        "rule that chooses the first run's epoch",
        choices=("val.mean", "val.worst_class", "val.worst_group", "last"),
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self, gamma=0, penalty=0, stage_epochs=1)
        if not 0 < self.stage_fraction < 1:
            raise EmbedcalError(
                f"expected --stage-fraction between 0 and 1, found {self.stage_fraction}: both "
                "runs need a share of train"
            )

    @property
    def stage(self) -> Stage:
        options = {
            "head": self.head,
            "features": self.features,
            "fraction": self.stage_fraction,
            "epochs": self.stage_epochs,
            "lr": self.stage_lr,
        }
        return Stage(method="erm", options=options, select=self.stage_select)

    def prepare(self, task: Task, generator: torch.Generator) -> Plan:
        y = task.train.y
        rows = fixed_part(len(y), self.stage_fraction)[1]
        counts = np.bincount(y[rows], minlength=task.n_classes)
        if np.count_nonzero(counts) < 2:
            raise EmbedcalError(
                f"expected examples of at least two classes in the second part of train for afr, "
                f"found {np.count_nonzero(counts)} among {len(rows)} rows: lower --stage-fraction"
            )
        of_class = torch.as_tensor(y).long()
        p = task.stage.logits.softmax(1).gather(1, of_class[:, None])[:, 0]
        log_beta = -torch.from_numpy(counts).clamp(min=1).float().log()
        trained = task.stage.head.named_parameters()
        start = {name: value.detach().cpu().clone() for name, value in trained}
        return Plan(rows, State(p=p, log_beta=log_beta[of_class], start=start))

    def start_head(self, task: Task, generator: torch.Generator) -> Head:
        head: Head = copy.deepcopy(task.stage.head).cpu()
        if self.variant == "notebook":
            assert isinstance(head, LinearHead)
            classes, width = head.weight.shape
            residual = LinearHead.start(width, classes, generator, normalise=False)
            with torch.no_grad():
                head.weight.add_(residual.weight)
                head.bias.add_(residual.bias)
        return head

    def rows(self, task: Task, plan: Plan) -> IntArray:
        return plan.rows

    def init(self, plan: Plan) -> State:
        return plan.state

    def loss(
        self, head: Head, state: State, batch: Batch, hyper: Mapping[str, Tensor]
    ) -> tuple[Tensor, State]:
        log_weights = state.log_beta[batch.index] - hyper["gamma"] * state.p[batch.index]
        mu = torch.softmax(log_weights, 0)  # the normalised weights, without underflow of exp
        away = sum(
            (value - state.start[name]).square().sum() for name, value in head.named_parameters()
        )
        return mu @ cross_entropy(head(batch.x), batch.y) + hyper["penalty"] * away, state
