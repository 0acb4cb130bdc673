"""Deep feature reweighting: refit the last layer on data balanced over groups, or classes."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from embedcal.heads import LinearHead
from embedcal.methods._bounds import at_least
from embedcal.methods._forked import crew
from embedcal.methods._unit import unit
from embedcal.methods.base import Solver, option
from embedcal.types import EmbedcalError, Examples, FloatArray, IntArray, Level, Task

CLASS_WEIGHTS = (1.0, 2.0, 3.0, 10.0, 100.0, 300.0, 1000.0)
FEATURES = 32  # standardised at a time
MOST = 1000  # halves or refits: beyond it a search never ends, and nothing is gained
DRAWS = 100  # tries for a random half of val with every class in it


class Scaler(NamedTuple):
    """Mean and standard deviation (d,) of the features; a constant feature keeps its scale."""

    mean: FloatArray
    scale: FloatArray

    def __call__(self, x: FloatArray) -> FloatArray:
        return (x - self.mean) / self.scale


def fit_scaler(x: FloatArray) -> Scaler:
    """Per-feature mean and standard deviation over rows (n, d), in float64.

    Some features at a time, so that their copy in float64 stays in the processor's cache.
    """
    mean, std = np.empty(x.shape[1]), np.empty(x.shape[1])
    for start in range(0, x.shape[1], FEATURES):
        some = slice(start, start + FEATURES)
        block = x[:, some].astype(np.float64)
        mean[some], std[some] = block.mean(0), block.std(0)
    return Scaler(mean, np.where(std > 10 * np.finfo(np.float64).eps, std, 1.0))


def balanced_subset(g: IntArray, rng: np.random.Generator) -> IntArray:
    """Rows of a random subset with as many members of each group as the smallest one has.

    ``g`` (n,) groups or classes; those that do not occur do not count. Returns shuffled positions.
    """
    present, sizes = np.unique(g, return_counts=True)
    picks = [rng.permutation(np.flatnonzero(g == group))[: sizes.min()] for group in present]
    return rng.permutation(np.concatenate(picks))


class Fit(NamedTuple):
    """One regularised logistic regression, one row a class (one-vs-rest) or one row for two."""

    coef: FloatArray  # (K, d), K = 1 for two classes, else C
    intercept: FloatArray  # (K,)

    def predict(self, x: FloatArray) -> IntArray:
        """Classes (n,) for standardised rows; an exact tie is class 0."""
        score = x @ self.coef.T + self.intercept
        return (score[:, 0] > 0).astype(np.int64) if len(self.coef) == 1 else score.argmax(1)


def logistic_l1(
    x: FloatArray,
    y: IntArray,
    n_classes: int,
    c: float,
    *,
    weights: tuple[float, ...],
    max_iter: int,
    seed: int,
) -> Fit:
    """Minimises ||w||_1 + |b| + c sum_i v_{y_i} log(1 + exp(-t_i (w.x_i + b))), t_i in {-1, 1}.

    liblinear penalises the intercept too, as in the official code. It is binary, so more than two
    classes are fitted one against the rest. ``x`` (n, d) standardised; ``weights`` (C,) are v.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    rows = [1] if n_classes == 2 else range(n_classes)
    coef, intercept = [], []
    for positive in rows:
        target = (y == positive).astype(np.int64)
        if len(np.unique(target)) < 2:
            raise EmbedcalError(
                f"expected rows of class {positive} and of others to fit, found it "
                f"{'alone' if target.any() else 'missing'}: give rows of every class"
            )
        model = LogisticRegression(
            l1_ratio=1,
            solver="liblinear",
            C=c,
            class_weight=dict(enumerate(weights)) if n_classes == 2 else None,
            max_iter=max_iter,
            random_state=seed,
        )
        with warnings.catch_warnings():
            # The official tuning stops after 20 iterations on purpose.
            warnings.simplefilter("ignore", ConvergenceWarning)
            model.fit(x, target, None if n_classes == 2 else np.asarray(weights)[y])
        coef.append(model.coef_[0])
        intercept.append(model.intercept_[0])
    return Fit(np.stack(coef), np.asarray(intercept))


class Trial(NamedTuple):
    """Standardised rows (n, d) that every candidate is fitted to, and others to score them by."""

    x: FloatArray
    y: IntArray
    seeds: list[int]  # of the candidates' fits
    scored_x: FloatArray
    scored_y: IntArray
    scored_strata: IntArray


class Job(NamedTuple):
    """One fit with all that it draws drawn: to some rows of the matrix in this place."""

    of: int
    rows: IntArray | slice
    c: float
    weights: tuple[float, ...]
    seed: int
    max_iter: int


