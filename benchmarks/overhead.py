"""What a grid adds to a run: the same runs in one, and without it."""

from __future__ import annotations

import tempfile
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
        sizes = (1280, 320, 320) if quick else WATERBIRDS
        with open_cache(feature_cache(folder / "rn50", sizes)) as cache:
            return [
                _overhead(cache, folder / head, head, quick=quick)
                for head in ("projection", "linear")
            ]


def _overhead(cache: FeatureCache, folder: Path, head: str, *, quick: bool) -> Row:
    """A grid of short runs against the same training and predictions without a grid.

    Both in this process, one run after another, so that the difference is overhead alone.
    """
    runs = 8 if quick else 32
    on = Workbench(cache)
    method = configure("erm", {"head": head, "epochs": 1}).resolve(on.offer)
    assert isinstance(method, Gradient)
    task, rules = on.task(method), rules_for(on, RULES, rule("val.worst_group"))
    turn = iter(range(100))

    def with_grid() -> None:
        spec = f"erm:head={head}:epochs=1"
        out = folder / str(next(turn))
        grid([spec], cache, seeds=runs, out=out, device="cpu", engine="sequential")

    def alone() -> None:
        for seed in range(runs):
            keeper = Keeper(on, method.level, rules, "cpu")
            train(method, task, seed=seed, watch=keeper)
            logits_of(keeper.best, on, method.level)

    seconds = interleaved({"grid": with_grid, "alone": alone}, repetitions=2 if quick else 3)
    differences = [
        1000 * (a - b) / runs for a, b in zip(seconds["grid"], seconds["alone"], strict=True)
    ]
    return Row(
        name=f"overhead of a run in a grid, {head} head",
        ours=Reading(what="a run", value=1000 * median(seconds["grid"]) / runs, unit="ms"),
        baseline=Reading(
            what="its training, selection and predictions",
            value=1000 * median(seconds["alone"]) / runs,
            unit="ms",
        ),
        ratio=spread(differences),
        target=30.0,
        at_most=True,
        note=f"the difference in ms, over {runs} runs: metrics, intervals, files, claims",
    )
