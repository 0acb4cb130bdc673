"""Which rows to look at: those of a group, or those that a head gets most wrong."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from embedcal.cache import FeatureCache
from embedcal.explaining.readout import head_of
from embedcal.types import EmbedcalError, IntArray, Split

if TYPE_CHECKING:
    from embedcal.runs import Run


def choose(
    run: Run | None,
    cache: FeatureCache,
    split: Split = "test",
    *,
    group: int | None = None,
    count: int = 12,
    attribute: str | Sequence[str] | None = None,
) -> IntArray:
    """The ``count`` rows of a split that a run (None: zero-shot) gets most wrong, worst first.

    Wrong is a small margin: the logit of the true class less the largest other one. ``group``
    (y * A + a) narrows the choice to one group: of the run's, or, for zero-shot, of those that
    ``attribute`` makes. Raises EmbedcalError for a group that has no rows.
    """
    from embedcal.heads import predict
    from embedcal.workbench import Workbench

    chosen = attribute if run is None else (run.record["attributes"] or None)
    on, head = Workbench(cache, chosen), head_of(run, cache)
    found = on.split(split, head.level)
    logits = predict(head, on.features(split, head.level, "cpu")).numpy().astype(float)
    places = np.arange(len(found))
    own = logits[places, found.y]
    logits[places, found.y] = -np.inf
    margin = own - logits.max(axis=1)
    if group is not None:
        groups = found.g if "g" in found else np.full(len(found), -1)
        places = np.flatnonzero(groups == group) if group >= 0 else places[:0]
        if not len(places):
            raise EmbedcalError(
                f"expected a group with rows in {split}, found none in group {group}: groups go "
                f"from 0 to {cache.n_classes * on.n_attributes - 1}"
            )
    order = np.argsort(margin[places], kind="stable")[: max(1, count)]
    rows: IntArray = found.rows[places[order]]
    return rows
