"""Losses by group, and the weights that robust objectives give to groups.

Shapes: b batch, G groups. Weights never carry a gradient.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


def group_means(
    values: Float[Tensor, " b"], g: Int[Tensor, " b"], n_groups: int
) -> Float[Tensor, " G"]:
    """Mean of ``values`` over the members of each group in the batch; 0 for an absent group.

    As WILDS and Sagawa et al. do it. A product with the one-hot membership instead of a scatter:
    it maps over stacked runs, and its gradient is deterministic on every device.
    """
    member = (g.unsqueeze(-1) == torch.arange(n_groups, device=g.device)).to(values.dtype)  # (b, G)
    return (values @ member) / member.sum(0).clamp(min=1)


def group_weights(
    q: Float[Tensor, " G"],
    losses: Float[Tensor, " G"],
    eta: Float[Tensor, ""] | float,
    *,
    normalise: bool = False,
) -> Float[Tensor, " G"]:
    """One step of exponentiated gradient ascent: q_g <- q_g exp(eta l_g), renormalised.

    Sagawa et al., 2020 (arXiv:1911.08731), algorithm 1. ``normalise`` steps along l / sum(l)
    instead, an option of the authors' code; losses that are all zero then leave q as it is.
    """
    step = losses.detach()
    if normalise:
        total = step.sum()
        step = step / torch.where(total == 0, torch.ones_like(total), total)
    raised = torch.log(q.detach()) + eta * step
    return torch.softmax(raised, dim=-1)  # the same quotient, without overflow of exp


def count_adjustment(
    counts: Float[Tensor, " G"] | Int[Tensor, " G"],
    k: Float[Tensor, ""] | Float[Tensor, " G"] | float,
) -> Float[Tensor, " G"]:
    """K / sqrt(n_g) from the training counts ``counts`` (G,); 0 for a group of no example.

    The generalisation adjustment of Sagawa et al., 2020 (section 3.3). Deviation: the authors'
    code divides by zero for an empty group; a group without examples has no gap to allow for.
    """
    n = counts if counts.is_floating_point() else counts.to(torch.get_default_dtype())
    return torch.where(n > 0, k / torch.sqrt(n), torch.zeros_like(n))


def adjusted(
    losses: Float[Tensor, " G"],
    counts: Float[Tensor, " G"] | Int[Tensor, " G"],
    k: Float[Tensor, ""] | Float[Tensor, " G"] | float,
) -> Float[Tensor, " G"]:
    """l_g + K / sqrt(n_g), the losses that Group DRO then weighs, absent groups included.

    As the authors' code does it, the term is added only when K is positive for every group. See
    :func:`count_adjustment` for empty groups.
    """
    positive = torch.as_tensor(k > 0, device=losses.device).all()
    extra = count_adjustment(counts.to(losses.dtype), k)
    return losses + torch.where(positive, extra, torch.zeros_like(extra))


def greedy_cvar(  # noqa: PLR0913 - two states, two facts of the batch, two of the data set
    ema: Float[Tensor, " G"],
    seen: Bool[Tensor, " G"],
    losses: Float[Tensor, " G"],
    present: Bool[Tensor, " G"],
    fractions: Float[Tensor, " G"],
    adjustment: Float[Tensor, " G"],
    *,
    alpha: Float[Tensor, ""] | float,
    gamma: Float[Tensor, ""] | float = 0.1,
    min_var_weight: Float[Tensor, ""] | float = 0.0,
) -> tuple[Float[Tensor, " G"], Float[Tensor, " G"], Bool[Tensor, " G"]]:
    """Weights of the worst ``alpha`` of the data by group, and the moving losses that rank them.

    The greedy ("btl") objective of Sagawa et al.'s code. ``ema`` starts at a group's first
    observed loss, then is (1 - gamma) ema + gamma l_g; it stays while the group is absent from the
    batch. Groups are ranked by ema + ``adjustment``, highest first and the lower number first of
    equals; each takes its training fraction until alpha is used up. The weights are what was
    taken, over alpha, mixed as mv fraction + (1 - mv) weight with mv = ``min_var_weight``.

    ``seen`` says which groups ever had a loss, ``present`` which have one in this batch. Returns
    weights, ema and seen after the batch; the loss is ``(weights * losses).sum()``.
    """
    current = losses.detach()
    moved = torch.where(seen, (1 - gamma) * ema + gamma * current, current)
    ema = torch.where(present, moved, ema)
    rank = ema + adjustment
    order = torch.arange(rank.shape[-1], device=rank.device)
    higher = rank[None, :] > rank[:, None]
    tied = (rank[None, :] == rank[:, None]) & (order[None, :] < order[:, None])
    before = ((higher | tied) * fractions).sum(-1)  # (G,) the fraction that others took first
    taken = torch.minimum(fractions, (alpha - before).clamp(min=0))
    weights = min_var_weight * fractions + (1 - min_var_weight) * taken / alpha
    return weights.detach(), ema.detach(), seen | present
