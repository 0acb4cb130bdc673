"""The worst group as a score that scikit-learn searches by."""

from __future__ import annotations

from typing import Any

from embedcal.evaluate import evaluate_labels
from embedcal.types import EmbedcalError


def worst_group_score(y_true: Any, y_pred: Any, *, groups: Any = None) -> float:
    """The least accuracy over groups (n,), or over classes where none are given; a fraction.

    A metric for ``sklearn.metrics.make_scorer``, which passes ``groups`` on where metadata routing
    is enabled and ``set_score_request(groups=True)`` asks for it. EmbedcalError for labels that do
    not fit, and where no row is in a group.

    Example:
        >>> from embedcal.estimators import worst_group_score
        >>> worst_group_score([0, 0, 1, 1], [0, 0, 1, 0], groups=["a", "b", "a", "b"])
        0.5
    """
    found = evaluate_labels(y_true, y_pred, groups, draws=0)
    if groups is None:
        return found.worst_class
    if found.worst_group is None:
        raise EmbedcalError(
            "expected a row of a known group, found none: leave groups out to score by the worst "
            "class"
        )
    return found.worst_group
