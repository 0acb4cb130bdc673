"""What a grid adds to a run: the same runs in one, and without it."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from itertools import count, pairwise
from pathlib import Path
from statistics import median

from measure import Reading, Row, interleaved, spread
from synthetic import WATERBIRDS, feature_cache

from embedcal.cache import FeatureCache, open_cache
from embedcal.evaluate import RULES, rule
from embedcal.fitting import configure
from embedcal.grids import grid
from embedcal.keep import Keeper, logits_of, rules_for
from embedcal.methods.base import Gradient
from embedcal.train import train
from embedcal.workbench import Workbench


def measure(*, quick: bool) -> list[Row]:
    """Runs of one epoch, with a projection head and with a linear one."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        # Little training, so that its own scatter does not drown what is measured.
        sizes = (640, 320, 320) if quick else (640, *WATERBIRDS[1:])
        with open_cache(feature_cache(folder / "rn50", sizes)) as cache:
            return [
                _overhead(cache, folder / head, head, quick=quick)
                for head in ("projection", "linear")
            ]


def _overhead(cache: FeatureCache, folder: Path, head: str, *, quick: bool) -> Row:
    """A grid of short runs against the same training and predictions without a grid.

    Both in this process, in many short turns, and of either the median run of a turn: the machine
    drifts by more than what is measured within a minute. A grid's runs are told apart by when
    their records were written.
    """
    runs = 6
    on = Workbench(cache)
    method = configure("erm", {"head": head, "epochs": 1}).resolve(on.offer)
    assert isinstance(method, Gradient)
    task, rules = on.task(method), rules_for(on, RULES, rule("val.worst_group"))
    turn = count()
    took: dict[str, list[float]] = {"grid": [], "alone": []}  # ms a run, turn by turn

    def with_grid() -> None:
        spec = f"erm:head={head}:epochs=1"
        out = folder / str(next(turn))
        found = grid([spec], cache, seeds=runs, out=out, device="cpu", engine="sequential")
        stamps = [(out / record["id"] / "run.json").stat().st_mtime_ns for record in found.done]
        took["grid"].append(_median_step(sorted(stamps)))

    def alone() -> None:
        stamps = []
        for seed in range(runs):
            keeper = Keeper(on, method.level, rules, "cpu")
            train(method, task, seed=seed, watch=keeper)
            logits_of(keeper.best, on, method.level)
            stamps.append(time.time_ns())
        took["alone"].append(_median_step(stamps))

    turns = 2 if quick else 24
    interleaved({"grid": with_grid, "alone": alone}, repetitions=turns)
    ours, baseline = took["grid"][-turns:], took["alone"][-turns:]  # without the first, to warm up
    return Row(
        name=f"overhead of a run in a grid, {head} head",
        ours=Reading(what="a run", value=median(ours), unit="ms"),
        baseline=Reading(
            what="its training, selection and predictions", value=median(baseline), unit="ms"
        ),
        ratio=spread([a - b for a, b in zip(ours, baseline, strict=True)]),
        target=30.0,
        at_most=True,
        note=f"the difference in ms, {turns} turns of {runs} runs: metrics, files, claims",
    )


def _median_step(stamps: Sequence[int]) -> float:
    """The median of what lies between one and the next, ns to ms."""
    return median(b - a for a, b in pairwise(stamps)) / 1e6
