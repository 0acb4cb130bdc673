"""Predictions of anybody's model -> the metrics of embedcal, with intervals and names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from embedcal.evaluate.intervals import DRAWS, Intervals, bootstrap
from embedcal.evaluate.labels import (
    Labels,
    array_of,
    columns,
    is_text,
    labels_of,
    placed,
    product,
)
from embedcal.evaluate.metrics import Metrics, auroc, evaluate_strata, predictions
from embedcal.evaluate.record import as_dict
from embedcal.evaluate.strata import Strata, statistics, strata
from embedcal.types import EmbedcalError, FloatArray, IntArray

if TYPE_CHECKING:
    from pandas import DataFrame

OF_GROUPS = ("worst_group", "groups", "group_mean", "train_weighted")


@dataclass(frozen=True, kw_only=True)
class Evaluation(Metrics):
    """The metrics of one set of predictions, their 95 % intervals, and what vectors are of.

    All are fractions. ``interval`` has the low and high end of each accuracy under the names of
    the metrics, None where no draws were asked for. ``class_names`` (C) and ``group_names`` (G)
    are in the order of the vectors.
    """

    interval: Intervals | None
    class_names: tuple[str, ...]
    group_names: tuple[str, ...]

    def record(self) -> dict[str, Any]:
        """All of it as JSON holds it; NaN is null, and what does not exist is left out."""
        known = Metrics(**{item.name: getattr(self, item.name) for item in fields(Metrics)})
        names = {"class_names": list(self.class_names), "group_names": list(self.group_names)}
        return {**as_dict(known, self.interval), **names}

    def to_frame(self) -> DataFrame:
        """One row a group, or a class where there are no groups.

        Columns: ``accuracy``; of groups also ``rows`` and, with intervals, ``low`` and ``high``.
        """
        from pandas import DataFrame, Index

        if self.groups is None:
            index = Index(self.class_names, name="class")
            return DataFrame({"accuracy": self.classes}, index=index)
        found: dict[str, Any] = {"rows": self.group_sizes, "accuracy": self.groups}
        if self.interval is not None and self.interval.groups is not None:
            found["low"], found["high"] = zip(*self.interval.groups, strict=True)
        return DataFrame(found, index=Index(self.group_names, name="group"))


def evaluate_labels(
    y_true: Any,
    y_pred: Any,
    groups: Any = None,
    *,
    attributes: Any = None,
    classes: Sequence[Any] | npt.NDArray[Any] | None = None,
    train_group_counts: Sequence[int] | npt.NDArray[Any] | None = None,
    draws: int = DRAWS,
) -> Evaluation:
    """Metrics of predictions by any model, with 95 % intervals: no cache and no run is needed.

    Vectors are lists, NumPy arrays, pandas columns or torch tensors on any device; labels are text
    or whole numbers. n rows, C classes, A attribute values, G groups.

    Args:
        y_true: the true classes (n,).
        y_pred: predicted classes (n,), or one column a class: logits (n, C), or probabilities
            where no entry is negative and every row sums to 1 but for rounding: within 0.02, or
            from five classes on 0.005 a class, at most 0.1. Scores give ``ece`` and ``auroc`` too.
        groups: the group of each row (n,), as it is; sorted by name. None, NaN and -1: unknown.
        attributes: in place of groups, the value (n,) of an attribute for each row, or several as
            a table or a mapping: groups are then the pairs of class and value, g = y * A + a.
        classes: the classes in the order of the columns of ``y_pred``, or their names where the
            labels are numbers from 0. By default those that occur, sorted.
        train_group_counts: rows (G,) of each group in training, in the order of the groups: gives
            ``train_weighted``.
        draws: of the bootstrap; 0: no intervals.

    Returns:
        The metrics, all fractions: docs/explanation/metrics.md. Rows of unknown group count in the
        mean and for their class. Intervals are about the images, with the sizes of the groups
        fixed: docs/explanation/intervals.md.

    Raises:
        EmbedcalError: for labels or shapes that do not fit, and scores that are not finite.

    Example:
        >>> import embedcal
        >>> y_true = ["land", "land", "water", "water"]
        >>> y_pred = ["land", "land", "water", "land"]
        >>> found = embedcal.evaluate(y_true, y_pred, attributes=["wood", "lake", "wood", "lake"])
        >>> found.mean, found.worst_group
        (0.75, 0.0)
        >>> found.group_names[2], found.groups[2]
        ('water | lake', 0.0)
    """
    truth = labels_of(y_true, "y_true")
    outputs = array_of(y_pred, "y_pred")
    scored = outputs.ndim == 2
    guesses = None if scored else labels_of(y_pred, "y_pred")
    values, names = _classes(truth, guesses, outputs.shape[1] if scored else None, classes)
    y = _known(placed(truth, values, "y_true"), "y_true")
    if guesses is None:
        found: npt.NDArray[Any] = _logits(outputs)
    else:
        found = _known(placed(guesses, values, "y_pred"), "y_pred")
    if groups is not None and attributes is not None:
        raise EmbedcalError(
            "expected groups or attributes, found both: attributes make the groups themselves"
        )
    if groups is not None:
        own = labels_of(groups, "groups", unknown=-1)
        return _by_groups(found, y, names, own, train_group_counts, draws)
    kinds = None if attributes is None else product(columns(attributes))
    cells = strata(
        y,
        None if kinds is None else kinds.codes,
        len(names),
        0 if kinds is None else len(kinds.values),
        train_group_counts,
    )
    metrics = evaluate_strata(found, cells)
    pairs = [] if kinds is None else [f"{name} | {kind}" for name in names for kind in kinds.names]
    return _evaluation(
        metrics,
        bootstrap((predictions(found, cells) == y)[None], cells, draws) if draws else None,
        names,
        tuple(pairs) if cells.n_attributes else (),
    )


def _by_groups(
    found: npt.NDArray[Any],
    y: IntArray,
    names: tuple[str, ...],
    groups: Labels,
    counts: Sequence[int] | npt.NDArray[Any] | None,
    draws: int,
) -> Evaluation:
    """Groups as they are given: as values of an attribute beside a single class of all rows."""
    by_class = strata(y, None, len(names), 0)
    if len(groups) != len(y):
        raise EmbedcalError(
            f"expected one group for each of the {len(y)} rows, found {len(groups)}: pass groups "
            "of the same rows as y_true"
        )
    cells = strata(np.zeros_like(y), groups.codes, 1, len(groups.values), counts)
    metrics = evaluate_strata(found, by_class)
    right = predictions(found, by_class) == y
    if cells.n_attributes == 0:
        interval = bootstrap(right[None], by_class, draws) if draws else None
        return _evaluation(metrics, interval, names, ())
    measured = statistics(cells.totals(right), cells)
    of_groups: dict[str, Any] = {
        name: _value(measured[name]) for name in OF_GROUPS if name in measured
    }
    metrics = replace(metrics, **of_groups, group_sizes=tuple(cells.group_sizes.tolist()))
    if found.ndim == 2:
        metrics = replace(metrics, **_ranking(found, y, cells))
    interval = None
    if draws:
        by_group = bootstrap(right[None], cells, draws)
        of_classes = bootstrap(right[None], by_class, draws)
        interval = replace(
            by_group, class_mean=of_classes.class_mean, worst_class=of_classes.worst_class
        )
    return _evaluation(metrics, interval, names, groups.names)


def _ranking(logits: FloatArray, y: IntArray, cells: Strata) -> dict[str, Any]:
    """AUROC within each group (G,), NaN where it holds one class, and the least of them."""
    rows = [cells.a == group for group in range(cells.n_attributes)]
    area = [auroc(logits[some].astype(np.float64), y[some]) for some in rows]
    least = min((value for value in area if not np.isnan(value)), default=None)
    return {"auroc": tuple(area), "worst_auroc": least}


def _evaluation(
    metrics: Metrics,
    interval: Intervals | None,
    names: tuple[str, ...],
    groups: tuple[str, ...],
) -> Evaluation:
    known = {item.name: getattr(metrics, item.name) for item in fields(Metrics)}
    return Evaluation(**known, interval=interval, class_names=names, group_names=groups)


def _value(found: FloatArray) -> float | tuple[float, ...]:
    return tuple(found.tolist()) if found.ndim else float(found)


def _classes(
    truth: Labels, guesses: Labels | None, width: int | None, given: Any
) -> tuple[npt.NDArray[Any], tuple[str, ...]]:
    """The classes (C,) as labels, in their order, and their names."""
    if given is not None:
        named = labels_of(given, "classes")
        values = named.values[named.codes]
        if len(set(values.tolist())) < len(values):
            raise EmbedcalError("expected classes that differ, found one twice: name each once")
        names = tuple(str(value) for value in values.tolist())
        if is_text(values) and len(truth.values) and not is_text(truth.values):
            values = np.arange(len(values))  # names of the numbers from 0
    else:
        values = truth.values
        if guesses is not None and is_text(guesses.values) == is_text(values):
            more = [each for each in guesses.values.tolist() if each not in set(values.tolist())]
            values = values if not more else np.sort(np.append(values, np.asarray(more)))
        elif width is not None and not is_text(values) and len(values) != width:
            inside = len(values) == 0 or (values.min() >= 0 and values.max() < width)
            values = np.arange(width) if inside else values
        names = tuple(str(value) for value in values.tolist())
    if width is not None and width != len(values):
        raise EmbedcalError(
            f"expected one column of y_pred for each of {len(values)} classes, found {width}: name "
            "the classes of all columns (classes=[...])"
        )
    return values, names


def _known(codes: IntArray, what: str) -> IntArray:
    if (codes < 0).any():
        raise EmbedcalError(
            f"expected a class in every row of {what}, found none in row "
            f"{int(np.argmax(codes < 0))}: leave rows without a class out"
        )
    return codes


def _logits(scores: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Scores (n, C) as logits: of probabilities their logarithms, whose softmax they are.

    The softmax makes rounded ones sum to 1 again.
    """
    try:
        found: FloatArray = scores.astype(np.float64)
    except (TypeError, ValueError):
        raise EmbedcalError(
            f"expected y_pred of shape {scores.shape} as scores, found {scores.dtype}: pass one "
            "class a row, or one number a class"
        ) from None
    finite = np.isfinite(found).all(axis=1)
    if not finite.all():
        raise EmbedcalError(
            f"expected finite scores in y_pred, found NaN or infinity in {int((~finite).sum())} of "
            f"{len(found)} rows, the first in row {int(np.argmin(finite))}: mend them, or leave "
            "these rows out"
        )
    off = np.abs(found.sum(axis=1) - 1.0)
    rounded = min(max(0.02, 0.005 * found.shape[1]), 0.1)  # two decimals, or half precision
    if len(found) and (found >= 0).all() and (off <= rounded).all():
        found = np.log(found.clip(min=np.finfo(np.float32).tiny))
    return found
