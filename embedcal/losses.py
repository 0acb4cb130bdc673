"""Losses and group weights as pure functions of tensors; none keeps state, none logs.

Shapes: b batch, C classes, G groups.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F


def cross_entropy(logits: Float[Tensor, "b C"], y: Int[Tensor, " b"]) -> Float[Tensor, " b"]:
    """CE(l, y) = logsumexp(l) - l_y for each example; means are the caller's."""
    return F.cross_entropy(logits, y, reduction="none")


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
    q: Float[Tensor, " G"], losses: Float[Tensor, " G"], eta: Float[Tensor, ""]
) -> Float[Tensor, " G"]:
    """One step of exponentiated gradient ascent: q_g <- q_g exp(eta l_g), renormalised.

    Sagawa et al., 2020 (arXiv:1911.08731), algorithm 1. No gradient flows through the result.
    """
    raised = torch.log(q) + eta * losses.detach()
    return torch.softmax(raised, dim=-1)  # the same quotient, without overflow of exp
