"""Runs into a tracker: what it does not hold yet is added, nothing that is there is touched."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from embedcal.asked import GRID, asked_of
from embedcal.comparing.recorded import collect
from embedcal.datasets.printable import printable
from embedcal.grids.results import load
from embedcal.runs import RESULTS
from embedcal.tracking.adapters import open_tracker
from embedcal.tracking.mirrored import key_of, mirrored
from embedcal.types import EmbedcalError

PROJECT = "embedcal"
PAUSE = 10.0  # seconds between looks at a grid under way
Progress = Callable[[int, int], None]  # done, of how many


@dataclass(frozen=True, kw_only=True)
class Mirror:
    """What was done: ids of the runs that were ``added``, how many were ``known``.

    ``failed`` runs have no results and stay out. ``where`` they are now, and the command to
    ``look`` at them.
    """

    to: str
    project: str
    where: str
    look: str
    added: tuple[str, ...]
    known: int
    failed: int
    seconds: float


def silently(done: int, total: int) -> None: ...


def track(
    runs: Sequence[str | Path] | str | Path,
    to: str,
    *,
    project: str = PROJECT,
    out: str | Path | None = None,
    progress: Progress = silently,
) -> Mirror:
    """Mirror finished runs into a tracker; runs that it holds already are left as they are.

    Args:
        runs: folders of runs and of single runs, as ``embedcal.compare`` takes them.
        to: ``tensorboard``, ``mlflow``, ``wandb``, ``trackio``.
        project: W&B's and trackio's project, MLflow's experiment, a folder for TensorBoard.
        out: a folder to write into; by default where the tracker itself looks.
        progress: called with how many runs are seen to, of how many.

    Returns:
        Which runs were added, and how to look at them.

    Raises:
        EmbedcalError: where there are no finished runs, the tracker is unknown or its package
            is missing, or the tracker refuses. What was added until then stays, and the same
            call adds the rest.

    The key of a run in a tracker is ``METHOD-ID-RULE``. A tracker shows settings, the validation
    curve by epoch as ``curve/...``, and the results of the epoch kept as ``val/...`` and
    ``test/...``, with the ends of their intervals as ``..._low`` and ``..._high``.

    Example:
        >>> import embedcal
        >>> with embedcal.open("birds.h5") as cache:
        ...     run = embedcal.fit("zeroshot", cache, out="mirrored")
        >>> done = embedcal.track("mirrored", "tensorboard", out="board")
        >>> len(done.added), embedcal.track("mirrored", "tensorboard", out="board").known
        (1, 1)
    """
    began = time.perf_counter()
    if not re.fullmatch(r"\w[\w .-]{0,99}", project):
        raise EmbedcalError(
            f"expected --project of letters, digits, spaces and _.-, found '{printable(project)}': "
            "choose another"
        )
    pools = collect(runs)
    done = [run for pool in pools for run in pool.done]
    folder = Path(out).expanduser() if out is not None else None
    added = []
    with _refusals(to):
        tracker = open_tracker(to, project, folder)
        try:
            for seen, run in enumerate(done):
                progress(seen, len(done))
                if not tracker.holds(key_of(run)):
                    tracker.add(mirrored(run))
                    added.append(run.id)
            progress(len(done), len(done))
        finally:
            tracker.close()
    return Mirror(
        to=to,
        project=project,
        where=tracker.where,
        look=tracker.look,
        added=tuple(added),
        known=len(done) - len(added),
        failed=sum(len(pool.failed) for pool in pools),
        seconds=time.perf_counter() - began,
    )


@contextmanager
def _refusals(to: str) -> Iterator[None]:
    """Whatever another program raises, in one line: full disks, lost servers, missing keys."""
    try:
        yield
    except EmbedcalError:
        raise
    except Exception as error:
        said = printable(" ".join(f"{type(error).__name__}: {error}".split()), longest=300)
        raise EmbedcalError(
            f"expected {to} to take the runs, found {said}: mend that and give the same command "
            "again; what was added is there"
        ) from error


def follow(
    grids: Sequence[str | Path],
    to: str,
    *,
    project: str = PROJECT,
    out: str | Path | None = None,
    progress: Progress = silently,
    pause: float = PAUSE,
) -> Mirror:
    """``track`` again and again, every ``pause`` seconds, until the grids have no run left to do.

    EmbedcalError where a folder is none of a grid.
    """
    added: list[str] = []
    known: int | None = None
    began = time.perf_counter()
    while True:
        stands = [_standing(Path(folder)) for folder in grids]
        going = any(left for left, _ in stands)  # asked before looking, so that none is missed
        ready = [grid for grid, (_, done) in zip(grids, stands, strict=True) if done]
        if ready or not going:
            found = track(ready or grids, to, project=project, out=out, progress=progress)
            added += found.added
            known = found.known if known is None else known
            if not going:
                seconds = time.perf_counter() - began
                return replace(found, added=tuple(added), known=known, seconds=seconds)
        time.sleep(pause)


def _standing(folder: Path) -> tuple[int, int]:
    """How many runs that were asked of a grid have not ended yet, and how many are done."""
    asked = asked_of(folder)
    if asked is None:
        raise EmbedcalError(
            f"expected the folder of a grid to follow, found no {GRID} in {folder}: leave "
            "--follow away, or begin the grid first"
        )
    ended = load(folder).records if (folder / RESULTS).is_file() else {}
    done = sum(ended[name].get("status") == "done" for name in asked if name in ended)
    return sum(name not in ended for name in asked), done
