"""What a grid adds to a run: the same runs in one, and without it."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count, pairwise
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import patch

from measure import Reading, Row, interleaved, spread
from synthetic import WATERBIRDS, feature_cache

from embedcal import keep, train
from embedcal.cache import FeatureCache, open_cache
from embedcal.evaluate import RULES, rule
from embedcal.fitting import configure
from embedcal.grids import grid
from embedcal.keep import Keeper, rules_for
from embedcal.methods.base import Gradient
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
    """What a run in a grid takes beyond its own training, selection and predictions.

    Both are timed in the same run, since the same training takes another time a moment later and
    differs by more than what is measured. The same training without a grid, in turns with it, is
    the baseline, and the difference to it in the note: it would show a grid that slows training.
    """
    runs = 6
    on = Workbench(cache)
    method = configure("erm", {"head": head, "epochs": 1}).resolve(on.offer)
    assert isinstance(method, Gradient)
    task, rules = on.task(method), rules_for(on, RULES, rule("val.worst_group"))
    turn = count()
    took: dict[str, list[float]] = {"grid": [], "alone": [], "beyond": []}  # ms a run, by turn

    def with_grid() -> None:
        out = folder / str(next(turn))
        with _timed() as inside:
            found = grid(
                [f"erm:head={head}:epochs=1"], cache,
                seeds=runs, out=out, device="cpu", engine="sequential",
            )  # fmt: skip
        stamps = [(out / record["id"] / "run.json").stat().st_mtime_ns for record in found.done]
        steps = [b - a for a, b in pairwise(sorted(stamps))]
        within = [inside[run] - inside[run - 1] for run in range(1, runs)]
        took["grid"].append(median(steps) / 1e6)
        took["beyond"].append(median(a - b for a, b in zip(steps, within, strict=True)) / 1e6)

    def alone() -> None:
        stamps = []
        for seed in range(runs):
            keeper = Keeper(on, method.level, rules, "cpu")
            train.train(method, task, seed=seed, watch=keeper)
            keep.logits_of(keeper.best, on, method.level)
            stamps.append(time.time_ns())
        took["alone"].append(median(b - a for a, b in pairwise(stamps)) / 1e6)

    turns = 2 if quick else 24
    interleaved({"grid": with_grid, "alone": alone}, repetitions=turns)
    ours, baseline, beyond = (took[name][-turns:] for name in ("grid", "alone", "beyond"))
    difference = spread([a - b for a, b in zip(ours, baseline, strict=True)])
    return Row(
        name=f"overhead of a run in a grid, {head} head",
        ours=Reading(what="a run", value=median(ours), unit="ms"),
        baseline=Reading(
            what="the same training, selection and predictions alone",
            value=median(baseline),
            unit="ms",
        ),
        ratio=spread(beyond),
        target=30.0,
        at_most=True,
        note=f"ms of a run beyond its own training, selection and predictions, {turns} turns of "
        f"{runs} runs: metrics, files, claims; the difference to the baseline is "
        f"{difference.median:.3g} ({difference.low:.3g}-{difference.high:.3g}) ms",
    )


@contextmanager
def _timed() -> Iterator[list[int]]:
    """The ns spent so far in training, selection and predictions, at the end of each run."""
    spent, ends = 0, []

    def timed(what: Callable[..., Any], last: bool) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            nonlocal spent
            began = time.perf_counter_ns()
            found = what(*args, **options)
            spent += time.perf_counter_ns() - began
            if last:
                ends.append(spent)
            return found

        return call

    with (
        patch.object(train, "train", timed(train.train, last=False)),
        patch.object(keep, "logits_of", timed(keep.logits_of, last=True)),
    ):
        yield ends
