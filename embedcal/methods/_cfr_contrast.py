"""CFR's calibration term: which positives and which negatives each anchor is compared with."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from embedcal.losses import info_nce
from embedcal.methods.base import Batch


class Kind(NamedTuple):
    """The options of CFR that choose positives and negatives, by their names there."""

    pos: str
    neg: str
    pool: str
    positives: int
    negatives: int


class State(NamedTuple):
    """Moving centroids, and the parts of the plan that the loss looks up."""

    centroids: Tensor
    trust: Tensor
    slot: Tensor
    neighbours: Tensor
    frozen: Tensor


def calibration(
    kind: Kind, state: State, batch: Batch, unit: Mapping[str, Tensor], tau: Tensor
) -> Tensor:
    """L_cal of each anchor (m,); ``unit`` has the embeddings of the batch and of what it drew."""
    v, y = unit["anchors"], batch.more["anchors"].y
    classes = torch.arange(len(state.centroids), device=y.device)
    own = y[:, None] == classes  # (m, C)
    to_centroids = v @ state.centroids.T / tau  # (m, C)
    to_batch = v @ unit["batch"].T / tau  # (m, b)
    same = y[:, None] == batch.y
    if kind.pos == "dps":
        positive, positive_mask = to_centroids, own
    elif kind.pool == "batch":
        itself = batch.more["anchors"].index[:, None] == batch.index
        positive, positive_mask = to_batch, _first(same & ~itself, kind.positives)
    else:
        positive = v @ unit["positives"].T / tau
        positive_mask = y[:, None] == batch.more["positives"].y
    if kind.neg == "centroid":
        negative, negative_mask = to_centroids, ~own
    elif kind.neg == "nns" and kind.pool == "batch":
        closeness = to_batch.detach()
        if len(state.frozen):
            closeness = state.frozen[batch.more["anchors"].index] @ state.frozen[batch.index].T
        negative, negative_mask = to_batch, _highest(closeness, ~same, kind.negatives)
    elif kind.pool == "batch":
        negative, negative_mask = to_batch, _first(~same, kind.negatives)
    else:
        negative = v @ unit["negatives"].T / tau
        negative_mask = _drawn_negatives(kind, state, batch)
    return info_nce(positive, negative, positive_mask=positive_mask, negative_mask=negative_mask)


def _drawn_negatives(kind: Kind, state: State, batch: Batch) -> Tensor:
    """Which of the drawn negatives belong to which anchor: (m, q) bool."""
    anchors, drawn = batch.more["anchors"], batch.more["negatives"]
    if kind.neg == "rns":  # a block of N for each class
        block = torch.arange(len(drawn.index), device=drawn.index.device) // kind.negatives
        return anchors.y[:, None] == block
    near = state.neighbours[state.slot[anchors.index]]  # (m, N)
    count = len(drawn.index)
    column = torch.searchsorted(drawn.index, near.clamp(min=0)).clamp(max=count - 1)
    column = torch.where(near >= 0, column, count)  # a column of its own for what fills up
    mask = torch.zeros(len(near), count + 1, dtype=torch.bool, device=near.device)
    return mask.scatter(1, column, value=True)[:, :count]


def _first(mask: Tensor, k: int) -> Tensor:
    """The first k true entries of each row; batches are shuffled, so these are random."""
    return mask & (mask.cumsum(1) <= k)


def _highest(values: Tensor, mask: Tensor, k: int) -> Tensor:
    """The k highest of the entries of each row that count."""
    k = min(k, values.shape[1])
    top = values.masked_fill(~mask, float("-inf")).topk(k, dim=1).indices
    return torch.zeros_like(mask).scatter(1, top, mask.gather(1, top))


def trusted(logits: Tensor, y: Tensor, confidence: str) -> Tensor:
    """How much each example (n,) moves its centroid: 0 if predicted wrongly, else up to 1."""
    right = (logits.argmax(1) == y).to(logits.dtype)
    if confidence == "off":
        return right
    p = logits.softmax(1)
    if confidence == "entropy":
        entropy = -(p * p.clamp(min=1e-12).log()).sum(1)
        return right * (1 - entropy / math.log(p.shape[1]))
    top = p.topk(2, dim=1).values
    return right * (top[:, 0] - top[:, 1])
