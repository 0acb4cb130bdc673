"""Metrics and their intervals as JSON values, and back.

Fractions; NaN becomes null; metrics that do not exist for a split are left out. The names are
those of ``Metrics``, and the intervals of the same names stand together under ``interval``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import MISSING, fields
from typing import Any

from embedcal.evaluate.intervals import Intervals
from embedcal.evaluate.metrics import Metrics
from embedcal.types import EmbedcalError


def as_dict(metrics: Metrics, intervals: Intervals | None = None) -> dict[str, Any]:
    """``{"worst_group": 0.8, "groups": [...], ..., "interval": {"worst_group": [lo, hi]}}``."""
    record = _record(metrics)
    if intervals is not None:
        record["interval"] = _record(intervals)
    return record


def metrics_from_dict(record: Mapping[str, Any]) -> Metrics:
    """The metrics of ``as_dict``; names that ``Metrics`` lacks are passed over."""
    return Metrics(**_known(Metrics, record))


def _record(value: Metrics | Intervals) -> dict[str, Any]:
    named = ((f.name, getattr(value, f.name)) for f in fields(value))
    return {name: _to_json(found) for name, found in named if found is not None}


def _to_json(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_to_json(v) for v in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def _known(kind: type[Metrics] | type[Intervals], record: Mapping[str, Any]) -> dict[str, Any]:
    known: dict[str, Any] = {}
    for field in fields(kind):
        if field.name in record:
            known[field.name] = _from_json(field.name, record[field.name])
        elif field.default is MISSING:
            raise EmbedcalError(
                f"expected '{field.name}' in a record, found {', '.join(record) or 'nothing'}: "
                "it is incomplete, run it again"
            )
    return known


def _from_json(name: str, value: Any) -> Any:
    if isinstance(value, list):
        return tuple(_from_json(name, v) for v in value)
    if value is None:
        return math.nan
    if isinstance(value, int | float) and not isinstance(value, bool):
        return value if name == "group_sizes" else float(value)
    raise _unreadable(name, value)


def _unreadable(name: str, value: Any) -> EmbedcalError:
    return EmbedcalError(
        f"expected a number, null or a list of them under '{name}', found {value!r:.60}: "
        "the record is damaged, run it again"
    )
