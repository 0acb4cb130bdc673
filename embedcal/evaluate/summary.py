"""Runs that differ only in their seed -> mean and standard deviation of every metric."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from embedcal.evaluate.metrics import Metrics
from embedcal.types import EmbedcalError


@dataclass(frozen=True, kw_only=True)
class Summary:
    """``mean`` and ``std`` over ``runs`` seeds, each in the fields of ``Metrics``.

    The deviation divides by runs - 1 and is NaN for a single run. ``group_sizes`` are the split's
    own in both.
    """

    runs: int
    mean: Metrics
    std: Metrics


def summarise(runs: Sequence[Metrics]) -> Summary:
    """Mean and standard deviation (ddof 1) of every scalar and every vector entry.

    EmbedcalError for no runs, and for runs of different splits. A metric that some of the runs
    lack is None.
    """
    if not runs:
        raise EmbedcalError("expected at least one run to summarise, found none: name some runs")
    kinds = {(len(m.classes), m.group_sizes) for m in runs}
    if len(kinds) > 1:
        raise EmbedcalError(
            f"expected runs on one split, found {len(kinds)} different numbers of classes or group "
            "sizes: summarise runs of one cache"
        )
    mean: dict[str, Any] = {}
    std: dict[str, Any] = {}
    for field in fields(Metrics):
        values = [getattr(m, field.name) for m in runs]
        if field.name == "group_sizes" or any(v is None for v in values):
            common = values[0] if field.name == "group_sizes" else None
            mean[field.name], std[field.name] = common, common
            continue
        table = np.asarray(values, dtype=np.float64)  # (runs,) or (runs, k)
        mean[field.name] = _plain(table.mean(axis=0))
        spread = table.std(axis=0, ddof=1) if len(runs) > 1 else np.full(table.shape[1:], np.nan)
        std[field.name] = _plain(spread)
    return Summary(runs=len(runs), mean=Metrics(**mean), std=Metrics(**std))


def _plain(values: Any) -> float | tuple[float, ...]:
    return tuple(values.tolist()) if np.ndim(values) else float(values)
