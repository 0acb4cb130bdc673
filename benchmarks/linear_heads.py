"""Hundreds of L2 linear heads over the same rows, beside scikit-learn under joblib."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
import numpy.typing as npt
from joblib import Parallel, delayed
from measure import Reading, Row, interleaved, quotients
from sklearn.linear_model import LogisticRegression
from synthetic import JOINT, WATERBIRDS
from threadpoolctl import threadpool_limits

from embedcal.heads import Head, LinearHead
from embedcal.methods.linear_probe import LinearProbe
from embedcal.types import Examples, Task

Array = npt.NDArray[np.float64]
CONFIGURATIONS = 500
LEAST_C, MOST_C = 1e-3, 1e3
STEPS = 10_000  # more than scikit-learn takes here


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Features of train and val with two classes and two attribute values."""

    x: npt.NDArray[np.float32]
    y: npt.NDArray[np.int64]
    a: npt.NDArray[np.int64]
    train: int  # the first so many rows, the others are val

    def task(self) -> Task:
        """Everything that a linear head may ask for."""
        arrays = {"x": self.x, "y": self.y, "g": 2 * self.y + self.a}
        train = {name: values[: self.train] for name, values in arrays.items()}
        val = {name: values[self.train :] for name, values in arrays.items()}
        return Task(
            train=Examples(split="train", arrays=train),
            val=Examples(split="val", arrays=val),
            text={},
            projection=None,
            n_classes=2,
            n_attributes=2,
        )


def structured(train: int, val: int, width: int) -> Rows:
    """Groups as in Waterbirds, around directions of class and attribute.

    Standard deviations fall as k^-0.75, so the curvature has a condition number of some ten
    thousand, and all rows share a large mean, as CLIP's embeddings do.
    """
    rng = np.random.default_rng(0)
    y = (rng.random(train + val) < 0.23).astype(np.int64)
    agree = np.where(np.arange(train + val) < train, 0.95, 0.5)  # val is balanced within class
    a = np.where(rng.random(train + val) < agree, y, 1 - y)
    spectrum = np.arange(1, width + 1) ** -0.75
    directions = rng.normal(size=(3, width)) * spectrum
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    x = rng.normal(size=(train + val, width)) * spectrum + 5 * directions[0]
    x += 1.2 * np.outer(2 * y - 1, directions[1]) + 1.5 * np.outer(2 * a - 1, directions[2])
    return Rows(x=x.astype(np.float32), y=y, a=a, train=train)


def real_rows() -> Rows | None:
    """Waterbirds through a small network of ImageNet, where EMBEDCAL_TEST_DATA has it."""
    path = Path(os.environ.get("EMBEDCAL_TEST_DATA", "/nonexistent")) / "waterbirds-effnetlite0.npz"
    if not path.is_file():
        return None
    with np.load(path) as data:
        split = data["split"]
        order = np.concatenate([np.flatnonzero(split == part) for part in (0, 1)])
        x = data["features"][order].astype(np.float32)
        y, a = (data[name][order].astype(np.int64) for name in ("y", "place"))
    return Rows(x=x, y=y, a=a, train=int((split == 0).sum()))


def one_by_scikit_learn(x: Array, y: npt.NDArray[np.int64], c: float) -> tuple[Array, float]:
    """Coefficients (d,) and intercept at the default tolerance, on one thread."""
    with threadpool_limits(1):
        model = LogisticRegression(C=c, solver="lbfgs", max_iter=STEPS).fit(x, y)
    return model.coef_[0], float(model.intercept_[0])


def objective(x: Array, y: npt.NDArray[np.int64], w: Array, b: float, c: float) -> float:
    """||w||^2 / 2 + c sum_i log(1 + exp(-t_i (w.x_i + b))), t in {-1, 1}, in float64."""
    margin = (2 * y - 1) * (x @ w.astype(np.float64) + b)
    return float(w.astype(np.float64) @ w / 2 + c * np.logaddexp(0, -margin).sum())


def line(head: Head) -> tuple[Array, float]:
    """The difference of a two-class head's rows: what a binary model calls its coefficients."""
    assert isinstance(head, LinearHead)
    weight, bias = head.weight.detach().double().numpy(), head.bias.detach().double().numpy()
    return weight[1] - weight[0], float(bias[1] - bias[0])


def measure(*, quick: bool) -> list[Row]:
    """500 penalties over rows of RN50's shapes, and over real ones where they are."""
    sizes, count = ((500, 100, 64), 24) if quick else ((*WATERBIRDS[:2], JOINT), CONFIGURATIONS)
    sets = [("RN50's shapes", structured(*sizes))]
    if (real := real_rows()) is not None and not quick:
        sets.append(("real features", real))
    return [_row(name, rows, count, quick=quick) for name, rows in sets]


def _row(name: str, rows: Rows, count: int, *, quick: bool) -> Row:
    """scikit-learn eats float32, which it is faster with than with float64."""
    penalties = [float(c) for c in np.geomspace(LEAST_C, MOST_C, count)]
    methods = [LinearProbe(c=c) for c in penalties]
    task = rows.task()
    x = rows.x[: rows.train] / np.linalg.norm(rows.x[: rows.train], axis=1, keepdims=True)
    y = rows.y[: rows.train]
    pool = Parallel(n_jobs=os.cpu_count())
    several = np.arange(50) % 2
    pool(delayed(one_by_scikit_learn)(x[:50], several, 1.0) for _ in range(8))  # starts processes
    heads: list[list[Head]] = []
    lines: list[list[tuple[Array, float]]] = []
    seconds = interleaved(
        {
            "scikit-learn": lambda: lines.append(
                pool(delayed(one_by_scikit_learn)(x, y, c) for c in penalties)
            ),
            "ours": lambda: heads.append(LinearProbe.solve_stack(methods, task, [0] * count)),
        },
        repetitions=1 if quick else 3,
        warmup=0,
    )
    wide = x.astype(np.float64)
    excess = [
        objective(wide, y, *line(head), c) / objective(wide, y, *theirs, c) - 1
        for head, theirs, c in zip(heads[-1], lines[-1], penalties, strict=True)
    ]
    return Row(
        name=f"{count} linear heads, {name}",
        ours=Reading(what="linear-probe, one stack", value=median(seconds["ours"]), unit="s"),
        baseline=Reading(
            what="joblib of scikit-learn, one thread each",
            value=median(seconds["scikit-learn"]),
            unit="s",
        ),
        ratio=quotients(seconds["scikit-learn"], seconds["ours"]),
        target=1.3,
        note=f"our objective over theirs: {max(excess):+.1e} at most, {median(excess):+.1e} in the "
        "median",
        facts={"most_excess": max(excess), "least_excess": min(excess)},
    )
