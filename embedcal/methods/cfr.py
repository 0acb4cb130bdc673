"""Contrastive feature recalibration: pull what is misclassified to its class, away from others."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple, Self

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from embedcal.features import features, shared
from embedcal.heads import ClipHead, Head, predict
from embedcal.losses import cross_entropy, ema_centroids, similarity_loss
from embedcal.methods._bounds import at_least, defaults
from embedcal.methods._cfr_contrast import Kind, State, calibration, trusted
from embedcal.methods._cfr_official import Queue, draw, official_draws, official_loss, start_queue
from embedcal.methods._handed import Marks, Stage, Staged
from embedcal.methods.base import CLIP_HEADS, Batch, Gradient, Offer, Step, option
from embedcal.neighbours import nearest
from embedcal.types import LEVELS, EmbedcalError, IntArray, Task

BLOCK = 2**24  # numbers of features embedded at once, which bounds the memory of tokens


class Plan(NamedTuple):
    """What is found once. K rows to calibrate of n in train, N negatives, D frozen features."""

    wrong: Tensor  # (K,) positions in train: the calibration set
    slot: Tensor  # (n,) a row's place in it, -1 elsewhere
    y: Tensor  # (n,)
    right: Tensor  # (n,) bool: the judge of --calibration is right about the row
    trust: Tensor  # (n,) how much a row moves its centroid; empty if the current head judges
    centroids: Tensor  # (C, d)
    neighbours: Tensor  # (K, N) positions in train, or empty
    frozen: Tensor  # (n, D) unit features that neighbours in a batch are found by, or empty


@dataclass(frozen=True, kw_only=True)
class CFR(Gradient):
    """Minimises L_cal + w L_cos: contrast on what is misclassified, similarity on everything.

    You et al., 2024 (CVPR; arXiv:2403.07241). The calibration set K holds the training examples
    that the pretrained model, or a first ERM run (``--calibration``), gets wrong. Of each anchor v
    in K, with positives P and negatives N, L_cal is mean_p -log[e^{v.p/tau} / (e^{v.p/tau} + sum_n
    e^{v.n/tau})]; L_cos is mean_i (-pos_i + neg_i) over the whole batch. DPS takes the class
    centroid for p, a moving average over examples predicted correctly, RPS random examples of the
    class; RNS takes random examples of other classes for n, NNS the nearest ones.

    Variant ``paper`` is a reconstruction: the published description leaves tau, the momentum, P and
    N, the pool, and the form and weight of L_cos open; all but that form are options. It names both
    the pretrained and the ERM-tuned model as the one whose mistakes count; the former is the
    default, since a long ERM run makes hardly any on its training data. Options of ours are also:
    classes that weigh the same (``--class-balanced``), a cross-entropy on everything
    (``--ce-weight``), the centroids of other classes as negatives (``--neg centroid``), weighing
    centroids by confidence. Random examples from the data set are drawn afresh in every step for
    each class, and shared by its anchors. Variant ``official`` is what the released code computes
    (two classes only): 1.5 (CE + contrast) on one row of K for each training row, with 16 positives
    that stage 1 gets right and 16 "negatives" that are of the anchor's own class, and a targeted
    contrast with a queue on everything; its dropout is left out.
    """

    name = "cfr"
    variants = ("paper", "official")

    calibration: str = option(
        "zeroshot",
        "who finds the calibration set: the pretrained model, a first ERM run, or none (control)",
        choices=("zeroshot", "erm", "none"),
        grid=("zeroshot", "erm"),
    )
    calibration_size: int = option(
        0, "rows of the calibration set to use, drawn at random by the seed; 0: all of them"
    )
    pos: str = option(
        "dps", "positives: class centroid (dps) or random (rps)", choices=("dps", "rps"),
        grid=("dps", "rps"),
    )  # fmt: skip
    neg: str = option(
        "rns",
        "negatives: random (rns) or nearest (nns) of other classes, or their centroids",
        choices=("rns", "nns", "centroid"),
        grid=("rns", "nns", "centroid"),
    )
    positives: int = option(16, "random positives of an anchor, P")
    negatives: int = option(16, "negatives of an anchor, N", grid=(16, 64))
    pool: str = option(
        "auto",
        "where examples are taken from: the batch (auto for nns) or the data set (auto for rns)",
        choices=("auto", "batch", "dataset"),
    )
    space: str = option(
        "current",
        "features that nearest means: the head's own embedding, or a frozen level of the cache",
        choices=("current", "embedding", "pooled", "tokens"),
    )
    correct: str = option(
        "current",
        "who says which examples are predicted correctly and move the centroid",
        choices=("pretrained", "erm", "current"),
        grid=("pretrained", "erm", "current"),
    )
    confidence: str = option(
        "off",
        "weigh examples in their centroid by how sure that model is",
        choices=("off", "entropy", "margin"),
    )
    anchors: int = option(64, "calibration examples a step")
    tau: float = option(0.1, "temperature of the contrast", grid=(0.07, 0.1, 0.2), hyper=True)
    centroid_momentum: float = option(
        0.9, "share of the old centroid in a step", grid=(0.9, 0.99), hyper=True
    )
    calibration_weight: float = option(1.0, "weight of L_cal; 0 is the control", hyper=True)
    cosine_weight: float = option(1.0, "weight of L_cos", grid=(0.5, 1.0), hyper=True)
    ce_weight: float = option(0.0, "weight of a cross-entropy on all examples", hyper=True)
    class_balanced: str = option(
        "on", "anchors, L_cos and the cross-entropy weigh classes equally", choices=("on", "off")
    )
    start: str = option(
        "pretrained", "weights to start from", choices=("pretrained", "stage"),
        grid=("pretrained", "stage"),
    )  # fmt: skip
    stage_epochs: int = option(5, "epochs of the first ERM run", grid=(2, 5, 10))
    stage_lr: float = option(1e-3, "learning rate of the first ERM run")
    stage_select: str = option(
        "last",
        "rule that chooses the first run's epoch",
        choices=("last", "val.mean", "val.worst_class", "val.worst_group"),
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self, positives=1, negatives=1, anchors=1, stage_epochs=1, calibration_size=0)
        if not (self.tau > 0 and 0 <= self.centroid_momentum <= 1):
            raise EmbedcalError(
                "expected --tau above 0 and --centroid-momentum between 0 and 1, found "
                f"{self.tau} and {self.centroid_momentum}: "
                f"{defaults(self, 'tau', 'centroid_momentum')}"
            )
        if self.neg == "nns" and self.space == "current" and self._pool == "dataset":
            raise EmbedcalError(
                "expected a frozen --space for nearest negatives in the whole data set, found "
                "current: choose --space embedding, pooled or tokens, or --pool batch"
            )
        if self.neg == "nns" and self.space == "tokens" and self._pool == "batch":
            raise EmbedcalError(
                "expected --pool dataset with --space tokens, found batch: their distances are "
                "computed once, from the file"
            )
        if self.start == "stage" and self.calibration != "erm":
            raise EmbedcalError(
                f"expected --calibration erm for --start stage, found {self.calibration}: there "
                "is no first run to start from"
            )
        if self.variant == "official" and self.calibration == "none":
            raise EmbedcalError(
                "expected a calibration set for the official variant, found --calibration none: "
                "choose erm or zeroshot"
            )

    def resolve(self, offer: Offer) -> Self:
        chosen = super().resolve(offer)
        if chosen.head not in CLIP_HEADS:
            raise EmbedcalError(
                "expected a cache with a projection and class prompts for cfr, which trains the "
                "projection, found image features alone: use jtt or afr"
            )
        return replace(chosen, pool=self._pool)

    @property
    def _pool(self) -> str:
        if self.pool != "auto":
            return self.pool
        return "batch" if self.neg == "nns" and self.space != "tokens" else "dataset"

    @property
    def _frozen_space(self) -> bool:
        return self.variant == "paper" and self.neg == "nns" and self.space != "current"

    @property
    def needs(self) -> frozenset[str]:
        extra = {f"train.{self.space}"} if self._frozen_space else set()
        return super().needs | extra

    @property
    def stage(self) -> Stage | None:
        if "erm" not in (self.calibration, self.correct):
            return None
        same = ("head", "scope", "temperature", "prototype", "templates", "optimizer", "batch_size")
        options = {name: getattr(self, name) for name in same}
        options |= {"epochs": self.stage_epochs, "lr": self.stage_lr}
        return Stage(method="erm", options=options, select=self.stage_select)

    # -- what is found once -----------------------------------------------------------------------

    def prepare(self, task: Task, generator: torch.Generator) -> Plan | Queue:
        if task.n_classes != 2 and self.variant == "official":
            raise EmbedcalError(
                f"expected two classes for cfr's official variant, found {task.n_classes}: use "
                "--variant paper"
            )
        if len(np.unique(task.train.y)) < 2:
            raise EmbedcalError(
                "expected examples of at least two classes in train for cfr, found one: its "
                "negatives are of other classes"
            )
        y = torch.as_tensor(task.train.y).long()
        start, judges = self._judges(task, generator)
        right = judges[self.calibration].argmax(1) == y
        wrong = torch.nonzero(~right)[:, 0]
        if len(wrong) == 0 and self.calibration != "none":
            raise EmbedcalError(_empty(self.calibration))
        if 0 < self.calibration_size < len(wrong):
            # Not evenly by class: a smaller set is one that fewer examples were looked through for.
            drawn = torch.randperm(len(wrong), generator=generator)[: self.calibration_size]
            wrong = wrong[drawn.sort().values]
        slot = torch.full((len(y),), -1)
        slot[wrong] = torch.arange(len(wrong))
        trust = torch.zeros(0)
        if self.correct != "current":
            trust = trusted(judges[self.correct], y, self.confidence)
        neighbours, frozen = self._neighbours(task, wrong)
        return Plan(
            wrong=wrong,
            slot=slot,
            y=y,
            right=right,
            trust=trust,
            centroids=self._centroids(task, start, trust if len(trust) else right.float()),
            neighbours=neighbours,
            frozen=frozen,
        )

    def calibration_rows(self, task: Task, seed: int) -> IntArray:
        """Positions (K,) in train of the calibration set that a run from this seed uses."""
        if self.calibration == "none":
            return np.zeros(0, dtype=np.int64)
        plan = self.prepare(task, torch.Generator().manual_seed(seed))
        assert isinstance(plan, Plan)
        return plan.wrong.numpy()

    def marks(self, task: Task) -> Marks | None:
        """All that the judge of the calibration set gets wrong, however few of them are used."""
        if self.calibration == "none":
            return None
        if self.calibration == "erm":
            logits = task.stage.logits
        else:
            logits = self._judges(task, torch.Generator())[1]["zeroshot"]
        wrong = logits.argmax(1) != torch.as_tensor(task.train.y)
        return Marks(split="train", rows=np.flatnonzero(wrong.numpy()))

    def _judges(self, task: Task, generator: torch.Generator) -> tuple[Head, dict[str, Tensor]]:
        """The pretrained head, and what each model that may judge train says of it, (n, C)."""
        start = super().start_head(task, generator)
        logits = predict(start, features(task.train.x, "cpu"))
        judges = {"pretrained": logits, "zeroshot": logits, "none": logits}
        return start, judges if task.stage is None else {**judges, "erm": task.stage.logits}

    def _neighbours(self, task: Task, wrong: Tensor) -> tuple[Tensor, Tensor]:
        """For a frozen space: each anchor's nearest of other classes, or what finds them later."""
        if not self._frozen_space or len(wrong) == 0:
            return torch.zeros(0, 1).long(), torch.zeros(0)
        (level,) = (level for level in LEVELS if level == self.space)
        x, y, rows = task.train.at(level), task.train.y, wrong.numpy()
        if self._pool == "batch":
            return torch.zeros(0, 1).long(), F.normalize(shared(x), dim=-1)
        found = nearest(
            x[rows], features(x, "cpu"), self.negatives, query_labels=y[rows], pool_labels=y
        )
        return torch.from_numpy(found.positions), torch.zeros(0)

    def _centroids(self, task: Task, head: Head, trust: Tensor) -> Tensor:
        """Class means (C, d) of trusted examples; of all of a class where none is trusted."""
        rows = features(task.train.x, "cpu")
        y = torch.as_tensor(task.train.y).long()
        total: dict[str, Tensor] = {}
        block = max(1, BLOCK // math.prod(task.train.x.shape[1:]))
        for index in torch.split(torch.arange(len(y)), block):
            with torch.no_grad():
                unit = head.embed(rows.take(index))
            member = F.one_hot(y[index], task.n_classes).to(unit.dtype)
            for name, weight in (("trusted", trust[index]), ("all", torch.ones(len(index)))):
                total[name] = total.get(name, torch.zeros(())) + (member * weight[:, None]).T @ unit
        some = total["trusted"].norm(dim=-1, keepdim=True) > 0
        return F.normalize(torch.where(some, total["trusted"], total["all"]), dim=-1)

    def start_head(self, task: Task, generator: torch.Generator) -> Head:
        if self.start == "stage":
            assert isinstance(task.stage, Staged)
            return copy.deepcopy(task.stage.head).cpu()
        return super().start_head(task, generator)

    def init(self, plan: Plan) -> State | Queue:
        if self.variant == "paper":
            return State(plan.centroids, plan.trust, plan.slot, plan.neighbours, plan.frozen)
        return start_queue(plan.centroids.shape[1])

    # -- what each step sees ----------------------------------------------------------------------

    def steps(
        self, task: Task, plan: Plan, epoch: int, generator: torch.Generator
    ) -> Iterator[Step]:
        for step in super().steps(task, plan, epoch, generator):
            if self.calibration == "none":
                yield step
            elif self.variant == "official":
                counts = (self.positives, self.negatives)
                drawn = official_draws(
                    step.batch, plan.wrong, plan.y, plan.right, counts, generator
                )
                yield replace(step, more=drawn)
            else:
                yield replace(step, more=self._draws(plan, generator))

    def _draws(self, plan: Plan, generator: torch.Generator) -> dict[str, Tensor]:
        """Anchors from the calibration set, and what they are compared with beside the batch."""
        weights = torch.ones(len(plan.wrong))
        if self.class_balanced == "on":
            weights = 1.0 / torch.bincount(plan.y[plan.wrong])[plan.y[plan.wrong]]
        picked = torch.multinomial(weights, self.anchors, replacement=True, generator=generator)
        drawn = {"anchors": plan.wrong[picked]}
        if self._pool == "batch":
            return drawn
        classes = range(len(plan.centroids))
        if self.pos == "rps":
            there = torch.bincount(plan.y)  # a class may have no rows: then it has no anchors
            blocks = [
                draw(plan.y == c, self.positives, generator) for c in torch.nonzero(there)[:, 0]
            ]
            drawn["positives"] = torch.cat(blocks)
        if self.neg == "rns":
            blocks = [draw(plan.y != c, self.negatives, generator) for c in classes]
            drawn["negatives"] = torch.cat(blocks)
        elif self.neg == "nns":
            near = plan.neighbours[picked]
            drawn["negatives"] = torch.unique(near[near >= 0])  # sorted: the loss searches them
        return drawn

    # -- the loss ---------------------------------------------------------------------------------

    def loss(
        self, head: Head, state: State | Queue, batch: Batch, hyper: Mapping[str, Tensor]
    ) -> tuple[Tensor, State | Queue]:
        assert isinstance(head, ClipHead)
        parts = {"batch": batch, **batch.more}
        embedded = head.embed(torch.cat([part.x for part in parts.values()]))
        sizes = [len(part.x) for part in parts.values()]
        unit = dict(zip(parts, torch.split(embedded, sizes), strict=True))
        if isinstance(state, Queue):
            return official_loss(head, state, batch, unit)
        return self._paper(head, state, batch, unit, hyper)

    def _paper(
        self,
        head: ClipHead,
        state: State,
        batch: Batch,
        unit: Mapping[str, Tensor],
        hyper: Mapping[str, Tensor],
    ) -> tuple[Tensor, State]:
        weights = torch.ones_like(unit["batch"][:, 0])
        if self.class_balanced == "on":
            same = batch.y[:, None] == batch.y[None, :]
            weights = 1.0 / same.sum(1)
        loss = hyper["cosine_weight"] * similarity_loss(unit["batch"], batch.y, weights=weights)
        logits = head.logit_scale.exp() * unit["batch"] @ head.prototypes().T
        each = cross_entropy(logits, batch.y)
        loss = loss + hyper["ce_weight"] * (weights * each).sum() / weights.sum()
        if "anchors" in unit:
            kind = Kind(self.pos, self.neg, self._pool, self.positives, self.negatives)
            contrast = calibration(kind, state, batch, unit, hyper["tau"]).mean()
            loss = loss + hyper["calibration_weight"] * contrast
        if len(state.trust):
            counted = state.trust[batch.index]
        else:
            counted = trusted(logits.detach(), batch.y, self.confidence)
        centroids = ema_centroids(
            state.centroids, unit["batch"], batch.y, counted, hyper["centroid_momentum"]
        )
        return loss, state._replace(centroids=centroids)


def _empty(calibration: str) -> str:
    who, else_ = "the first ERM run", "--calibration zeroshot, or a shorter one by --stage-epochs"
    if calibration == "zeroshot":
        who, else_ = "the pretrained model", "--calibration erm"
    return f"expected training examples that {who} misclassifies for cfr, found none: use {else_}"
