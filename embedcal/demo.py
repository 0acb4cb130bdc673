"""The main job on embedded data: render birds, cache them, fit four methods, print one table."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from embedcal.datasets.places import data_dir
from embedcal.types import EmbedcalError

if TYPE_CHECKING:
    from embedcal.progress import Bars
    from embedcal.runs import Run
    from embedcal.workbench import Workbench

# Method -> selection rule. ERM is chosen by what is known without groups; None: the default.
METHODS = {"zeroshot": None, "erm": "val.mean", "group-dro": None, "dfr": None}


@dataclass(frozen=True, kw_only=True)
class Row:
    """One method over its seeds, as the table shows it. Fractions; groups in the cache's order."""

    method: str
    labels_used: tuple[str, ...]
    selection: str
    groups: tuple[float, ...]
    worst_group: float
    interval: tuple[float, float]
    deviation: float
    train_weighted: float
    seconds: float
    runs: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Demo:
    """What the demo did: the cache, a row a method, seconds in all."""

    cache: Path
    images: Path
    runs: Path
    group_names: tuple[str, ...]
    rows: tuple[Row, ...]
    seeds: int
    seconds: Mapping[str, float]

    @property
    def record(self) -> dict[str, Any]:
        """As JSON holds it."""
        return {
            "cache": str(self.cache),
            "images": str(self.images),
            "runs": str(self.runs),
            "group_names": list(self.group_names),
            "seeds": self.seeds,
            "seconds": dict(self.seconds),
            "methods": [
                {
                    "method": row.method,
                    "labels_used": list(row.labels_used),
                    "selection": row.selection,
                    "groups": list(row.groups),
                    "worst_group": row.worst_group,
                    "interval": list(row.interval),
                    "deviation": None if np.isnan(row.deviation) else row.deviation,
                    "train_weighted": row.train_weighted,
                    "seconds": row.seconds,
                    "runs": list(row.runs),
                }
                for row in self.rows
            ],
        }


def demo(*, rows: int = 5894, seeds: int = 3, seed: int = 0, progress: Bars | None = None) -> Demo:
    """Render the birds, cache them through the tiny CLIP, fit, and summarise over head seeds.

    ``rows`` pictures of the world with this ``seed``; ``seeds`` head seeds a method. Nothing is
    done twice: a second call reads what the first one made.
    """
    from embedcal.cache import open_cache
    from embedcal.caching import cache
    from embedcal.datasets.options import ReadOptions
    from embedcal.fitting import fit_on
    from embedcal.workbench import Workbench

    if seeds < 1:
        raise EmbedcalError(f"expected --seeds of 1 or more, found {seeds}")
    start = time.perf_counter()
    report = cache(
        "birds",
        backbone="tiny",
        read=ReadOptions(
            rows=rows, seed=seed, progress=progress.counter("render", rows) if progress else None
        ),
        progress=progress.stage if progress else None,
    )
    cached = time.perf_counter()
    done = 0
    with open_cache(report.path) as opened:
        on = Workbench(opened)
        table = []
        for method, rule in METHODS.items():
            runs = []
            for head_seed in range(1 if method == "zeroshot" else seeds):
                runs.append(fit_on(on, method, {}, seed=head_seed, select=rule))
                done += 1
                if progress:
                    progress.stage("fit", done, 1 + 3 * seeds)
            table.append(summary_row(on, runs))
        names = opened.group_names()
    end = time.perf_counter()
    return Demo(
        cache=report.path,
        images=data_dir() / "birds" / f"rows-{rows}-seed-{seed}",
        runs=runs[0].folder.parent,
        group_names=names,
        rows=tuple(table),
        seeds=seeds,
        seconds={"cache": cached - start, "fit": end - cached, "total": end - start},
    )


def summary_row(on: Workbench, runs: Sequence[Run]) -> Row:
    """Means over runs that differ in their seed, with the interval that their test images allow."""
    from embedcal.evaluate import bootstrap, metrics_from_dict, summarise

    found = summarise([metrics_from_dict(run.test) for run in runs])
    first = runs[0].record
    cells = on.strata("test", "embedding")
    correct = np.stack([run.predictions()["test"].numpy().argmax(1) == cells.y for run in runs])
    ends = bootstrap(correct, cells).worst_group
    assert found.mean.groups is not None
    assert found.mean.worst_group is not None
    assert found.mean.train_weighted is not None
    assert ends is not None
    return Row(
        method=first["method"],
        labels_used=tuple(first["labels_used"]),
        selection=first["selection"],
        groups=found.mean.groups,
        worst_group=found.mean.worst_group,
        interval=ends,
        deviation=found.std.worst_group if found.std.worst_group is not None else float("nan"),
        train_weighted=found.mean.train_weighted,
        seconds=float(np.mean([run.record["seconds"] for run in runs])),
        runs=tuple(run.id for run in runs),
    )
