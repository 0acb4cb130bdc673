"""Group DRO: minimise the loss of the group that fares worst."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from embedcal.heads import Head
from embedcal.losses import (
    adjusted,
    count_adjustment,
    cross_entropy,
    greedy_cvar,
    group_means,
    group_weights,
)
from embedcal.methods._bounds import defaults
from embedcal.methods.base import Batch, Gradient, default_of, option, options
from embedcal.types import EmbedcalError, Task

ONLY = {  # options that a variant has beside the others
    "wilds": (),
    "group_dro": ("adjustment", "normalise_loss"),
    "cvar": ("adjustment", "alpha", "gamma", "min_var_weight"),
}


class State(NamedTuple):
    """Weights of the groups, what they rest on, and the moving losses of variant ``cvar``."""

    q: Tensor  # (G,) what each group's loss weighs
    counts: Tensor  # (G,) examples of each group in train
    ema: Tensor  # (G,) moving average of the group's loss
    seen: Tensor  # (G,) bool: the group had a loss already


@dataclass(frozen=True, kw_only=True)
class GroupDRO(Gradient):
    """Minimises sum_g q_g l_g, with q raised where the loss is high.

    Sagawa et al., 2020 (arXiv:1911.08731), algorithm 1: l_g is the mean cross-entropy of the
    group's members in the batch (0 if there are none), q_g <- q_g exp(eta l_g), renormalised,
    before it weighs the loss, and carries no gradient. Batches are uniform over groups, as with the
    authors' ``--reweight_groups``; that changes what a batch's class shares are, not l_g.

    Variants: ``wilds`` starts q uniform over the groups that occur in train (Koh et al., 2021,
    arXiv:2012.07421). ``group_dro``, the authors' code, starts it uniform over all C A groups, so
    that one without examples keeps its share; it has the adjustment l_g + K / sqrt(n_g) of section
    3.3, which the returned loss carries too and absent groups get as well, and
    ``--normalise-loss``: q then steps along l / sum(l). ``cvar`` is the same code's greedy
    alternative to q: groups ranked by a moving average of their loss, plus K / sqrt(n_g), take
    their share of train, worst first, until a fraction alpha is used up; the loss is
    sum_g (taken_g / alpha) l_g. Deviation: where the authors divide by the square root of zero,
    for a group without examples, the adjustment is 0.

    Their settings: SGD with momentum 0.9, batches of 128, weight decay 1e-4; lr 1e-3 and 300
    epochs on Waterbirds, 1e-4 and 50 on CelebA.
    """

    name = "group-dro"
    variants = ("wilds", "group_dro", "cvar")

    variant: str = option("wilds", "WILDS' reading, the authors' code, or its greedy CVaR")
    sampler: str = option(
        "group",
        "batches: every example once an epoch, or equally often by group or class",
        choices=("iid", "group", "class"),
    )
    eta: float = option(0.01, "step size of the group weights", grid=(0.001, 0.01, 0.1), hyper=True)
    adjustment: float = option(0.0, "group_dro, cvar: K of K / sqrt(n_g)", hyper=True)
    normalise_loss: str = option(
        "off", "group_dro: raise q by each loss's share of their sum", choices=("off", "on")
    )
    alpha: float = option(0.2, "cvar: fraction of train that the loss is of", hyper=True)
    gamma: float = option(0.1, "cvar: share of the new loss in its moving average", hyper=True)
    min_var_weight: float = option(0.0, "cvar: share of plain averaging mixed in", hyper=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        special = {name for names in ONLY.values() for name in names}
        for item in options(type(self)):
            if item.name not in special - set(ONLY[self.variant]):
                continue
            if getattr(self, item.name) != default_of(item):
                where = " or ".join(v for v, names in ONLY.items() if item.name in names)
                raise EmbedcalError(
                    f"expected --variant {where} of group-dro with "
                    f"--{item.name.replace('_', '-')}, found {self.variant}: it has no such term"
                )
        for name, least, most in (
            ("eta", 0.0, float("inf")), ("adjustment", 0.0, float("inf")), ("gamma", 0.0, 1.0),
            ("min_var_weight", 0.0, 1.0), ("alpha", 1e-6, 1.0),
        ):  # fmt: skip
            if not least <= getattr(self, name) <= most:
                raise EmbedcalError(
                    f"expected {name} of group-dro between {least:g} and {most:g}, found "
                    f"{getattr(self, name)}: {defaults(self, name)}"
                )

    @property
    def needs(self) -> frozenset[str]:
        return super().needs | {"train.g"}

    def prepare(self, task: Task, generator: torch.Generator) -> Tensor:
        """Examples of each group in train: (G,)."""
        counts = torch.bincount(torch.as_tensor(task.train.g), minlength=task.n_groups)
        if int((counts > 0).sum()) < 2:
            raise EmbedcalError(
                "expected at least two groups in train for group-dro, found one: use erm"
            )
        return counts.float()

    def init(self, plan: Tensor) -> State:
        start = (plan > 0).float() if self.variant == "wilds" else torch.ones_like(plan)
        return State(
            q=start / start.sum(),
            counts=plan,
            ema=torch.zeros_like(plan),
            seen=torch.zeros_like(plan, dtype=torch.bool),
        )

    def loss(
        self, head: Head, state: State, batch: Batch, hyper: Mapping[str, Tensor]
    ) -> tuple[Tensor, State]:
        assert batch.g is not None  # declared in needs
        n_groups = state.q.shape[-1]
        losses = group_means(cross_entropy(head(batch.x), batch.y), batch.g, n_groups)
        if self.variant == "cvar":
            after = self._ranked(state, losses, batch.g, hyper)
            return (after.q * losses).sum(), after
        if self.variant == "group_dro":
            losses = adjusted(losses, state.counts, hyper["adjustment"])
        normalise = self.normalise_loss == "on"
        q = group_weights(state.q, losses, hyper["eta"], normalise=normalise)
        return (q * losses).sum(), state._replace(q=q)

    @staticmethod
    def _ranked(state: State, losses: Tensor, g: Tensor, hyper: Mapping[str, Tensor]) -> State:
        """The state after one batch of greedy CVaR."""
        groups = torch.arange(state.q.shape[-1], device=g.device)
        q, ema, seen = greedy_cvar(
            state.ema,
            state.seen,
            losses,
            (g[None, :] == groups[:, None]).any(1),
            state.counts / state.counts.sum(),
            count_adjustment(state.counts, hyper["adjustment"]),
            alpha=hyper["alpha"],
            gamma=hyper["gamma"],
            min_var_weight=hyper["min_var_weight"],
        )
        return State(q=q, counts=state.counts, ema=ema, seen=seen)
