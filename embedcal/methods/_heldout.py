"""Last layers retrained on a part of val: what all such methods share.

Shapes: n rows, d features, C classes; "..." before a shape is any number of layers side by side.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from embedcal.heads import Head, LinearHead
from embedcal.methods._unit import unit
from embedcal.methods.base import Solver, Stage, option
from embedcal.types import EmbedcalError, FloatArray, IntArray, Level

BETAS, EPSILON = (0.9, 0.999), 1e-8  # of AdamW, as torch has them


class Linear(NamedTuple):
    """A linear layer over rows (n, d), in float64."""

    weight: FloatArray  # (..., C, d)
    bias: FloatArray  # (..., C)

    def logits(self, x: FloatArray) -> FloatArray:
        """(..., n, C) of rows (n, d)."""
        found: FloatArray = x @ np.swapaxes(self.weight, -1, -2) + self.bias[..., None, :]
        return found

    def scaled(self, factor: float) -> Linear:
        """The layer that gives for x what this one gives for ``factor * x``."""
        return Linear(factor * self.weight, self.bias)

    @classmethod
    def of(cls, head: Head) -> Linear:
        """The layer of a linear head, over rows as its ``normalise`` makes them."""
        assert isinstance(head, LinearHead)
        weight, bias = head.weight.detach().cpu(), head.bias.detach().cpu()
        return cls(weight.double().numpy(), bias.double().numpy())


class Descent:
    """Steps on the mean cross-entropy of a batch + l1 (||W||_1 + ||b||_1), in float64.

    ``sgd`` has momentum and adds weight_decay times the weights to the slope; ``adamw`` shrinks
    them beside it, so that without decay it is Adam. Both are torch's update rules. ``l1`` is a
    number, or one for each of several layers (...), whose steps share their batches; the slope of
    |w| at 0 is 0.
    """

    def __init__(
        self,
        start: Linear,
        *,
        optimizer: str,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        l1: FloatArray | float = 0.0,
    ) -> None:
        self.layer = start
        self._sgd, self._momentum = optimizer == "sgd", momentum
        self._decay, self._l1 = weight_decay, np.asarray(l1, np.float64)
        self._first = [np.zeros_like(value) for value in start]
        self._second = [np.zeros_like(value) for value in start]
        self._steps = 0

    def step(self, x: FloatArray, y: IntArray, lr: float) -> None:
        """Move the layer by one batch: rows (b, d) and their classes (b,)."""
        slope = self._slope(x, y)
        self._steps += 1
        weight = self._moved(0, slope.weight, lr)
        bias = self._moved(1, slope.bias, lr)
        self.layer = Linear(weight, bias)

    def _slope(self, x: FloatArray, y: IntArray) -> Linear:
        residual = np.exp(log_softmax(self.layer.logits(x)))  # (..., b, C)
        residual[..., np.arange(len(y)), y] -= 1
        residual /= len(y)
        weight, bias = np.swapaxes(residual, -1, -2) @ x, residual.sum(-2)
        return Linear(
            weight + self._l1[..., None, None] * np.sign(self.layer.weight),
            bias + self._l1[..., None] * np.sign(self.layer.bias),
        )

    def _moved(self, part: int, slope: FloatArray, lr: float) -> FloatArray:
        """The weights (part 0) or the biases (part 1) after the step; their moments move too."""
        value, first, second = self.layer[part], self._first[part], self._second[part]
        if self._sgd:
            self._first[part] = first = self._momentum * first + slope + self._decay * value
            moved: FloatArray = value - lr * first
            return moved
        self._first[part] = first = BETAS[0] * first + (1 - BETAS[0]) * slope
        self._second[part] = second = BETAS[1] * second + (1 - BETAS[1]) * slope**2
        mean = first / (1 - BETAS[0] ** self._steps)
        spread = np.sqrt(second / (1 - BETAS[1] ** self._steps)) + EPSILON
        moved = value * (1 - lr * self._decay) - lr * mean / spread
        return moved


@contextmanager
def in_one_order() -> Iterator[None]:
    """Sums of the block are in one order on every machine, so that its results are alike.

    Nothing is said of numbers that a step too large makes infinite: ``HeldOut.made`` refuses them.
    """
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1), np.errstate(over="ignore", invalid="ignore"):
        yield


def log_softmax(logits: FloatArray) -> FloatArray:
    """Log-probabilities (..., C); no probability underflows to 0 on the way."""
    less = logits - logits.max(-1, keepdims=True)
    found: FloatArray = less - np.log(np.exp(less).sum(-1, keepdims=True))
    return found


def losses(logits: FloatArray, y: IntArray) -> FloatArray:
    """Cross-entropy (n,) of each row of logits (n, C)."""
    found: FloatArray = -log_softmax(logits)[np.arange(len(y)), y]
    return found


def highest(scores: FloatArray, n: int) -> IntArray:
    """Positions of the n highest of scores (m,), the highest first; of equals the first one."""
    return np.argsort(-scores, kind="stable")[:n]


def balanced_batches(
    labels: IntArray, batch_size: int, rng: np.random.Generator
) -> Iterator[IntArray]:
    """Positions (b,) of each batch of one pass over labels (n,).

    n draws with replacement, every label that occurs equally often on average.
    """
    _, place, counts = np.unique(labels, return_inverse=True, return_counts=True)
    chances = 1.0 / (len(counts) * counts[place])
    order = rng.choice(len(labels), size=len(labels), p=chances)
    yield from np.split(order, range(batch_size, len(order), batch_size))


def check_classes(y: IntArray, n_classes: int, method: str, least: int = 1) -> None:
    """EmbedcalError where a class has fewer rows than ``least`` in val."""
    counts = np.bincount(y, minlength=n_classes)
    if counts.min() < least:
        raise EmbedcalError(
            f"expected {least} or more val rows of every class for {method}, found {counts.min()} "
            f"of class {counts.argmin()}: give more"
        )


@dataclass(frozen=True, kw_only=True)
class HeldOut(Solver):
    """A linear layer fitted to a part of val, so that figures on val are in-sample."""

    features: str = option(
        "normalised",
        "what the layer eats: unit embeddings, or embeddings as they are",
        choices=("normalised", "embedding"),
    )
    share: float = option(0.5, "share of val that is kept back to retrain on")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.share <= 1:
            raise EmbedcalError(
                f"expected --share above 0 and up to 1, found {self.share}: 0.5 is half of val"
            )

    @property
    def fits_val(self) -> bool:
        return True

    @property
    def head_name(self) -> str:
        return "linear"

    @property
    def level(self) -> Level:
        return "embedding"

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"val.x", "val.y"})

    def inputs(self, x: FloatArray) -> FloatArray:
        """Features (n, d) as the head eats them, in float64; a row of zeros stays one."""
        return x.astype(np.float64) if self.features == "embedding" else unit(x)

    def stretch(self, width: int) -> float:
        """What inputs are multiplied by before any step.

        The published steps are made for a ResNet's features, which are of the order of one each;
        those of a unit row are of the order of 1 / sqrt(d).
        """
        return float(width) ** 0.5 if self.features == "normalised" else 1.0

    @property
    @abstractmethod
    def lr(self) -> float:
        """The learning rate, each method's own option."""

    def made(self, layer: Linear) -> LinearHead:
        """The head of one layer over inputs; EmbedcalError where steps have left no numbers."""
        if not np.isfinite(layer.weight).all():
            raise EmbedcalError(
                f"expected finite weights of {self.name}, found others: lower --lr (now {self.lr})"
            )
        weight, bias = torch.tensor(layer.weight).float(), torch.tensor(layer.bias).float()
        normalise = self.features == "normalised"
        return LinearHead(weight, bias, normalise=normalise, level=self.level)

    def check(self, **least: float) -> None:
        """EmbedcalError for an option below its least value, or not a number."""
        for name, bound in least.items():
            value = getattr(self, name)
            if not all(one >= bound for one in (value if isinstance(value, tuple) else (value,))):
                raise EmbedcalError(
                    f"expected {name} of {self.name} to be at least {bound}, found {value}: raise "
                    f"--{name.replace('_', '-')}"
                )


@dataclass(frozen=True, kw_only=True)
class FromProbe(HeldOut):
    """A part of val judged by a linear probe of train, which is fitted first by ERM."""

    stage_epochs: int = option(100, "epochs of the first ERM run")
    stage_lr: float = option(0.1, "learning rate of the first ERM run")
    stage_sampler: str = option(
        "iid",
        "the first ERM run's batches: every example once an epoch, or classes equally often",
        choices=("iid", "class"),
    )
    stage_select: str = option(
        "last",
        "rule that chooses the first run's epoch",
        choices=("val.mean", "val.worst_class", "val.worst_group", "last"),
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check(stage_epochs=1, stage_lr=0)

    @property
    def stage(self) -> Stage:
        options = {
            "head": "linear",
            "features": self.features,
            "sampler": self.stage_sampler,
            "epochs": self.stage_epochs,
            "lr": self.stage_lr,
        }
        return Stage(method="erm", options=options, select=self.stage_select)
