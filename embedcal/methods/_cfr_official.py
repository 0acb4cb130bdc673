"""What the released code of CFR computes, which is not what its paper describes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from embedcal.heads import ClipHead
from embedcal.losses import (
    cross_entropy,
    ema_centroids,
    enqueue,
    info_nce,
    match_targets,
    targeted_contrast,
)
from embedcal.methods.base import Batch

SIZE = 1280  # of the queue
FACTOR = 1.5  # 1 + 0.5 cos(2 pi epoch / epochs), whose epoch the training loop never passes
MOMENTUM = 0.9  # of the centroids that are matched to the targets


class Queue(NamedTuple):
    """Past features, two fixed opposite targets, and the moving centroids matched to them."""

    queue: Tensor  # (Q, d)
    queue_y: Tensor  # (Q,), -1 until overwritten
    place: Tensor  # ()
    targets: Tensor  # (2, d)
    centroids: Tensor  # (2, d)


def start_queue(d: int) -> Queue:
    """Random unit vectors everywhere, the same for every run."""
    generator = torch.Generator().manual_seed(0)
    unit = F.normalize(torch.randn(SIZE + 3, d, generator=generator), dim=-1)
    return Queue(
        queue=unit[:SIZE],
        queue_y=torch.full((SIZE,), -1),
        place=torch.tensor(0),
        targets=torch.stack([unit[SIZE], -unit[SIZE]]),
        centroids=unit[SIZE + 1 :],
    )


def draw(among: Tensor, k: int, generator: torch.Generator) -> Tensor:
    """k positions (k,), with replacement, where ``among`` (n,) is true."""
    rows = torch.nonzero(among)[:, 0]
    return rows[torch.randint(len(rows), (k,), generator=generator)]


def official_draws(
    index: Tensor,
    wrong: Tensor,
    y: Tensor,
    right: Tensor,
    counts: tuple[int, int],
    generator: torch.Generator,
) -> dict[str, Tensor]:
    """Training row i comes with row i mod K of the calibration set ``wrong`` (K,), its anchor.

    Each anchor has draws of its own: positives of its class that stage 1 gets ``right`` (n,), and
    "negatives" of its own class, right and wrong ones. (The code builds the nearest rows of the
    other class first, and overwrites them with these.) Returns positions in train by name.
    """
    anchors = wrong[index % len(wrong)]
    tables = [torch.empty(len(anchors), count, dtype=torch.long) for count in counts]
    for c in range(2):
        own = torch.nonzero(y[anchors] == c)[:, 0]
        of_class = y == c
        trusted = of_class & right
        for table, among in zip(
            tables, (trusted if trusted.any() else of_class, of_class), strict=True
        ):
            if len(own):
                drawn = draw(among, len(own) * table.shape[1], generator)
                table[own] = drawn.view(len(own), -1)
    return {"anchors": anchors, "positives": tables[0].flatten(), "negatives": tables[1].flatten()}


def official_loss(
    head: ClipHead, state: Queue, batch: Batch, unit: Mapping[str, Tensor]
) -> tuple[Tensor, Queue]:
    """1.5 (CE + contrast at temperature 1) of the anchors, and targeted contrast of the batch."""
    v, y = unit["anchors"], batch.more["anchors"].y
    positive, negative = (
        (v[:, None] * unit[name].view(len(v), -1, v.shape[1])).sum(-1)
        for name in ("positives", "negatives")
    )
    contrast = info_nce(positive, negative).mean()
    ce = cross_entropy(head.logit_scale.exp() * v @ head.prototypes().T, y).mean()
    everyone = torch.ones_like(batch.y, dtype=torch.bool)
    centroids = ema_centroids(state.centroids, unit["batch"], batch.y, everyone, MOMENTUM)
    matched = match_targets(centroids, state.targets)
    image = targeted_contrast(
        unit["batch"], batch.y, state.queue, state.queue_y, state.targets, matched
    )
    queue, queue_y, place = enqueue(state.queue, state.queue_y, unit["batch"], batch.y, state.place)
    after = Queue(queue, queue_y, torch.as_tensor(place), state.targets, centroids)
    return FACTOR * (ce + contrast) + image, after
