"""PPA: project class proxies out, probe for pseudo-groups, aggregate a head over them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from embedcal.heads import Head, LinearHead, prototypes
from embedcal.methods._adjusted import fit_adjusted
from embedcal.methods._bounds import defaults
from embedcal.methods._span import beside, span_basis
from embedcal.methods._text_solver import TextSolver
from embedcal.methods._unit import unit
from embedcal.methods.base import Marks, Solved, option
from embedcal.types import EmbedcalError, FloatArray, IntArray, Task


@dataclass(frozen=True, kw_only=True)
class PPA(TextSolver):
    """Minimises a group-adjusted loss over pseudo-groups, which a head blind to the class makes.

    Zhu et al., 2025 (arXiv:2503.09487), of which there is no public code; read in the abstract and
    in summaries by others. With x = nrm(f) and Z the averaged class prompts:

    1. A biased head sees what is left of x beside the span of Z, Pi x, and is fitted to the classes
       with their log priors added in training and left out afterwards.
    2. Whether it is right splits every class into two pseudo-groups (``--pseudo predicted``: what
       it predicts). A head with one row a pseudo-group is fitted to x with tau log priors added.
    3. The rows of a class are averaged: logits = s mean_{g of c} w_g x. The paper sums them, which
       decides alike, but for a class in which the biased head makes no error: it has one row where
       others have two. ``--empty stop`` refuses that, and sums.

    Ours, for want of a source: unit features, a scale of 100, no intercept, L-BFGS from zero with
    ``--penalty``, and every default. A biased head that errs too seldom on its own rows may judge
    others (``--crossfit 5``). For more than two classes ``predicted`` makes up to C squared
    pseudo-groups.
    """

    name = "ppa"

    tau: float = option(1.0, "strength of the pseudo-groups' priors", grid=(0.5, 1.0, 1.5, 2.0))
    tau_class: float = option(1.0, "strength of the class priors in the biased head")
    pseudo: str = option(
        "error", "pseudo-groups by error or by prediction", choices=("error", "predicted")
    )
    crossfit: int = option(
        0, "folds: each row judged by a biased head of the others; 0: off", grid=(0, 5)
    )
    empty: str = option(
        "drop",
        "a pseudo-group without rows: left out, or refused",
        choices=("drop", "stop"),
    )
    penalty: float = option(0.1, "times the squared weights", grid=(1e-3, 1e-2, 1e-1, 1.0))
    scale: float = option(100.0, "of both heads' logits")
    bias: str = option("off", "an intercept in both heads", choices=("off", "on"))
    templates: int = option(0, "use only the first so many templates; 0: all")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.crossfit < 0 or self.crossfit == 1:
            raise EmbedcalError(
                f"expected --crossfit of 0 or of 2 and more, found {self.crossfit}: take 0, which "
                "is off, or 5 folds"
            )
        if self.penalty <= 0 or self.scale <= 0 or self.tau < 0 or self.tau_class < 0:
            raise EmbedcalError(
                "expected positive --penalty and --scale and no negative --tau, found "
                f"{self.penalty}, {self.scale}, {self.tau} and {self.tau_class}: "
                f"{defaults(self, 'penalty', 'scale', 'tau', 'tau_class')}"
            )

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"train.x", "train.y", "text.class"})

    def solve(self, task: Task, seed: int) -> Head:
        return self.solved(task, seed).head

    def solved(self, task: Task, seed: int) -> Solved:
        """The head, and the errors of the biased one, which it takes for rare."""
        predicted = self._biased(task)
        groups, class_of = self._pseudo_groups(predicted, task)
        present, labels = np.unique(groups, return_inverse=True)
        self._check(present, class_of, task)
        priors = np.bincount(labels) / len(labels)
        weight, bias = self._fit(unit(task.train.x), labels, self.tau * np.log(priors))
        of_class = np.eye(task.n_classes)[:, class_of[present]]  # (C, pseudo-groups)
        if self.empty == "drop":
            of_class /= of_class.sum(1, keepdims=True)
        head = LinearHead(
            torch.tensor(self.scale * of_class @ weight).float(),
            torch.tensor(of_class @ bias).float(),
            normalise=True,
            level="embedding",
        )
        errors = np.flatnonzero(predicted != task.train.y)
        return Solved(head=head, marks=Marks(split="train", rows=errors))

    def _pseudo_groups(self, predicted: IntArray, task: Task) -> tuple[IntArray, IntArray]:
        """A pseudo-group (n,) of every row, and the class of every pseudo-group that may occur."""
        y = task.train.y
        parts = 2 if self.pseudo == "error" else task.n_classes
        part = (predicted != y).astype(np.int64) if self.pseudo == "error" else predicted
        return y * parts + part, np.repeat(np.arange(task.n_classes), parts)

    def _biased(self, task: Task) -> IntArray:
        """What the head that sees no class proxy predicts for every row (n,), without priors."""
        proxies = prototypes(torch.tensor(task.bank("class").embedding)).double().numpy()
        x, y = beside(unit(task.train.x), span_basis(proxies)), task.train.y
        predicted = np.empty(len(y), np.int64)
        for fitted, judged in self._folds(y):
            priors = np.bincount(y[fitted], minlength=task.n_classes) / len(fitted)
            if not priors.all():
                raise EmbedcalError(
                    f"expected train rows of every class in every fold for ppa, found none of "
                    f"class {int(priors.argmin())}: give more, or a smaller --crossfit"
                )
            weight, bias = self._fit(x[fitted], y[fitted], self.tau_class * np.log(priors))
            predicted[judged] = (self.scale * x[judged] @ weight.T + bias).argmax(1)
        return predicted

    def _folds(self, y: IntArray) -> Iterator[tuple[IntArray, IntArray]]:
        """Rows to fit and rows to judge: all and all, or folds with every class dealt out in turn.

        A class's rows are dealt in their order, so that a fold is the same for every seed.
        """
        every = np.arange(len(y))
        if not self.crossfit:
            yield every, every
            return
        fold = np.empty(len(y), np.int64)
        order = np.argsort(y, kind="stable")
        fold[order] = every % self.crossfit
        for k in range(self.crossfit):
            yield np.flatnonzero(fold != k), np.flatnonzero(fold == k)

    def _fit(
        self, x: FloatArray, labels: IntArray, offsets: FloatArray
    ) -> tuple[FloatArray, FloatArray]:
        return fit_adjusted(
            x,
            labels,
            offsets,
            scale=self.scale,
            penalty=self.penalty,
            bias=self.bias == "on",
        )

    def _check(self, present: IntArray, class_of: IntArray, task: Task) -> None:
        absent = sorted(set(range(len(class_of))) - set(present.tolist()))
        if absent and self.empty == "stop":
            what = "predictions" if self.pseudo == "predicted" else "errors and hits"
            raise EmbedcalError(
                f"expected {what} of every kind in each class of train for ppa's pseudo-groups, "
                f"found none of one kind in class {class_of[absent[0]]}: use --crossfit 5, or "
                "--empty drop"
            )
