"""Predictions -> metrics, their intervals, their summary over seeds, and rules to select by."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

from embedcal.evaluate.evaluation import Evaluation, evaluate_labels
from embedcal.evaluate.intervals import Interval, Intervals, bootstrap
from embedcal.evaluate.metrics import Metrics, evaluate, evaluate_strata
from embedcal.evaluate.overlap import Overlap, aiou, iou, overlap
from embedcal.evaluate.paired import Difference, holm, paired
from embedcal.evaluate.record import as_dict, metrics_from_dict
from embedcal.evaluate.selection import RULES, Rule, default_rule, rule
from embedcal.evaluate.strata import Strata, strata
from embedcal.evaluate.summary import Summary, summarise

__all__ = [
    "RULES",
    "Difference",
    "Evaluation",
    "Interval",
    "Intervals",
    "Metrics",
    "Overlap",
    "Rule",
    "Strata",
    "Summary",
    "aiou",
    "as_dict",
    "bootstrap",
    "default_rule",
    "evaluate",
    "evaluate_labels",
    "evaluate_strata",
    "holm",
    "iou",
    "metrics_from_dict",
    "overlap",
    "paired",
    "rule",
    "strata",
    "summarise",
]


class _Callable(ModuleType):
    """``embedcal.evaluate`` is this package, and a function: see ``embedcal/cache/__init__.py``."""

    def __call__(self, *args: Any, **kwargs: Any) -> Evaluation:
        return evaluate_labels(*args, **kwargs)


sys.modules[__name__].__class__ = _Callable
