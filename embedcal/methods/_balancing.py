"""Groups or classes that count the same: weights by their size, and subsets of equal shares.

Shapes: n rows, K labels (groups or classes). A label that does not occur in train counts nowhere.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from embedcal.types import EmbedcalError, IntArray

POWERS = {"weights": 1.0, "sqrt": 0.5}  # of 1 / n, by variant


def row_weights(labels: IntArray, n_labels: int, variant: str) -> Tensor:
    """What each row (n,) weighs in a mean of losses: w_k = K n_k^-p / sum_j n_j^-p of its label.

    p is 1 for variant ``weights``, 1/2 for ``sqrt``; any other variant gives ones. The sum is over
    labels that occur, while K counts all of them, as in SubpopBench (Yang et al. 2023,
    arXiv:2302.12254), whose code gives a label of no row the weight 0.
    """
    if variant not in POWERS:
        return torch.ones(len(labels))
    counts = np.bincount(labels, minlength=n_labels)
    share = np.zeros(n_labels)
    share[counts > 0] = counts[counts > 0] ** -POWERS[variant]
    weights = n_labels * share / share.sum()
    return torch.from_numpy(weights[labels]).float()


def balanced_rows(labels: IntArray, generator: torch.Generator) -> IntArray:
    """Positions (m,), sorted, of a random subset with as many rows of every label that occurs.

    Each label keeps as many rows as the rarest has, drawn without replacement.
    """
    counts = np.bincount(labels)
    least = int(counts[counts > 0].min())
    kept = []
    for label in np.flatnonzero(counts):
        order = torch.randperm(int(counts[label]), generator=generator)[:least]
        kept.append(np.flatnonzero(labels == label)[order.numpy()])
    return np.sort(np.concatenate(kept))


def check_several(labels: IntArray, what: str, method: str) -> None:
    """EmbedcalError where a single label occurs: there is nothing to balance."""
    if (found := len(np.unique(labels))) < 2:
        raise EmbedcalError(
            f"expected rows of at least two {what} in train for {method}, found {found}: use erm"
        )
