"""One whole CFR run over a cache, against the matrix-product rate of the machine."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
from measure import Reading, Row, interleaved, quotients
from synthetic import JOINT, WATERBIRDS, WIDTH, feature_cache

from embedcal.cache import open_cache
from embedcal.fitting import fit_on
from embedcal.workbench import Workbench

BATCH, ANCHORS, NEGATIVES, CLASSES = 128, 64, 16, 2
DRAWN = CLASSES * NEGATIVES  # random negatives of a step, shared by the anchors of a class
ROWS = BATCH + ANCHORS + DRAWN  # that pass through the projection in a step


def products() -> Callable[[], None]:
    """The two large products of ten steps: rows through the projection, and its gradient."""
    x, gradient = torch.randn(ROWS, WIDTH), torch.randn(ROWS, JOINT)
    weight = torch.randn(JOINT, WIDTH)
    out, back = torch.empty(ROWS, JOINT), torch.empty(JOINT, WIDTH)

    def run() -> None:
        for _ in range(10):
            torch.mm(x, weight.T, out=out)
            torch.mm(gradient.T, x, out=back)

    return run


def needed(epochs: int, train: int, val: int) -> float:
    """Operations that the mathematics of a run needs, a multiplication and an addition each one.

    A step: 4 r w d for r rows through the projection, forward and its gradient, and 6 d (b b +
    m C + m q) for the cosines of the batch with itself, of the m anchors with C centroids and q
    negatives, forward and backward. An epoch: the steps, and 2 v w d for validation.
    """
    cosines = 6 * JOINT * (BATCH * BATCH + ANCHORS * CLASSES + ANCHORS * DRAWN)
    step = 4 * ROWS * WIDTH * JOINT + cosines
    return epochs * (train / BATCH * step + 2 * val * WIDTH * JOINT)


def measure(*, quick: bool) -> list[Row]:
    """100 epochs with validation after each, selection, files and intervals."""
    sizes = (1280, 320, 320) if quick else WATERBIRDS
    epochs = 4 if quick else 100
    options: dict[str, Any] = {
        "epochs": epochs,
        "batch_size": BATCH,
        "anchors": ANCHORS,
        "negatives": NEGATIVES,
    }
    with (
        tempfile.TemporaryDirectory() as folder,
        open_cache(feature_cache(Path(folder), sizes)) as cache,
    ):
        on = Workbench(cache)
        seed = iter(range(1000))

        def run() -> None:
            fit_on(on, "cfr", options, seed=next(seed), out=Path(folder) / "runs", device="cpu")

        turns = 1 if quick else 3
        seconds = interleaved({"run": run, "products": products()}, repetitions=turns, warmup=0)
    operations = needed(epochs, sizes[0], sizes[1]) / 1e9
    ours = [operations / value for value in seconds["run"]]
    theirs = [10 * 4 * ROWS * WIDTH * JOINT / 1e9 / value for value in seconds["products"]]
    return [
        Row(
            name=f"one CFR run of {epochs} epochs, of the matrix-product rate",
            ours=Reading(what="fit cfr", value=median(ours), unit="GFLOP/s"),
            baseline=Reading(what="its large products", value=median(theirs), unit="GFLOP/s"),
            ratio=quotients(ours, theirs),
            target=0.5,
            note=f"{median(seconds['run']):.1f} s for {sizes[0]} rows of {WIDTH} to {JOINT}; "
            "operations: epochs (steps (4 r w d + 6 d (b b + m C + m q)) + 2 v w d)",
            facts={"seconds": median(seconds["run"])},
        )
    ]
