"""Correct-n-Contrast: contrast what a first run gets right with what it gets wrong."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple, Self

import torch
from torch import Tensor
from torch.nn import functional as F

from embedcal.features import features
from embedcal.heads import ClipHead, Head, MlpHead
from embedcal.losses import cross_entropy, info_nce
from embedcal.methods._bounds import at_least, defaults
from embedcal.methods._handed import Marks, Stage
from embedcal.methods._slices import draw, rows_where, umap_slices
from embedcal.methods.base import CLIP_HEADS, Batch, Gradient, Offer, State, Step, option
from embedcal.types import EmbedcalError, Task

ROWS = 1024  # embedded at once


class Counts(NamedTuple):
    """How many examples of each kind a tuple has."""

    anchors: int
    positives: int
    negatives: int
    easy: int


class Plan(NamedTuple):
    """Slices h of n training rows, and positions in train of what each class's tuples draw from."""

    h: Tensor  # (n,)
    anchors: tuple[Tensor, ...]  # of class c: h = y = c
    positives: tuple[Tensor, ...]  # y = c, h != c
    negatives: tuple[Tensor, ...]  # h = c, y != c
    others: tuple[Tensor, ...]  # h = y != c, where a positive's slice has nothing to offer
    counts: Counts


@dataclass(frozen=True, kw_only=True)
class CNC(Gradient):
    """Minimises lam (L1 + L2) + (1 - lam) CE over tuples of right and wrong examples.

    Zhang et al., 2022 (Correct-n-Contrast, arXiv:2203.01517). The predictions h of a first ERM run
    cut the training split into slices. A tuple has anchors that it gets right (h = y), all of one
    slice; positives of the same class in other slices (y the same, h != y); negatives of the
    anchors' slice in other classes (h the same, y != h); and easy negatives, right examples of the
    first positive's slice. L1 is the contrast of the first anchor with positives and negatives:
    mean_p -log[e^{s_p} / (sum_n e^{s_n} + sum_p' e^{s_p'})], s = cos / tau. L2 is the same with the
    first positive as anchor, the anchors as positives and the easy negatives. CE is the mean over
    the rows of a tuple, and a step averages ``--tuples`` of them. A right example is the first
    anchor of at most one tuple an epoch; slices take turns, and the smallest ends the epoch.

    The contrast is on the head's unit embedding: of CLIP's heads the projection, with the logits
    as classifier; where a cache has image features alone, the hidden layer of ``--head mlp``. With
    ``--head attnpool`` lower ``--tuples``: a step holds the tokens of all its rows. The first run
    trains the same head, of mlp a linear probe, with AdamW. It is short by default: over frozen
    features a long one gets nearly every training example right, and the rest says little.

    As in the official code, counts are clamped to the rarest pool, anchors also to positives and
    negatives; a slice without errors takes its negatives from all other classes, and a class
    without errors its positives from its right examples. Easy negatives of these, or where the
    positive's slice has no right examples, are right examples of other classes (deviation: the
    code would then push examples of the anchor's own class away).

    Variants: ``paper``; ``official_fixed``, whose CE counts as many anchors as positives, negatives
    and easy negatives. The README's runs leave the code's slicing at ``--slices umap_gmm``, a
    mixture on the first run's features, where the paper has predictions. They also never zero
    the classifier's gradient within an epoch: that is no loss of one step and is not emulated.
    The code's encoder stays in evaluation mode, as all of ours do, and its classifier may have a
    weight decay of its own, which ours shares.

    Published settings: SGD 0.9, lam 0.75, 32 tuples a step. Waterbirds 17 of each kind, tau 0.1,
    lr 1e-4, weight decay 1e-3, 5 epochs; CelebA 64 of each, tau 0.05, lr 1e-5, weight decay 0.1,
    15 epochs, ``--anchor-ratio 0.1``; coloured MNIST 32 of each, tau 0.05, lr 1e-3, weight decay
    1e-4, 3 epochs, after 5 of ERM. Ours is AdamW; ``--batch-size`` is the first run's.
    """

    name = "cnc"
    variants = ("paper", "official_fixed")

    head: str = option(
        "auto",
        "what is trained: CLIP's projection, or a hidden layer where the cache has none",
        choices=("auto", "projection", "attnpool", "mlp"),
    )
    sampler: str = option("iid", "anchors come once an epoch", choices=("iid",))
    slices: str = option(
        "pred",
        "what h is: the first run's prediction, or a Gaussian mixture on a UMAP of its features",
        choices=("pred", "umap_gmm"),
    )
    anchors: int = option(17, "right examples of a tuple")
    positives: int = option(17, "positives of a tuple")
    negatives: int = option(17, "negatives of a tuple")
    easy: int = option(17, "easy negatives of a tuple; 0: L1 alone")
    tuples: int = option(32, "tuples a step")
    anchor_ratio: float = option(1.0, "share of a slice's right examples that an epoch takes")
    single_pos: str = option(
        "off", "a positive's denominator holds no other positive", choices=("on", "off")
    )
    tau: float = option(0.1, "temperature of the contrast", grid=(0.05, 0.1), hyper=True)
    contrast_weight: float = option(0.75, "lam, the share of the contrast", hyper=True)
    hidden: int = option(256, "units of the hidden layer of --head mlp")
    epochs: int = option(10, "passes over the anchors")
    batch_size: int = option(128, "examples a step of the first ERM run; 0: all at once")
    stage_epochs: int = option(
        0, "epochs of the first ERM run; 0: 1 of CLIP's heads, 30 of the linear probe"
    )
    stage_lr: float = option(
        0.0, "its learning rate; 0: 1e-4 of CLIP's heads, 1e-3 of the linear probe"
    )
    stage_select: str = option(
        "last",
        "rule that chooses its epoch",
        choices=("val.mean", "val.worst_class", "val.worst_group", "last"),
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self, anchors=1, positives=1, negatives=1, easy=0, tuples=1, hidden=1)
        at_least(self, stage_epochs=0, stage_lr=0)
        if not (self.tau > 0 and 0 < self.anchor_ratio <= 1 and 0 <= self.contrast_weight <= 1):
            raise EmbedcalError(
                "expected --tau and --anchor-ratio above 0, --anchor-ratio and --contrast-weight "
                f"at most 1, found {self.tau}, {self.anchor_ratio} and {self.contrast_weight}: "
                f"{defaults(self, 'tau', 'anchor_ratio', 'contrast_weight')}"
            )

    def resolve(self, offer: Offer) -> Self:
        usable = offer.projection and "class" in offer.banks and "pooled" in offer.levels
        if self.head == "projection" and not usable:
            raise EmbedcalError(
                "expected a cache with a projection and class prompts for --head projection, "
                "found image features alone: use --head mlp"
            )
        chosen = replace(self, head="mlp") if self.head == "auto" and not usable else self
        chosen = Gradient.resolve(chosen, offer)
        epochs, lr = (30, 1e-3) if chosen.head == "mlp" else (1, 1e-4)
        return replace(
            chosen,
            stage_epochs=self.stage_epochs or epochs,
            stage_lr=self.stage_lr or lr,
        )

    @property
    def stage(self) -> Stage:
        same = ("scope", "temperature", "prototype", "templates", "features", "batch_size")
        options = {name: getattr(self, name) for name in same}
        options |= {"epochs": max(1, self.stage_epochs), "lr": self.stage_lr}
        # A linear probe has nothing for a contrast to train, but it can predict.
        options["head"] = "linear" if self.head == "mlp" else self.head
        return Stage(method="erm", options=options, select=self.stage_select)

    def start_head(self, task: Task, generator: torch.Generator) -> Head:
        if self.head in CLIP_HEADS:
            return super().start_head(task, generator)
        return MlpHead.start(
            task.train.x.shape[1],
            task.n_classes,
            generator,
            hidden=self.hidden,
            normalise=self.features == "normalised",
        )

    # -- what is found once -----------------------------------------------------------------------

    def prepare(self, task: Task, generator: torch.Generator) -> Plan:
        y = torch.as_tensor(task.train.y).long()
        if len(torch.unique(y)) < 2:
            raise EmbedcalError(
                "expected examples of at least two classes in train for cnc, found one: its "
                "negatives are of other classes"
            )
        h = self._slices(task, generator)
        who, mend = "the first ERM run", "change --stage-epochs or --stage-lr"
        if self.slices == "umap_gmm":
            who, mend = "the mixture", "use --slices pred"
        for found, verb in (((h != y).any(), "misses"), ((h == y).any(), "gets right")):
            if not found:
                raise EmbedcalError(
                    f"expected training examples that {who} {verb} for cnc, found none: {mend}"
                )
        return make_plan(
            h, y, task.n_classes, Counts(self.anchors, self.positives, self.negatives, self.easy)
        )

    def _slices(self, task: Task, generator: torch.Generator) -> Tensor:
        if self.slices == "pred":
            predicted: Tensor = task.stage.logits.argmax(1)
            return predicted
        head, x = task.stage.head.cpu(), features(task.train.x, "cpu")
        with torch.no_grad():
            parts = torch.split(torch.arange(len(x)), ROWS)
            unit = torch.cat([head.embed(x.take(index)) for index in parts])
        found = umap_slices(unit, task.train.y, task.n_classes, "gmm", generator)
        return torch.as_tensor(found).long()

    def marks(self, task: Task) -> Marks | None:
        """The rows outside the slice of their class: all positives, and all hard negatives.

        A mixture depends on draws that are over by now: of ``--slices umap_gmm`` nothing is said.
        """
        if self.slices != "pred":
            return None
        strange = task.stage.logits.argmax(1) != torch.as_tensor(task.train.y)
        return Marks(split="train", rows=rows_where(strange).numpy())

    # -- what each step sees ----------------------------------------------------------------------

    def steps(
        self, task: Task, plan: Plan, epoch: int, generator: torch.Generator
    ) -> Iterator[Step]:
        slices = [c for c, pool in enumerate(plan.anchors) if len(pool)]
        sizes = [max(1, round(self.anchor_ratio * len(plan.anchors[c]))) for c in slices]
        orders = [draw(plan.anchors[c], k, generator) for c, k in zip(slices, sizes, strict=True)]
        turns = [
            (c, row)
            for rows in zip(*orders, strict=False)
            for c, row in zip(slices, rows, strict=True)
        ]
        for first in range(0, len(turns), self.tuples):
            step = turns[first : first + self.tuples]
            drawn = torch.stack([draw_tuple(plan, c, row, generator) for c, row in step])
            rows, place = torch.unique(drawn, return_inverse=True)  # a row is embedded once
            kinds = torch.split(place, list(plan.counts), dim=1)
            yield Step(batch=rows, drawn=dict(zip(Counts._fields, kinds, strict=True)))

    # -- the loss ---------------------------------------------------------------------------------

    def loss(
        self, head: Head, state: State, batch: Batch, hyper: Mapping[str, Tensor]
    ) -> tuple[Tensor, State]:
        assert isinstance(head, ClipHead | MlpHead)
        z = head.project(batch.x)  # (u, d)
        unit = F.normalize(z, dim=-1)
        kinds = [batch.drawn[name] for name in Counts._fields]  # (t, k) of columns below u
        anchors, positives, negatives, easy = kinds

        def contrast(anchor: Tensor, pulled: Tensor, pushed: Tensor) -> Tensor:
            similarity = unit[anchor] @ unit.T / hyper["tau"]  # (t, u)
            return info_nce(
                similarity.gather(1, pulled),
                similarity.gather(1, pushed),
                all_positives=self.single_pos == "off",
            ).mean()

        pull = contrast(anchors[:, 0], positives, negatives)
        if easy.shape[1]:
            pull = pull + contrast(positives[:, 0], anchors, easy)
        if self.variant == "official_fixed":
            shortest = min(kind.shape[1] for kind in kinds if kind.shape[1])
            kinds = [kind[:, :shortest] for kind in kinds]
        ce = cross_entropy(head.classify(z), batch.y)[torch.cat(kinds, 1)].mean()
        weight = hyper["contrast_weight"]
        return weight * pull + (1 - weight) * ce, state


