"""DFR's official search and refits, beside the loop as it is usually written."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from statistics import median

import numpy as np
import torch
from linear_heads import Rows, real_rows, structured
from measure import Reading, Row, interleaved, quotients
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from embedcal.heads import LinearHead
from embedcal.methods.dfr import DFR
from embedcal.types import Task

CANDIDATES = (1.0, 0.7, 0.3, 0.1, 0.07, 0.03, 0.01)
REFITS = 20


class Official:
    """Kirichenko et al., 2023: tune C on one half of val, refit on balanced subsets of all of it.

    scikit-learn's own threads, validation and copies. Subsets and liblinear's seeds are drawn in
    the order in which embedcal's method draws them, so that both sides fit the same problems.
    """

    def __init__(self, task: Task, seed: int) -> None:
        self.train, self.val, self.rng = task.train.x, task.val, np.random.default_rng([seed, 0])
        self.c = self._tune()
        self.coef, self.intercept = self._refit()

    def _balanced(self, g: np.ndarray) -> np.ndarray:
        groups = [np.flatnonzero(g == group) for group in np.unique(g)]
        least = min(len(group) for group in groups)
        picks = [self.rng.permutation(group)[:least] for group in groups]
        return self.rng.permutation(np.concatenate(picks))

    def _model(self, c: float) -> LogisticRegression:
        seed = int(self.rng.integers(2**31))
        return LogisticRegression(l1_ratio=1, solver="liblinear", C=c, random_state=seed)

    def _tune(self) -> float:
        x, y, g = self.val.x, self.val.y, self.val.g
        order = self.rng.permutation(len(y))
        scored, fitted = order[: len(y) // 2], order[len(y) // 2 :]
        rows = fitted[self._balanced(g[fitted])]
        scaler = StandardScaler()
        inside, outside = scaler.fit_transform(x[rows]), scaler.transform(x[scored])
        worst = []
        for c in CANDIDATES:
            correct = self._model(c).fit(inside, y[rows]).predict(outside) == y[scored]
            worst.append(min(correct[g[scored] == group].mean() for group in np.unique(g)))
        return CANDIDATES[int(np.argmax(worst))]

    def _refit(self) -> tuple[np.ndarray, np.ndarray]:
        scaler = StandardScaler().fit(self.train)
        coefs, intercepts = [], []
        for _ in range(REFITS):
            rows = self._balanced(self.val.g)
            x = scaler.transform(self.val.x[rows])
            model = self._model(self.c).fit(x, self.val.y[rows])
            coefs.append(model.coef_[0])
            intercepts.append(model.intercept_[0])
        self.scaler = scaler
        return np.mean(coefs, 0), np.asarray(np.mean(intercepts))


def standardised(head: LinearHead, official: Official) -> np.ndarray:
    """The coefficients (d,) of a folded head in the units of the official scaler."""
    weight = head.weight.detach().double().numpy()
    found: np.ndarray = (weight[1] - weight[0]) * official.scaler.scale_
    return found


def measure(*, quick: bool) -> list[Row]:
    """Seven C on one half, twenty refits; synthetic rows of RN50's size and real ones."""
    sets = [("RN50's shapes", structured(*((600, 400, 96) if quick else (4795, 1199, 1024))))]
    if (real := real_rows()) is not None and not quick:
        sets.append(("real features", real))
    return [_row(name, rows, quick=quick) for name, rows in sets]


def _row(name: str, rows: Rows, *, quick: bool) -> Row:
    task, method = rows.task(), DFR(halves=1, c=CANDIDATES)
    turns = 1 if quick else 5
    seeds = {"official": iter(range(100)), "ours": iter(range(100))}
    found: dict[str, list] = {"official": [], "ours": []}

    def run(side: str, solve: Callable[[int], object]) -> Callable[[], None]:
        return lambda: found[side].append(solve(next(seeds[side])))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        seconds = interleaved(
            {
                "official": run("official", lambda seed: Official(task, seed)),
                "ours": run("ours", lambda seed: method.solve(task, seed)),
            },
            repetitions=turns,
        )
    furthest = max(
        float(np.abs(standardised(head, one) - one.coef).max())
        for head, one in zip(found["ours"], found["official"], strict=True)
    )
    return Row(
        name=f"DFR's search and {REFITS} refits, {name}",
        ours=Reading(what="dfr --halves 1", value=median(seconds["ours"]), unit="s"),
        baseline=Reading(
            what="the official loop, default threads", value=median(seconds["official"]), unit="s"
        ),
        ratio=quotients(seconds["official"], seconds["ours"]),
        target=1.5,
        note=f"coefficients differ by {furthest:.1e} at most",
        facts={"coefficients_differ": furthest, "threads": torch.get_num_threads()},
    )
