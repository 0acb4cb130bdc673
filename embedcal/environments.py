"""Environments of validation: what the rule ``val.env`` has where others have groups.

A probe of train, which is wrong where its shortcut is, parts each class of validation in two. No
group label is read. Shapes: n rows, C classes.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import numpy as np

from embedcal.evaluate import Metrics, Strata, evaluate_strata, strata
from embedcal.methods._environments import cell_sizes, environments, joined
from embedcal.methods.base import Stage
from embedcal.types import FloatArray, IntArray

log = logging.getLogger(__name__)

SMALL = 5  # rows of an environment of a class, below which the class is judged whole
FOLDER = "environments"  # of a folder of runs, where the probe's run lies

# The probe of ``evals``. It has a seed of its own, so that all runs of a grid meet the same cells.
PROBE = Stage(
    method="erm",
    options={
        "head": "linear",
        "features": "normalised",
        "sampler": "iid",
        "epochs": 100,
        "lr": 0.1,
    },
    select="last",
)
SEED = 0


@dataclass(frozen=True, kw_only=True)
class Environments:
    """Rows of validation, parted by class and by what a probe makes of them.

    ``cells`` has the environments, 0 or 1, in place of attribute values. ``sizes`` (C, 2) are their
    rows as they were inferred; a class of ``joined`` had fewer than ``SMALL`` in one of them and is
    whole in ``cells``. ``stage`` is the id of the probe's run.
    """

    cells: Strata
    sizes: IntArray
    joined: tuple[int, ...]
    stage: str

    def worst(self, metrics: Metrics) -> float:
        """The accuracy of the worst cell that has rows, from metrics of ``cells``."""
        assert metrics.worst_group is not None  # every row is in an environment
        return metrics.worst_group

    def accuracy(self, classes: IntArray) -> float:
        """That of the worst cell, from predicted classes (n,)."""
        return self.worst(evaluate_strata(classes, self.cells))

    def record(self) -> dict[str, Any]:
        """What a run's record says of them."""
        return {
            "stage": self.stage,
            "min_cell": SMALL,
            "sizes": self.sizes.tolist(),
            "joined": list(self.joined),
        }


def infer(logits: FloatArray, y: IntArray, n_classes: int, stage: str) -> Environments:
    """Environments from a probe's logits (n, C) and the classes (n,) of the same rows.

    Those that maximise EIIL's objective (Creager et al., 2021, arXiv:2010.07249), as EVaLS has
    them (Ghaznavi et al., 2024, arXiv:2410.05345). A small environment would make the worst cell a
    matter of a row or two, so its class is judged whole: a probe that hardly errs must not stop a
    grid, and leaves the worst class to choose.
    """
    rng = np.random.default_rng(SEED)  # the closed form draws nothing
    inferred = environments(logits.astype(np.float64), y, "closed", rng)
    sizes = cell_sizes(inferred, y, n_classes)
    small = sizes.min(1) < SMALL
    listed = ", ".join(f"{a}+{b}" for a, b in sizes)
    log.info("val.env: rows of the inferred environments of each class: %s", listed)
    return Environments(
        cells=strata(y, joined(inferred, y, small), n_classes, 2),
        sizes=sizes,
        joined=tuple(np.flatnonzero(small & (sizes.sum(1) > 0)).tolist()),
        stage=stage,
    )
