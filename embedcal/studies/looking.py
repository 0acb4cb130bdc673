"""What a study finds out beside accuracies: what calibration sets hold, what runs cost."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from embedcal.fitting import Place, configure, task_of
from embedcal.identification import rare_groups
from embedcal.methods.base import Method
from embedcal.studies.rows import Row
from embedcal.workbench import Workbench

Look = Callable[[Method, Place], Mapping[str, float]]


def look(rows: Sequence[Row], what: str, on: Workbench, folder: Path) -> tuple[Row, ...]:
    """The rows with what was found out about them: means over their seeds, NaN where unknown."""
    looks: dict[str, Look] = {"calibration": calibration, "operations": operations}
    found = []
    for row in rows:
        method = configure(row.method, row.options).resolve(on.offer)
        # Operations do not depend on the seed.
        seeds = row.seeds if what == "calibration" else row.seeds[:1]
        places = [Place(on=on, seed=seed, runs=folder, device="cpu") for seed in seeds]
        seen = [looks[what](method, place) for place in places]
        means = {name: float(np.mean([one[name] for one in seen])) for name in seen[0]}
        found.append(replace(row, looked=means))
    return tuple(found)


def calibration(method: Method, place: Place) -> dict[str, float]:
    """What CFR's calibration set holds: rows, and its precision and recall for the rare groups.

    Precision: the share of its rows that are of rare groups; recall: the share of the rare groups'
    rows that it has. Groups are read to judge it only, never to make it; without them, rows alone.
    """
    from embedcal.methods.cfr import CFR

    if not isinstance(method, CFR):
        return {"rows": math.nan}
    positions = method.calibration_rows(task_of(method, place), place.seed)
    rows = np.flatnonzero(place.on.seen(method))[positions]
    train = place.on.split("train", method.level)
    counts = place.on.strata("train", method.level).train_group_counts
    if counts is None:
        return {"rows": float(len(rows))}
    rare = (train.g >= 0) & rare_groups(counts)[train.g]
    hits = int(rare[rows].sum())
    return {
        "rows": float(len(rows)),
        "precision": hits / len(rows) if len(rows) else math.nan,
        "recall": hits / int(rare.sum()) if rare.any() and len(rows) else math.nan,
    }


def operations(method: Method, place: Place) -> dict[str, float]:
    """Floating point operations of all training steps, of what comes before, and of first runs.

    Counted by PyTorch in the matrix products of one step forward and backward, times the steps; a
    multiplication and an addition are two. Validation after each epoch is left out. NaN for
    solvers that do not run through PyTorch; 0 for zero-shot, which fits nothing.
    """
    from embedcal.methods.base import Gradient

    if not isinstance(method, Gradient):
        # Others fit in solvers whose steps are not known beforehand.
        return {"operations": 0.0 if method.name == "zeroshot" else math.nan}
    total = _count(method, place)
    if method.stage is not None:
        first = place.first(method.stage)
        assert isinstance(first, Gradient)
        total += _count(first, place)
    return {"operations": float(total)}


def _count(method: Method, place: Place) -> float:
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from embedcal.methods.base import Gradient
    from embedcal.train import Data

    assert isinstance(method, Gradient)
    task = task_of(method, place)
    generator = torch.Generator().manual_seed(place.seed)
    with FlopCounterMode(display=False) as before:
        plan = method.prepare(task, generator)
    head = method.start_head(task, generator).train()
    state, data = method.init(plan), Data.on_device(task.train, "cpu")
    hyper = {name: torch.tensor(value) for name, value in method.hyper().items()}
    # Epochs of two kinds may alternate, as those of con-adapter do.
    epochs = range(1, min(2, method.epochs) + 1)
    counted = 0
    for epoch in epochs:
        steps = list(method.steps(task, plan, epoch, generator))
        with FlopCounterMode(display=False) as step:
            loss, _ = method.loss(head, state, data.batch(steps[0]), hyper)
            loss.backward()  # type: ignore[no-untyped-call]
        counted += step.get_total_flops() * len(steps)
    return float(before.get_total_flops() + counted / len(epochs) * method.epochs)
