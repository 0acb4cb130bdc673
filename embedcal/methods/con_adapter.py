"""Contrastive adapters: pull what zero-shot gets wrong towards what it gets right."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from embedcal.features import shared
from embedcal.heads import AdapterHead, Head, prototypes
from embedcal.heads.adapter import MOMENTUM
from embedcal.losses import cross_entropy, info_nce
from embedcal.methods._blocks import block_forms
from embedcal.methods._bounds import at_least, defaults
from embedcal.methods._slices import draw, rows_where, umap_slices
from embedcal.methods.base import Batch, Gradient, Marks, State, Step, batches, option
from embedcal.neighbours import nearest
from embedcal.types import EmbedcalError, Task

KINDS = ("anchors", "positives", "negatives")


class Plan(NamedTuple):
    """What is found once: K anchors of n training rows, M neighbours of each."""

    y: Tensor  # (n,)
    h: Tensor  # (n,)
    anchors: tuple[Tensor, ...]  # of each class: positions in train that h gets wrong
    right: tuple[Tensor, ...]  # of each class: positions that h gets right
    slot: Tensor  # (n,) an anchor's row in ``neighbours``, -1 elsewhere
    neighbours: Tensor  # (K, M) positions in train
    cells: tuple[tuple[Tensor, ...], ...]  # of each class: positions by prediction, if any


@dataclass(frozen=True, kw_only=True)
class ConAdapter(Gradient):
    """Minimises, in turn, the sum of anchors' contrasts and the cross-entropy of even cells.

    Zhang and Re, 2022 (contrastive adapters, arXiv:2207.07180). A small network on the
    un-normalised embedding, z = W2 relu(BN(W1 x)) + b, has its logits from fixed text,
    100 cos(z, p_c). Anchors are training examples that the zero-shot prediction h gets wrong
    (y != h); positives are random examples of the anchor's class that h gets right; negatives come
    from its nearest neighbours by cosine of the embeddings. Odd epochs minimise the contrast, the
    sum over ``--batch-size`` anchors of mean_p -log[e^{s_p} / (e^{s_p} + sum_n e^{s_n})],
    s = cos / tau of adapted embeddings. Even epochs minimise a cross-entropy on rows drawn evenly
    from the cells (y, h): ``--cell-size`` of each, or with ``--resample upsample`` classes and then
    the cells of each raised to the size of the largest.

    The batch norm sees one block, an anchor with its positives and negatives, at a time, as the
    code's does. The blocks of a step are computed some at a time, with the same results and the
    running statistics that one after the other would leave.

    Variants: ``paper`` takes N of the M nearest examples of other classes. ``official_fixed`` takes
    N of the M nearest of any class; those of the anchor's own class do not count in the contrast,
    though they do in the batch norm. ``official`` does so with the neighbours of the wrong rows:
    for the k-th anchor of a class those of training row k. A class with fewer right examples than
    P has them repeated, and the repeats count in the batch norm alone. P, N and M are clamped to
    what there is. Anchors of a class that h never gets right are left out, as in the code.

    Published settings: SGD 0.9, lr 1e-3, weight decay 5e-5, 128 anchors a step, tau 0.1, 2048
    positives, 2048 of 4096 neighbours; Waterbirds 100 epochs and 500 rows of each cell, CelebA
    50 epochs, ``--resample upsample`` and ``--anchor-ratio 0.1``. Ours differ in the counts alone,
    which are for a CPU. They keep SGD, since AdamW's averages would mix
    gradients of a sum and of a mean. The code's h is by default ``--slices umap_kmeans``, where the
    paper has the zero-shot prediction. It has one prompt a class, ours goes through all of the
    cache's templates; its optional residual connection is left out.
    """

    name = "con-adapter"
    revision = 2  # blocks computed some at a time: other rounding
    variants = ("paper", "official", "official_fixed")

    head: str = option("adapter", "what is trained: the adapter", choices=("adapter",))
    scope: str = option("image", "the text side is fixed", choices=("image",))
    temperature: str = option("fixed", "logits are 100 times cosines", choices=("fixed",))
    features: str = option(
        "embedding", "the adapter eats embeddings as they are", choices=("embedding",)
    )
    sampler: str = option("iid", "anchors come once an epoch", choices=("iid",))
    slices: str = option(
        "zeroshot",
        "what h is: the zero-shot prediction, or k-means on a UMAP of the embeddings",
        choices=("zeroshot", "umap_kmeans"),
    )
    positives: int = option(128, "positives of an anchor, P")
    negatives: int = option(128, "negatives of an anchor, N")
    neighbours: int = option(1024, "nearest neighbours that negatives are drawn from, M")
    anchor_ratio: float = option(
        1.0, "below 1: draw this share of the anchors, every wrong prediction equally often"
    )
    resample: str = option(
        "cells",
        "rows of the cross-entropy: as many of every cell, or every cell raised to the largest",
        choices=("cells", "upsample"),
    )
    cell_size: int = option(500, "rows of each cell (y, h)")
    tau: float = option(0.1, "temperature of the contrast", hyper=True)
    hidden: int = option(128, "width of the adapter")
    optimizer: str = option("sgd", "update rule", choices=("adamw", "sgd"))
    weight_decay: float = option(5e-5, "weight decay", grid=(0.0, 5e-5, 1e-3))
    epochs: int = option(100, "contrast and cross-entropy, in turn")

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self, positives=1, negatives=1, neighbours=1, cell_size=1, hidden=1)
        if not (self.tau > 0 and 0 < self.anchor_ratio <= 1):
            raise EmbedcalError(
                "expected --tau and --anchor-ratio above 0, --anchor-ratio at most 1, found "
                f"{self.tau} and {self.anchor_ratio}: {defaults(self, 'tau', 'anchor_ratio')}"
            )

    @property
    def needs(self) -> frozenset[str]:
        return super().needs | {"text.class"}

    def start_head(self, task: Task, generator: torch.Generator) -> Head:
        return AdapterHead.start(
            task.bank("class"), generator, hidden=self.hidden, prototype=self.prototype
        )

    # -- what is found once -----------------------------------------------------------------------

    def prepare(self, task: Task, generator: torch.Generator) -> Plan:
        y = torch.as_tensor(task.train.y).long()
        if len(torch.unique(y)) < 2:
            raise EmbedcalError(
                "expected examples of at least two classes in train for con-adapter, found one: "
                "its negatives are of other classes"
            )
        x = shared(task.train.x)
        if self.slices == "zeroshot":
            text = prototypes(torch.as_tensor(task.bank("class").embedding))
            h = (F.normalize(x, dim=-1) @ text.T).argmax(1)
        else:
            found = umap_slices(x, task.train.y, task.n_classes, "kmeans", generator)
            h = torch.as_tensor(found).long()
        classes = range(task.n_classes)
        right = tuple(rows_where((y == c) & (h == c)) for c in classes)
        anchors = tuple(
            rows_where((y == c) & (h != c)) if len(right[c]) else torch.zeros(0).long()
            for c in classes
        )
        if not sum(map(len, anchors)):
            who = "zero-shot" if self.slices == "zeroshot" else "k-means"
            raise EmbedcalError(
                f"expected training examples that {who} misses, of a class of which it gets some "
                "right, for con-adapter, found none: use another --slices, or erm"
            )
        every = torch.cat(anchors)
        slot = torch.full((len(y),), -1)
        slot[every] = torch.arange(len(every))
        cells = [[rows_where((y == c) & (h == k)) for k in classes] for c in classes]
        filled = [tuple(cell for cell in row if len(cell)) for row in cells]
        neighbours = self._neighbours(x, y, anchors)
        return Plan(y, h, anchors, right, slot, neighbours, tuple(filter(None, filled)))

    def _neighbours(self, x: Tensor, y: Tensor, anchors: tuple[Tensor, ...]) -> Tensor:
        """Of each anchor M positions in train (K, M), without itself."""
        every = torch.cat(anchors)
        if self.variant == "paper":
            fewest = min(int((y != c).sum()) for c in torch.unique(y[every]))
            found = nearest(
                x[every], x, min(self.neighbours, fewest), query_labels=y[every], pool_labels=y
            )
            return torch.from_numpy(found.positions)
        of = every
        if self.variant == "official":
            of = torch.cat([torch.arange(len(rows)) for rows in anchors])
        found = nearest(x[of], x, min(self.neighbours, len(x) - 1) + 1)
        return torch.from_numpy(found.positions[:, 1:])  # the nearest is the row itself

    def marks(self, task: Task) -> Marks | None:
        """The rows of train that zero-shot gets wrong: what anchors are made of."""
        if self.slices != "zeroshot":
            return None
        text = prototypes(torch.as_tensor(task.bank("class").embedding))
        x = shared(task.train.x)
        h = (F.normalize(x, dim=-1) @ text.T).argmax(1).numpy()
        return Marks(split="train", rows=np.flatnonzero(h != task.train.y))

    # -- what each step sees ----------------------------------------------------------------------

    def steps(
        self, task: Task, plan: Plan, epoch: int, generator: torch.Generator
    ) -> Iterator[Step]:
        if epoch % 2 == 0:
            rows = self._even_rows(plan, generator)
            for index in batches(len(rows), self.batch_size, generator):
                yield Step(batch=rows[index])
            return
        anchors = self._anchors(plan, generator)
        for index in batches(len(anchors), self.batch_size, generator):
            drawn = self._draw(plan, anchors[index], generator)
            kinds = [drawn[name] for name in KINDS]
            rows, place = rows_and_places(torch.cat(kinds, 1), len(plan.y))
            columns = torch.split(place, [kind.shape[1] for kind in kinds], dim=1)
            yield Step(batch=rows, drawn=drawn | dict(zip(KINDS, columns, strict=True)))

    def _anchors(self, plan: Plan, generator: torch.Generator) -> Tensor:
        if self.anchor_ratio == 1:
            return torch.cat(plan.anchors)
        drawn = []
        for anchors in plan.anchors:
            if len(anchors):
                h = plan.h[anchors]
                weights = 1.0 / torch.bincount(h)[h]
                k = max(1, round(self.anchor_ratio * len(anchors)))
                picked = torch.multinomial(weights, k, replacement=True, generator=generator)
                drawn.append(anchors[picked])
        return torch.cat(drawn)

    def _even_rows(self, plan: Plan, generator: torch.Generator) -> Tensor:
        """Rows of one epoch of cross-entropy, repeats included."""
        if self.resample == "cells":
            every = [cell for cells in plan.cells for cell in cells]
            return torch.cat([draw(cell, self.cell_size, generator) for cell in every])
        classes = raise_to_largest([torch.cat(cells) for cells in plan.cells], generator)
        drawn = []
        for rows in classes:
            cells = [rows[plan.h[rows] == k] for k in range(len(plan.right))]
            drawn += raise_to_largest([cell for cell in cells if len(cell)], generator)
        return torch.cat(drawn)

    def _draw(self, plan: Plan, anchors: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        """Positions in train (m, k) of anchors, positives and negatives, and which count."""
        y = plan.y[anchors]
        p = min(self.positives, max(len(pool) for pool in plan.right))
        positives = torch.empty(len(anchors), p, dtype=torch.long)
        counted = torch.empty(len(anchors), p, dtype=torch.bool)
        for c in range(len(plan.right)):
            pool, own = plan.right[c], rows_where(y == c)
            if len(own) == 0:
                continue
            k = min(p, len(pool))
            picked = pool[_choose(len(own), len(pool), k, generator)]
            again = torch.randint(k, (len(own), p - k), generator=generator)
            positives[own] = torch.cat([picked, picked.gather(1, again)], 1)
            counted[own] = torch.arange(p) < k
        near = plan.neighbours[plan.slot[anchors]]  # (m, M)
        n = min(self.negatives, near.shape[1])
        negatives = near.gather(1, _choose(len(near), near.shape[1], n, generator))
        return {
            "anchors": anchors[:, None],
            "positives": positives,
            "negatives": negatives,
            "positive_mask": counted,
            "negative_mask": plan.y[negatives] != y[:, None],
        }

    # -- the loss ---------------------------------------------------------------------------------

    def step_work(self, task: Task) -> int:
        """That of all activated rows of a contrast step's blocks with G, h x h."""
        blocks = self.batch_size or len(task.train.y)
        return blocks * (1 + self.positives + self.negatives) * self.hidden**2

    def loss(
        self, head: Head, state: State, batch: Batch, hyper: Mapping[str, Tensor]
    ) -> tuple[Tensor, State]:
        assert isinstance(head, AdapterHead)
        if not batch.drawn:
            return cross_entropy(head(batch.x), batch.y).mean(), state
        blocks = torch.cat([batch.drawn[name] for name in KINDS], 1)  # (m, 1 + P + N)
        similarity = block_cosines(head, batch.x, blocks) / hyper["tau"]
        p = batch.drawn["positives"].shape[1]
        contrast = info_nce(
            similarity[:, :p],
            similarity[:, p:],
            positive_mask=batch.drawn["positive_mask"],
            negative_mask=batch.drawn["negative_mask"],
        )
        return contrast.sum(), state


