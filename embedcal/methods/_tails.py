"""Retraining on the tails of the loss: what LFR and EVaLS share, all but their tails.

Shapes: n rows, C classes, k rows a tail, L candidates for the penalty.
"""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from embedcal.heads import Head
from embedcal.methods._environments import WAYS, cell_sizes, environments, joined, worst_cell
from embedcal.methods._heldout import (
    Descent,
    FromProbe,
    Linear,
    check_classes,
    in_one_order,
    losses,
)
from embedcal.methods.base import Marks, Solved, cut_by_class, option
from embedcal.types import EmbedcalError, FloatArray, IntArray, Task

log = logging.getLogger(__name__)

CELLS = ("env", "class", "group")


class Tails(NamedTuple):
    """Of one class, rows that a high loss speaks for, the highest first, and by a low loss."""

    high: IntArray
    low: IntArray


@dataclass(frozen=True, kw_only=True)
class LossTails(FromProbe):
    """A new layer on k rows of high and k of low loss of each class, chosen by its worst cell."""

    k: tuple[int, ...] = option((10, 30, 100), "candidates for the rows of a tail")
    l1: tuple[float, ...] = option((0.0, 0.1, 1.0), "candidates for the weight of the L1 penalty")
    lr: float = option(1e-3, "learning rate", grid=(1e-4, 1e-3))
    epochs: int = option(100, "passes over the chosen rows")
    batch_size: int = option(32, "examples a step")
    decay: float = option(0.1, "times the learning rate after every 85 epochs")
    start: str = option(
        "stage",
        "what the layer starts from: the first run's, or random weights",
        choices=("stage", "xavier"),
        grid=("stage", "xavier"),
    )
    cells: str = option(
        "env", "what k, the penalty and the epoch are chosen by the worst of", choices=CELLS
    )
    environments: str = option(
        "closed", "how environments are inferred, for --cells env", choices=WAYS
    )
    env_steps: int = option(20_000, "steps of --environments adam; the official default is 1")
    env_lr: float = option(1e-3, "learning rate of --environments adam")
    min_cell: int = option(5, "an environment of a class with fewer rows than this is small")
    small: str = option(
        "join",
        "a small environment: judge its class whole, or stop",
        choices=("join", "stop"),
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.k or not self.l1:
            raise EmbedcalError(
                f"expected whole numbers for --k and numbers for --l1, found {list(self.k)} and "
                f"{list(self.l1)}: give one or more of each"
            )
        self.check(k=1, l1=0, lr=0, epochs=1, batch_size=1, decay=0)
        self.check(env_steps=1, env_lr=0, min_cell=0)
        if self.share == 1:
            raise EmbedcalError(
                f"expected --share below 1 for {self.name}, found 1: the rest of val chooses"
            )

    @property
    def selection(self) -> str:
        return "own.env" if self.cells == "env" else f"own.worst_{self.cells}"

    @property
    def needs(self) -> frozenset[str]:
        return super().needs | ({"val.g"} if self.cells == "group" else set())

    @abstractmethod
    def tails(self, loss: FloatArray, right: IntArray) -> Tails:
        """The tails of one class: its rows' losses (m,), and whether each is right (m,)."""

    def solve(self, task: Task, seed: int) -> Head:
        return self.solved(task, seed).head

    def solved(self, task: Task, seed: int) -> Solved:
        """The head, and the rows of high loss that it was fitted to, of the half that gave them."""
        rng = np.random.default_rng([seed, 0])
        y = task.val.y
        check_classes(y, task.n_classes, self.name, least=3)
        fitted, judged = cut_by_class(y, self.share, rng)
        x = self.inputs(task.val.x)
        with in_one_order():
            logits = Linear.of(task.stage.head).logits(x)
            cells = self._cells(task, logits, judged, rng)
            tails = [
                self._tails_of(logits[rows], y[rows], rows)
                for rows in (fitted[y[fitted] == label] for label in range(task.n_classes))
            ]
            head, k = self._search(task, x, tails, judged, cells, rng)
        rows = np.concatenate([each.high[:k] for each in tails])
        return Solved(head=head, marks=Marks(split="val", rows=rows, among=fitted))

    def _tails_of(self, logits: FloatArray, y: IntArray, rows: IntArray) -> Tails:
        """The tails of the rows (m,) of one class, as positions in val."""
        found = self.tails(losses(logits, y), logits.argmax(1) == y)
        return Tails(rows[found.high], rows[found.low])

    def sizes(self, tails: Sequence[Tails]) -> tuple[int, ...]:
        """Candidates for k, each at most what every class has in both of its tails."""
        most = min(min(len(each.high), len(each.low)) for each in tails)
        if most == 0:
            raise EmbedcalError(
                f"expected two or more rows of every class in the share of val that {self.name} "
                "retrains on, found fewer: raise --share, or give more val rows"
            )
        return tuple(dict.fromkeys(min(k, most) for k in self.k))

    def _search(
        self,
        task: Task,
        x: FloatArray,
        tails: Sequence[Tails],
        judged: IntArray,
        cells: IntArray,
        rng: np.random.Generator,
    ) -> tuple[Head, int]:
        """The first best layer over k, epochs, penalties, by its worst cell; and its k."""
        y, stretch = task.val.y, self.stretch(x.shape[1])
        x = stretch * x
        best, size, chosen = -1.0, 0, None
        for k in self.sizes(tails):
            rows = np.concatenate([part[:k] for each in tails for part in each])
            start = self._start(task, x.shape[1], stretch, rng)
            for layers in self._descend(x[rows], y[rows], start, rng):
                right = layers.logits(x[judged]).argmax(-1) == y[judged]
                worst = worst_cell(right, cells)
                place = int(worst.argmax())
                if worst[place] > best:
                    best, size = float(worst[place]), k
                    chosen = Linear(layers.weight[place], layers.bias[place])
        assert chosen is not None  # a worst cell is right 0 times or more
        return self.made(chosen.scaled(stretch)), size

    def _start(self, task: Task, width: int, stretch: float, rng: np.random.Generator) -> Linear:
        if self.start == "stage":
            return Linear.of(task.stage.head).scaled(1 / stretch)
        bound = (6 / (width + task.n_classes)) ** 0.5  # Glorot and Bengio, 2010
        weight = rng.uniform(-bound, bound, (task.n_classes, width))
        return Linear(weight, np.zeros(task.n_classes))

    def _descend(
        self, x: FloatArray, y: IntArray, start: Linear, rng: np.random.Generator
    ) -> Iterator[Linear]:
        """The layers of all penalties side by side, (L, C, d) and (L, C), after every epoch."""
        side = (len(self.l1),)
        layers = Linear(*(np.broadcast_to(v, side + v.shape) for v in start))
        descent = Descent(layers, optimizer="adamw", l1=np.array(self.l1, np.float64))
        for epoch in range(self.epochs):
            lr = self.lr * self.decay ** (epoch // 85)
            order = rng.permutation(len(y))
            for batch in np.split(order, range(self.batch_size, len(y), self.batch_size)):
                descent.step(x[batch], y[batch], lr)
            yield descent.layer

    def _cells(
        self, task: Task, logits: FloatArray, judged: IntArray, rng: np.random.Generator
    ) -> IntArray:
        """The cell (m,) of each of the judged rows."""
        y = task.val.y[judged]
        if self.cells != "env":
            return y if self.cells == "class" else task.val.g[judged]
        inferred = environments(
            logits[judged], y, self.environments, rng, steps=self.env_steps, lr=self.env_lr
        )
        sizes = cell_sizes(inferred, y, task.n_classes)
        listed = ", ".join(f"{a}+{b}" for a, b in sizes)
        log.info("%s: rows of the inferred environments of each class: %s", self.name, listed)
        small = sizes.min(1) < self.min_cell
        if small.any() and self.small == "stop":
            raise EmbedcalError(
                f"expected {self.min_cell} or more rows in both environments of every class for "
                f"{self.name}, found {listed}: lower --min-cell or --stage-epochs, or use --small "
                "join"
            )
        return 2 * y + joined(inferred, y, small)