def make_plan(h: Tensor, y: Tensor, n_classes: int, counts: Counts) -> Plan:
    """The pools of every class, with what stands in for empty ones, and counts that they allow."""
    anchors, positives, negatives, others = [], [], [], []
    for c in range(n_classes):
        right, wrong, strange = (h == c) & (y == c), (h != c) & (y == c), (h == c) & (y != c)
        other = y != c
        anchors.append(rows_where(right))
        positives.append(rows_where(wrong if wrong.any() else right))
        negatives.append(rows_where(strange if strange.any() else other))
        others.append(rows_where(other & (h == y) if bool((other & (h == y)).any()) else other))
    used = [c for c in range(n_classes) if len(anchors[c])]
    n_positives = min(counts.positives, *(len(positives[c]) for c in used))
    n_negatives = min(counts.negatives, *(len(negatives[c]) for c in used))
    allowed = Counts(
        anchors=min(counts.anchors, n_positives, n_negatives),
        positives=n_positives,
        negatives=n_negatives,
        easy=min(counts.easy, *(len(anchors[c]) for c in used)),
    )
    return Plan(h, tuple(anchors), tuple(positives), tuple(negatives), tuple(others), allowed)


def draw_tuple(plan: Plan, c: int, row: Tensor, generator: torch.Generator) -> Tensor:
    """Positions in train of a tuple of slice ``c`` whose first anchor is ``row``, kind by kind."""
    k = plan.counts
    more = draw(plan.anchors[c], k.anchors - 1, generator)
    positives = draw(plan.positives[c], k.positives, generator)
    negatives = draw(plan.negatives[c], k.negatives, generator)
    s = int(plan.h[positives[0]])
    easy = plan.anchors[s] if s != c and len(plan.anchors[s]) else plan.others[c]
    return torch.cat([row[None], more, positives, negatives, draw(easy, k.easy, generator)])
