"""What a run predicts for the rows of its cache, and which run is meant."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from embedcal.cache import FeatureCache
from embedcal.datasets.places import data_dir, remembered, remembered_at
from embedcal.datasets.printable import printable
from embedcal.runs import Run, check_over, load_run
from embedcal.types import EmbedcalError, IntArray, Split

JUDGED: tuple[Split, ...] = ("val", "test")


@dataclass(frozen=True, kw_only=True)
class Predictions:
    """For every row of the cache: the class with the highest logit, and its softmax.

    -1 and NaN for rows of train, and for rows that could not be read: a run has none of those.
    """

    classes: IntArray  # (N,)
    confidence: npt.NDArray[np.float32]  # (N,)


def predictions(cache: FeatureCache, run: Run) -> Predictions:
    """What the run predicts under its own rule; EmbedcalError for a run over another cache."""
    check_over(run, cache)
    classes = np.full(len(cache), -1, np.int64)
    confidence = np.full(len(cache), np.nan, np.float32)
    for split in JUDGED:
        rows = cache.encoded_rows(split)
        logits = run.logits(run.record["selection"], split).astype(np.float64)
        if logits.shape != (len(rows), cache.n_classes):
            raise EmbedcalError(
                f"expected logits of {len(rows)} rows and {cache.n_classes} classes in "
                f"{run.folder}, found {logits.shape}: fit the run again"
            )
        classes[rows] = logits.argmax(axis=1)
        confidence[rows] = 1 / np.exp(logits - logits.max(axis=1, keepdims=True)).sum(axis=1)
    return Predictions(classes=classes, confidence=confidence)


def find_run(name: str, cache: Path) -> Run:
    """The run that is meant by a folder, an id, the beginning of one, or ``last``.

    Ids are looked for among the cache's own runs in the user's data directory, then in the grid
    used last, then where ``embedcal fit`` put a run last. ``last`` is the run over this cache that
    was made, or asked for by ``fit``, most recently. EmbedcalError where none or several fit.
    """
    if (Path(name) / "run.json").is_file():
        return _run(Path(name))
    own, grid, fitted = data_dir() / "runs" / cache.stem, remembered("grid"), remembered("run")
    elsewhere = [grid, fitted and fitted.parent]
    places = list(dict.fromkeys([own, *(each for each in elsewhere if each and each.is_dir())]))
    if name == "last":
        made = [path.parent for place in places for path in place.glob("*/run.json")]
        latest = [_run(folder) for folder in sorted(made, key=_asked, reverse=True)]
        moved = [run for run in latest if run.folder.parent == own]  # over a cache of its name
        for run in [*(run for run in latest if _over(run, cache)), *moved]:
            return run
    for place in places:
        there = {path.parent.name: path.parent for path in place.glob("*/run.json")}
        begun = [each for each in there if name and each.startswith(name)]
        fitting = [name] if name in there else begun
        if len(fitting) > 1:
            raise EmbedcalError(
                f"expected one run, found {len(fitting)} that begin with '{printable(name)}' in "
                f"{place}: give more of its id"
            )
        if fitting:
            return _run(there[fitting[0]])
    raise EmbedcalError(
        f"expected a run, found none called '{printable(name)}' in "
        f"{' or '.join(map(str, places))}: give its folder, its id, or last"
    )


def _run(folder: Path) -> Run:
    run = load_run(folder)
    assert run is not None
    return run


def _asked(folder: Path) -> int:
    """When a run was made, or, of the one that ``fit`` gave last, when that was, in ns."""
    made = (folder / "run.json").stat().st_mtime_ns
    return max(made, remembered_at("run")) if folder == remembered("run") else made


def _over(run: Run, cache: Path) -> bool:
    return Path(run.record["cache"]["path"]).resolve() == cache.resolve()