@dataclass(frozen=True, kw_only=True)
class DFR(Solver):
    """Minimises an L1 logistic loss over group-balanced subsets, and averages the fits.

    Kirichenko et al., 2023 (arXiv:2204.02937). Variant ``val``: DFR_Tr^Val, balanced subsets of
    the validation split; C is chosen with random halves of it and the final fits use all of it, so
    the validation column is in-sample. Variant ``train``: DFR_Tr^Tr, balanced subsets of train, C
    chosen on all of val. Each fit draws a fresh subset; coefficients are averaged over
    ``--refits`` of them. ``--balance class`` has classes in place of groups: subsets are balanced
    over them, C is chosen by the worst of them, and no group label is read.

    Deviations: C is scored on ``--halves`` random halves of val and not on one, which at a hundred
    rows a group is noise (``--halves 1`` is the official search); a group or class without a scored
    row is left out of the minimum, where the official code's mean of nothing makes every score NaN
    and the largest C win; every fit has a seed of its own; more than two classes are fitted one
    against the rest.
    """

    name = "dfr"
    revision = 2  # the scaler of train's variant, and weights of more than two classes
    variants = ("val", "train")

    variant: str = option("val", "balanced subsets of val, or of train")
    features: str = option(
        "embedding",
        "what is standardised and fitted",
        choices=("embedding", "normalised", "pooled"),
        grid=("embedding", "pooled"),
    )
    balance: str = option(
        "group",
        "what subsets are balanced over and C is chosen by; class needs no attribute labels",
        choices=("group", "class"),
    )
    c: tuple[float, ...] = option(
        (1.0, 0.7, 0.3, 0.1, 0.07, 0.03, 0.01), "candidates for the inverse strength C"
    )
    halves: int = option(5, "random halves of val that C is scored on; the official code has 1")
    refits: int = option(0, "balanced fits to average; 0: 20 for val, 10 for train")
    class_weights: str = option(
        "off", "search weights of either class too", choices=("off", "search")
    )
    scaler: str = option(
        "train",
        "split whose mean and deviation the final fits use: train (Kirichenko) or val (Izmailov)",
        choices=("train", "val"),
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.c or not all(c > 0 for c in self.c):
            raise EmbedcalError(
                f"expected --c to be positive numbers, found {list(self.c)}: give, say, 1, 0.1 and "
                "0.01"
            )
        at_least(self, halves=1, refits=0)
        if max(self.halves, self.refits) > MOST:
            raise EmbedcalError(
                f"expected --halves and --refits of {MOST:,} at most, found {self.halves:,} and "
                f"{self.refits:,}: take 5 and 20, since more change little"
            )

    @property
    def selection(self) -> str:
        return f"own.worst_{self.balance}"

    @property
    def fits_val(self) -> bool:
        return self.variant == "val"

    @property
    def head_name(self) -> str:
        return "linear"

    @property
    def level(self) -> Level:
        return "pooled" if self.features == "pooled" else "embedding"

    @property
    def needs(self) -> frozenset[str]:
        splits = ("val", "train") if self.variant == "train" else ("val",)
        names = ("y", "g") if self.balance == "group" else ("y",)
        labels = {f"{split}.{name}" for split in splits for name in names}
        return frozenset({"train.x", "val.x", *labels})

    def solve(self, task: Task, seed: int) -> LinearHead:
        rng = np.random.default_rng([seed, 0])
        from_val = self.variant == "val"
        source = task.val if from_val else task.train
        x, y, g = self._features(source.x), source.y, self._strata(source)
        self._check(source, task)
        scaled = task.train if self.scaler == "train" else task.val
        final = fit_scaler(self._features(scaled.x))
        trials = (
            self._on_halves(x, y, g, task.n_classes, rng)
            if from_val
            else [self._on_val(x, y, g, task, final, rng)]
        )
        subsets = [
            (balanced_subset(g, rng), _seed(rng))
            for _ in range(self.refits or (20 if from_val else 10))
        ]
        fits = self._fit(trials, subsets, (final(x), y), task.n_classes)
        coef = np.mean([fit.coef for fit in fits], axis=0)
        intercept = np.mean([fit.intercept for fit in fits], axis=0)
        return self._head(coef / final.scale, intercept - coef @ (final.mean / final.scale))

    def _fit(
        self,
        trials: Sequence[Trial],
        subsets: Sequence[tuple[IntArray, int]],
        whole: tuple[FloatArray, IntArray],
        n_classes: int,
    ) -> list[Fit]:
        """Fits to subsets of the whole, with that candidate which scores best over the trials.

        Of equals it is the first, so the largest C. Scores are sums over the trials.
        """
        matrices = [*((trial.x, trial.y) for trial in trials), whole]
        candidates = self._candidates(n_classes)
        tuning = 100 if self.variant == "val" else 20

        def work(job: Job) -> FloatArray:
            x, y = matrices[job.of]
            fit = logistic_l1(
                x[job.rows],
                y[job.rows],
                n_classes,
                job.c,
                weights=job.weights,
                max_iter=job.max_iter,
                seed=job.seed,
            )
            return np.column_stack([fit.coef, fit.intercept])

        with crew(work) as fit_all:
            tried = fit_all(
                [
                    Job(place, slice(None), *candidate, seed, tuning)
                    for place, trial in enumerate(trials)
                    for candidate, seed in zip(candidates, trial.seeds, strict=True)
                ]
            )
            scores, n = np.zeros(len(candidates)), len(candidates)
            for place, trial in enumerate(trials):
                scores += _worst([_unpacked(one) for one in tried[place * n :][:n]], trial)
            best = candidates[int(np.argmax(scores))]
            last = len(trials)
            return [
                _unpacked(one)
                for one in fit_all([Job(last, rows, *best, seed, 100) for rows, seed in subsets])
            ]

    def _features(self, x: FloatArray) -> FloatArray:
        return unit(x) if self.features == "normalised" else x.astype(np.float64)

    def _strata(self, examples: Examples) -> IntArray:
        """What is balanced (n,): groups, or classes."""
        return examples.g if self.balance == "group" else examples.y

    def _check(self, source: Examples, task: Task) -> None:
        absent = sorted(set(range(task.n_classes)) - set(source.y.tolist()))
        if absent:
            mend = "give some"
            if self.balance == "group":
                mend = "label the attribute of some, or use --balance class"
            raise EmbedcalError(
                f"expected {source.split} rows of every class for dfr, found none of class "
                f"{absent[0]}: {mend}"
            )
        present = len(np.unique(self._strata(source)))
        if present < 2:
            raise EmbedcalError(
                f"expected at least two of {task.n_groups} groups to balance for dfr, found "
                f"{present}: label the attribute of more rows, or use --balance class"
            )

    def _candidates(self, n_classes: int) -> list[tuple[float, tuple[float, ...]]]:
        """Every C with every class weighting, one class raised at a time."""
        even = (1.0,) * n_classes
        weightings = [even]
        if self.class_weights == "search":
            weightings += [
                tuple(w if k == raised else 1.0 for k in range(n_classes))
                for raised in range(n_classes)
                for w in CLASS_WEIGHTS[1:]
            ]
        return [(c, weights) for c in self.c for weights in weightings]

    def _on_halves(
        self, x: FloatArray, y: IntArray, g: IntArray, n_classes: int, rng: np.random.Generator
    ) -> list[Trial]:
        """Fit a balanced half, score the other; a half without a class is drawn anew."""
        trials = []
        for _ in range(self.halves):
            scored, fitted = _halves(y, n_classes, rng)
            rows = fitted[balanced_subset(g[fitted], rng)]
            scale = fit_scaler(x[rows])
            seeds = [_seed(rng) for _ in self._candidates(n_classes)]
            inside, outside = scale(x[rows]), scale(x[scored])
            trials.append(Trial(inside, y[rows], seeds, outside, y[scored], g[scored]))
        return trials

    def _on_val(
        self,
        x: FloatArray,
        y: IntArray,
        g: IntArray,
        task: Task,
        scale: Scaler,
        rng: np.random.Generator,
    ) -> Trial:
        """Fit one balanced subset of train, score the whole of val."""
        rows = balanced_subset(g, rng)
        seeds = [_seed(rng) for _ in self._candidates(task.n_classes)]
        inside, outside = scale(x[rows]), scale(self._features(task.val.x))
        return Trial(inside, y[rows], seeds, outside, task.val.y, self._strata(task.val))

    def _head(self, coef: FloatArray, intercept: FloatArray) -> LinearHead:
        """The averaged fit as a head over raw features, its scaler folded in."""
        if len(coef) == 1:  # two classes: half the margin on either side, the same decision
            coef, intercept = np.vstack([-coef, coef]) / 2, np.hstack([-intercept, intercept]) / 2
        weight, bias = torch.tensor(coef), torch.tensor(intercept)
        normalise = self.features == "normalised"
        return LinearHead(weight.float(), bias.float(), normalise=normalise, level=self.level)


def _seed(rng: np.random.Generator) -> int:
    return int(rng.integers(2**31))


def _halves(y: IntArray, n_classes: int, rng: np.random.Generator) -> tuple[IntArray, IntArray]:
    """Positions to score and to fit: two random halves, the second with every class in it."""
    for _ in range(DRAWS):
        order = rng.permutation(len(y))
        scored, fitted = order[: len(y) // 2], order[len(y) // 2 :]
        if len(np.unique(y[fitted])) == n_classes:
            return scored, fitted
    counts = np.bincount(y)
    raise EmbedcalError(
        f"expected val rows enough for a random half to have every class, found {counts.min()} of "
        f"class {counts.argmin()}: give more, or use --variant train"
    )


def _unpacked(found: FloatArray) -> Fit:
    return Fit(found[:, :-1], found[:, -1])


def _worst(fits: Sequence[Fit], trial: Trial) -> FloatArray:
    """The least accuracy of each fit over those groups or classes that have scored rows."""
    correct = np.stack([fit.predict(trial.scored_x) == trial.scored_y for fit in fits])
    strata = trial.scored_strata
    accuracies = np.stack([correct[:, strata == one].mean(1) for one in np.unique(strata)])
    least: FloatArray = accuracies.min(0)
    return least
