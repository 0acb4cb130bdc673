"""Grids small enough for tests, in this process or in one that may be killed."""

from __future__ import annotations

import json
import multiprocessing
import os
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from embedcal.cache import Names, import_features, open_cache
from embedcal.grids import Grid, grid, load

SPECS = ("erm:lr=1e-3,1e-2,1e-1:epochs=3", "jtt:epochs=2:stage_epochs=1", "dfr:c=1:refits=2")
PRELOADED = [  # what a first run imports: seconds, also on a quiet machine
    *("torch._dynamo", "sklearn.linear_model", "scipy.stats", "safetensors.torch", "filelock"),
    *("embedcal.grids", "embedcal.keep", "embedcal.stacked", "embedcal.cache.view"),
    *("embedcal.methods.erm", "embedcal.methods.jtt", "embedcal.methods.dfr"),
]
JUDGED = ("status", "rules", "selection", "val", "test", "labels_used", "stage", "options", "seed")


def make_cache(
    path: Path, rows: int = 240, width: int = 16, *, placeless: Sequence[int] = ()
) -> Path:
    """Two classes in two places; of the ``placeless`` splits, 0 to 2, no row's place is known."""
    rng = np.random.default_rng(3)
    y, place = rng.integers(0, 2, rows), rng.integers(0, 2, rows)
    features = rng.normal(size=(rows, width)).astype(np.float32)
    features[:, 0] += 2 * y
    features[:, 1] += 2 * place
    split = np.arange(rows) % 3
    place[np.isin(split, placeless)] = -1
    return import_features(
        features, y, split, {"place": place}, names=Names(dataset="made"), out=path
    )


def judged(record: dict[str, Any]) -> dict[str, Any]:
    """What of a record must not depend on who did the run, when, or with what engine."""
    return {name: record.get(name) for name in JUDGED}


def outcome(folder: Path) -> dict[str, Any]:
    """The results of a folder by id, as :func:`judged`."""
    return {name: judged(record) for name, record in load(folder).records.items()}


def lines(folder: Path) -> list[dict[str, Any]]:
    """Every whole line of a folder's results."""
    found = []
    for line in (folder / "results.jsonl").read_text().split("\n"):
        try:
            found.append(json.loads(line))
        except ValueError:
            continue
    return found


def times_done(folder: Path) -> Counter[str]:
    """How many lines say of each run that it is done."""
    return Counter(record["id"] for record in lines(folder) if record["status"] == "done")


def run_grid(
    cache: Path, out: Path, specs: Sequence[str] = SPECS, home: str = "", **options: Any
) -> Grid:
    """A grid as a command would do it; what a child process is told to run."""
    if home:
        os.environ["EMBEDCAL_HOME"] = home
    with open_cache(cache) as opened:
        return grid(list(specs), opened, out=out, **{"engine": "sequential", "seeds": 3, **options})


def start(what: Callable[..., Any] = run_grid, *args: Any, **options: Any) -> Any:
    """A child that has torch loaded already, so that it is at work within a second."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    child = context.Process(
        target=what, args=args, kwargs={"home": os.environ["EMBEDCAL_HOME"], **options}
    )
    child.start()
    return child


def until(done: Callable[[], bool], seconds: float = 60.0, what: str = "it") -> None:
    end = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < end, f"{what} did not happen within {seconds} seconds"
        time.sleep(0.005)


def count(folder: Path) -> int:
    """Whole lines so far."""
    try:
        return (folder / "results.jsonl").read_bytes().count(b"\n")
    except FileNotFoundError:
        return 0
