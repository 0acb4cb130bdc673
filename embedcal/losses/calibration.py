"""Calibration of features by class: moving centroids, similarity and targeted contrast (CFR).

Shapes: b batch, C classes, K targets, Q places of the queue, d joint dimension. Vectors are unit
vectors.
"""

from __future__ import annotations

from itertools import permutations
from math import perm

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from embedcal.errors import EmbedcalError

MOST_MATCHINGS = 5040  # seven classes to seven targets; beyond it enumeration is the wrong tool


def ema_centroids(
    centroids: Float[Tensor, "C d"],
    unit: Float[Tensor, "b d"],
    y: Int[Tensor, " b"],
    counted: Bool[Tensor, " b"] | Float[Tensor, " b"],
    momentum: Float[Tensor, ""] | float,
) -> Float[Tensor, "C d"]:
    """Centroids after one batch: c_y <- nrm(m c_y + (1 - m) nrm(mean of the class's members)).

    ``counted`` says which members of the batch count (CFR: those predicted correctly), or how
    much. A class with none keeps its centroid. No gradient flows. The published description of
    You et al., 2024 (CFR) names a moving average without its form; this one is that of the
    authors' code for Li et al., 2022 (targeted supervised contrastive learning).
    """
    classes = torch.arange(len(centroids), device=y.device)
    member = (classes[:, None] == y[None, :]) * counted.to(unit.dtype)  # (C, b)
    mean = F.normalize(member @ unit.detach(), dim=-1)  # the length of a mean does not matter
    moved = F.normalize(momentum * centroids + (1 - momentum) * mean, dim=-1)
    return torch.where(member.sum(-1, keepdim=True) > 0, moved, centroids).detach()


def similarity_loss(
    unit: Float[Tensor, "b d"],
    y: Int[Tensor, " b"],
    *,
    weights: Float[Tensor, " b"] | None = None,
) -> Float[Tensor, ""]:
    """mean_i (-pos_i + neg_i): what is alike within a class, less what is alike across classes.

    pos_i = mean_j cos_ij [y_i = y_j] and neg_i = mean_j cos_ij [y_i != y_j]: both means divide
    by the whole batch, and an item is its own positive, as in the official code of Yang et al.,
    2023 and You et al., 2024. ``weights`` say how many times each item counts, as row and as column
    alike: with 1 / (size of its class in the batch) every class weighs the same.
    """
    share = torch.ones_like(unit[:, 0]) if weights is None else weights
    share = share / share.sum()
    sign = torch.where(y[:, None] == y[None, :], -1.0, 1.0).to(unit.dtype)  # (b, b)
    return share @ (sign * (unit @ unit.T)) @ share


def targeted_contrast(  # noqa: PLR0913 - the batch, the queue, the targets and two constants
    unit: Float[Tensor, "b d"],
    y: Int[Tensor, " b"],
    queue: Float[Tensor, "Q d"],
    queue_y: Int[Tensor, " Q"],
    targets: Float[Tensor, "K d"],
    target_of_class: Int[Tensor, " C"],
    tau: Float[Tensor, ""] | float = 0.07,
    target_weight: Float[Tensor, ""] | float = 0.2,
) -> Float[Tensor, ""]:
    """Targeted supervised contrast: pull to the queue's same class and to the class's target.

    log p_i is the log-softmax of [u_i.u_i, u_i.queue, u_i.targets] / tau. With P_i = itself, the
    queue's vectors of its label and its class's target, the loss is the mean over i of
    -(1/|P_i|) [sum_{itself, queue} log p + target_weight log p_target] - log p_itself.

    Li et al., 2022 (arXiv:2111.13998), as the official code of You et al., 2024 trains it.
    ``queue_y`` is -1 where the queue is not yet filled: such a vector is a negative of all.
    ``target_of_class`` comes from :func:`match_targets`.
    """
    own = (unit * unit).sum(-1, keepdim=True)
    logits = torch.cat([own, unit @ queue.T, unit @ targets.T], -1) / tau
    log_p = torch.log_softmax(logits, -1)  # (b, 1 + Q + K)
    own_p, queue_p, target_p = torch.split(log_p, [1, len(queue), len(targets)], -1)
    same = (y[:, None] == queue_y[None, :]).to(unit.dtype)  # (b, Q)
    matched = target_of_class.gather(0, y)[:, None]  # (b, 1)
    size = 2 + same.sum(-1)
    by_class = own_p[:, 0] + (same * queue_p).sum(-1)
    by_target = target_p.gather(1, matched)[:, 0]
    loss: Tensor = -((by_class + target_weight * by_target) / size + own_p[:, 0]).mean()
    return loss


def enqueue(
    queue: Float[Tensor, "Q d"],
    queue_y: Int[Tensor, " Q"],
    unit: Float[Tensor, "b d"],
    y: Int[Tensor, " b"],
    position: Int[Tensor, ""] | int,
) -> tuple[Float[Tensor, "Q d"], Int[Tensor, " Q"], Int[Tensor, ""] | int]:
    """The queue, its labels and the next position after a batch took the places from ``position``.

    The places wrap around; of a batch larger than the queue its last rows stay. No gradient flows.
    """
    # Rows that the same batch would overwrite are left out: the order of a scatter is undefined.
    size, extra = len(queue), max(len(unit) - len(queue), 0)
    unit, y = unit.detach()[extra:], y[extra:]
    places = (position + extra + torch.arange(len(y), device=y.device)) % size  # (b,)
    queue = queue.detach().scatter(0, places[:, None].expand_as(unit), unit)
    return queue, queue_y.scatter(0, places, y), (position + extra + len(y)) % size


def match_targets(
    centroids: Float[Tensor, "C d"], targets: Float[Tensor, "K d"]
) -> Int[Tensor, " C"]:
    """The target of each class: the one-to-one choice of the highest total cosine.

    All choices are compared, which is exact and, unlike the Hungarian algorithm, maps over stacked
    runs; the first of equals wins. Raises EmbedcalError where there are fewer targets than classes
    or too many choices.
    """
    c, k = len(centroids), len(targets)
    if c > k or perm(k, c) > MOST_MATCHINGS:
        raise EmbedcalError(
            f"expected at least as many targets as classes, and at most {MOST_MATCHINGS} ways to "
            f"match them, found {k} targets and {c} classes: use fewer classes"
        )
    choices = torch.tensor(list(permutations(range(k), c)), device=centroids.device)  # (m, C)
    cosine = F.normalize(centroids.detach(), dim=-1) @ F.normalize(targets.detach(), dim=-1).T
    total = cosine.gather(1, choices.T).sum(0)  # (m,)
    return choices.index_select(0, total.argmax().reshape(1))[0]