def block_cosines(
    head: AdapterHead, x: Float[Tensor, "u d"], blocks: Int[Tensor, "m b"]
) -> Float[Tensor, "m c"]:
    """Cosine of each block's first row with each other, all adapted with their block as batch.

    What ``head.embed(x[block])`` gives block after block in training, with the running statistics
    that this leaves; ``blocks`` holds rows of ``x``. W1 x is computed once for each row, and the
    d-wide outputs z = W2 r + b not at all: z_i . z_j = r_i' G r_j + q . r_i + q . r_j + b . b with
    G = W2' W2 and q = W2' b.
    """
    assert head.training
    weight, bias = head.last_weight, head.last_bias
    forms = block_forms(
        head.hidden(x), blocks, head.norm_weight, head.norm_bias, weight.T @ weight, weight.T @ bias
    )
    _follow(head, forms.mean, forms.var * (blocks.shape[1] / (blocks.shape[1] - 1)))
    constant = bias @ bias
    dot = forms.first[:, 1:] + forms.line[:, 1:] + forms.line[:, :1] + constant
    length = (forms.own + 2 * forms.line + constant).clamp_min(1e-12).sqrt()
    return dot / (length[:, :1] * length[:, 1:])


def _follow(head: AdapterHead, mean: Float[Tensor, "m h"], var: Float[Tensor, "m h"]) -> None:
    """Move the running statistics as m blocks one after the other would."""
    m, keep = len(mean), 1 - MOMENTUM
    later = torch.arange(m - 1, -1, -1, dtype=mean.dtype, device=mean.device)  # blocks to come
    share = MOMENTUM * keep**later  # (m,)
    with torch.no_grad():
        for name, found in (("running_mean", mean), ("running_var", var)):
            head.get_buffer(name).mul_(keep**m).add_(share @ found)


def rows_and_places(found: Int[Tensor, "..."], n: int) -> tuple[Tensor, Tensor]:
    """torch.unique's sorted values and inverse for positions below n, which need no sorting."""
    there = torch.zeros(n, dtype=torch.bool)
    there[found.flatten()] = True
    place = there.cumsum(0) - 1
    return rows_where(there), place[found]


def raise_to_largest(pools: Sequence[Tensor], generator: torch.Generator) -> list[Tensor]:
    """The largest pools as they are, of each other as many draws with repeats."""
    most = max(map(len, pools))
    return [x if len(x) == most else draw(x, most, generator) for x in pools]


def _choose(m: int, n: int, k: int, generator: torch.Generator) -> Tensor:
    """m times k distinct numbers below n: (m, k)."""
    return torch.rand(m, n, generator=generator).topk(k, dim=1).indices
