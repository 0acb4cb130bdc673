"""LFR: a new last layer on what a probe of train gets most wrong, and on what it gets right."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from embedcal.methods._tails import CELLS, LossTails, Tails
from embedcal.methods.base import option
from embedcal.types import FloatArray, IntArray


@dataclass(frozen=True, kw_only=True)
class LFR(LossTails):
    """Minimises cross-entropy + l1 (||W||_1 + ||b||_1) over errors of high, hits of low loss.

    Ghaznavi et al., 2023 (arXiv:2312.04893), read in its abstract and in the code of its successor
    ``evals``, from which the descent is. A probe of train judges val, cut into halves class by
    class. Of the first, each class gives its k misclassified rows of the highest loss and its k
    correct ones of the lowest; a new layer is fitted to these 2kC rows by Adam, 100 epochs in
    batches of 32, a tenth of the learning rate after 85. On the second half k, the penalty and the
    epoch are chosen: by the worst group, as published, so ``--cells group`` reads val.g; ``--cells
    class`` and ``--cells env`` read no group. Of equals the first wins: by k, epoch, penalty.

    Ours: where a class has fewer than k errors or hits, all classes give as many as it has; one
    without any gives the highest (the lowest) losses of its half in their place. Deviations: the
    rows are of val, where the abstract has a part of train left out; halves, for want of its size;
    the start, the unit embeddings and the probe of ``evals``.
    """

    name = "lfr"

    cells: str = option(
        "group", "what k, the penalty and the epoch are chosen by the worst of", choices=CELLS
    )

    def tails(self, loss: FloatArray, right: IntArray) -> Tails:
        order = np.argsort(loss, kind="stable")
        half = len(order) // 2
        wrong, hits = order[~right[order]][::-1], order[right[order]]
        return Tails(
            high=wrong if len(wrong) else order[::-1][:half],
            low=hits if len(hits) else order[:half],
        )
