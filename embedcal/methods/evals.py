"""EVaLS: a new last layer on the tails of a probe's loss, chosen by inferred environments."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from embedcal.methods._tails import LossTails, Tails
from embedcal.types import FloatArray, IntArray


@dataclass(frozen=True, kw_only=True)
class EVALS(LossTails):
    """Minimises cross-entropy + l1 (||W||_1 + ||b||_1) over rows of the highest and lowest loss.

    Ghaznavi et al., 2024 (arXiv:2410.05345), read in its abstract, reviews and official code. A
    probe of train judges val, cut into halves class by class. Of the first, each class gives its k
    rows of the highest loss and its k of the lowest, right or wrong; a new layer is fitted to these
    2kC rows by Adam, 100 epochs in batches of 32, a tenth of the learning rate after 85. On the
    second half, k, the penalty and the epoch are chosen by the worst cell, a cell being one class
    in one of two inferred environments, so that no group label is read anywhere (EVaLS). ``--cells
    group`` takes the known groups (EVaLS-GL). Of equals the first wins: by k, epoch, penalty.

    Environments are those of EIIL (Creager et al., 2021, arXiv:2010.07249) from the probe's logits.
    ``closed`` is the maximum of its objective, which is known: e_i = [g_i > 0] with g_i the slope
    of row i's loss by the scale of its logits; for two classes, what the probe gets wrong
    (``errors``). ``adam`` climbs from random weights as the code does. A probe that gets a class
    right has no second environment there: a class with fewer than ``--min-cell`` rows in either is
    judged whole, or ``--small stop``.

    Deviations: the layer goes on from the probe's, as the code can (``--start xavier``: afresh, as
    published, with its random part where few rows have no say); unit embeddings, times sqrt(d)
    while steps are taken; AdamW for the probe (with ``--features embedding`` take ``--stage-lr
    1e-2``); the halves, whose sizes were not to be read; k is cut at half of the smallest class, so
    that no row comes twice. At the commit that was read, the code's steps update a copy of the
    layer and not the layer that is judged, and its tie-break never fires: neither is done here.
    """

    name = "evals"

    def tails(self, loss: FloatArray, right: IntArray) -> Tails:
        order = np.argsort(loss, kind="stable")
        half = len(order) // 2
        return Tails(high=order[::-1][:half], low=order[:half])
