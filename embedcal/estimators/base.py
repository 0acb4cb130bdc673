"""What the classifiers share: scikit-learn's contract around one method of embedcal.

n rows, d features, C classes.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, Self

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin  # noqa: TID253 - it is one of these
from sklearn.utils import check_random_state  # noqa: TID253
from sklearn.utils.multiclass import check_classification_targets  # noqa: TID253
from sklearn.utils.validation import (  # noqa: TID253
    check_consistent_length,
    check_is_fitted,
    column_or_1d,
    validate_data,
)

from embedcal.estimators.arrays import OFFER, Rows, attribute_of, workbench
from embedcal.estimators.fitting import fit_head, fits_val_alone, reads, reads_val
from embedcal.evaluate import Rule, default_rule, rule
from embedcal.evaluate.labels import Labels, labels_of, placed, plain
from embedcal.fitting import configure
from embedcal.heads import Head, predict, torch_device
from embedcal.methods.base import Method, cut_by_class
from embedcal.types import EmbedcalError, FloatArray, IntArray

SHARED = ("select", "validation_fraction", "random_state", "device")


class ArraysError(EmbedcalError, ValueError):
    """A mistake in what an estimator was given: the ValueError that scikit-learn expects."""


class Classifier(ClassifierMixin, BaseEstimator, ABC):  # type: ignore[misc]
    """A method over features in memory. Subclasses name the method and its options."""

    classes_: np.ndarray
    n_features_in_: int
    head_: Head
    epoch_: int
    labels_used_: tuple[str, ...]

    @abstractmethod
    def _chosen(self) -> tuple[str, Mapping[str, Any]]:
        """The method's name and its options."""

    def fit(
        self,
        X: Any,
        y: Any,
        groups: Any = None,
        *,
        X_val: Any = None,
        y_val: Any = None,
        groups_val: Any = None,
    ) -> Self:
        """Fit the method's head.

        Args:
            X: features (n, d): NumPy, pandas or torch, trained on as float32.
            y: classes (n,), text or numbers.
            groups: the group of each row (n,), or the value of an attribute; a class and a label
                together are a group of the method. None, NaN and -1: unknown. Without groups each
                class is one.
            X_val: validation features (m, d). Without them a method that reads validation rows
                gets ``validation_fraction`` of the rows, drawn within every group; one that reads
                the labels of validation rows alone, as DFR, gets all rows as both.
            y_val: their classes (m,), among those of ``y``.
            groups_val: their groups (m,).

        Returns:
            The classifier, with ``classes_`` (C,), ``n_features_in_`` d, ``head_`` (a head of
            embedcal, float32 on the CPU), ``labels_used_`` (every label array that was read) and
            ``epoch_`` (the epoch that was chosen; 0 where there are none).

        Raises:
            ValueError: for arrays as scikit-learn refuses them.
            EmbedcalError: which is a ValueError here, for options and labels that do not fit.
        """
        try:
            return self._fit(X, y, groups, (X_val, y_val, groups_val))
        except ArraysError:
            raise
        except EmbedcalError as error:
            raise ArraysError(str(error)) from error

    def _fit(self, X: Any, y: Any, groups: Any, held_out: tuple[Any, Any, Any]) -> Self:
        x, y = validate_data(self, plain(X), plain(y), dtype=np.float32, ensure_min_samples=2)
        check_classification_targets(y)
        self.classes_, codes = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise ArraysError(
                f"expected rows of at least two classes, found one class, {self.classes_[0]}: "
                "give rows of another"
            )
        X_val, y_val, groups_val = held_out
        own = None
        if X_val is not None:
            own = self._held_out(X_val, y_val)
        elif y_val is not None or groups_val is not None:
            raise ArraysError("expected X_val beside y_val and groups_val, found none: pass it")
        y_both = codes if own is None else np.concatenate([codes, own[1]])
        a = self._attribute(y_both, groups, groups_val, len(codes))
        train = Rows(x=x, y=codes, a=a[: len(codes)])
        val = None if own is None else Rows(x=own[0], y=own[1], a=a[len(codes) :])
        has_groups = (groups if own is None else groups_val) is not None
        self._fit_rows(train, val, default_rule(has_groups))
        return self

    def _fit_rows(self, train: Rows, val: Rows | None, usual: Rule) -> None:
        params = self.get_params(deep=False)
        method = self._method()
        wanted = rule(params["select"]) if params.get("select") else usual
        if wanted.oracle:
            raise ArraysError(
                f"expected a rule on validation, found '{wanted.name}', which looks at test: "
                "choose val.worst_group, val.worst_class, val.mean or last"
            )
        seed = _seed(params.get("random_state", 0))
        if val is None:
            train, val = self._parts(method, wanted, train, seed)
        on = workbench(train, val, len(self.classes_))
        device = torch_device(params.get("device", "auto"))
        chosen = fit_head(method, wanted, on, seed, device)
        self.head_ = chosen.head.cpu().eval()
        self.epoch_ = chosen.epoch
        labels = (need for need in reads(method, wanted) if need.endswith((".y", ".g", ".a")))
        self.labels_used_ = tuple(sorted(labels))

    def _method(self) -> Method:
        """The method with its options, resolved; EmbedcalError for one that reads more than X."""
        name, options = self._chosen()
        method = configure(name, {key: _option(value) for key, value in options.items()})
        method = method.resolve(OFFER)
        more = sorted(need for need in method.needs if need.startswith(("text.", "projection")))
        if more:
            raise ArraysError(
                f"expected a method that reads X alone, found {method.name}, which reads "
                f"{', '.join(more)}: fit it over a cache with embedcal.fit, or use dfr or erm"
            )
        return method

    def _parts(self, method: Method, wanted: Rule, rows: Rows, seed: int) -> tuple[Rows, Rows]:
        """Rows to train on and rows to validate on, of those that were given."""
        if not reads_val(method, wanted) or fits_val_alone(method):
            return rows, rows
        fraction = self.get_params(deep=False).get("validation_fraction", 0.2)
        if not 0 < fraction < 1:
            raise ArraysError(
                f"expected validation_fraction between 0 and 1, found {fraction}: 0.2 is a fifth "
                "of the rows"
            )
        groups = rows.y * (int(rows.a.max()) + 2) + rows.a + 1
        kept, held = cut_by_class(groups, 1 - fraction, np.random.default_rng([seed, len(groups)]))
        if len(held) == 0:
            raise ArraysError(
                "expected a group of two rows or more to set validation rows aside, found none: "
                "pass X_val, or select='last'"
            )
        return rows[kept], rows[held]

    def _held_out(self, X_val: Any, y_val: Any) -> tuple[FloatArray, IntArray]:
        """Validation features (m, d) and the places (m,) of their classes."""
        if y_val is None:
            raise ArraysError("expected y_val beside X_val, found none: pass the classes of X_val")
        x = validate_data(self, plain(X_val), reset=False, dtype=np.float32)
        y = column_or_1d(plain(y_val))
        check_consistent_length(x, y)
        strange = sorted(set(y.tolist()) - set(self.classes_.tolist()), key=str)
        if strange:
            raise ArraysError(
                f"expected the classes of y in y_val, found {strange[0]!r}: give training rows of "
                "it, or leave its rows out"
            )
        return x, np.searchsorted(self.classes_, y)

    def _attribute(self, y: IntArray, groups: Any, groups_val: Any, n: int) -> IntArray:
        """Attribute values of all rows, the first ``n`` of them to train on."""
        if groups is None and groups_val is None:
            return np.zeros_like(y)
        first = _groups(groups, n, "groups")
        second = _groups(groups_val, len(y) - n, "groups_val")
        found = [each.values for each in (first, second) if len(each.values)]
        values = np.unique(np.concatenate(found)) if found else first.values
        codes = [placed(first, values, "groups"), placed(second, values, "groups_val")]
        return attribute_of(y, Labels(codes=np.concatenate(codes), values=values))

    def decision_function(self, X: Any) -> FloatArray:
        """Logits (n, C) of features (n, d); of two classes the second's minus the first's (n,)."""
        logits = self._logits(X)
        return logits[:, 1] - logits[:, 0] if logits.shape[1] == 2 else logits

    def predict_proba(self, X: Any) -> FloatArray:
        """Probabilities (n, C) of features (n, d): the softmax of the logits, not calibrated."""
        logits = self._logits(X)
        weights: FloatArray = np.exp(logits - logits.max(axis=1, keepdims=True))
        weights /= weights.sum(axis=1, keepdims=True)
        return weights

    def predict(self, X: Any) -> np.ndarray:
        """The class (n,) of the highest logit for features (n, d); of equal ones the first."""
        logits = self._logits(X)
        found: np.ndarray = self.classes_[logits.argmax(axis=1)]
        return found

    def _logits(self, X: Any) -> FloatArray:
        """In float64, so that a row has the same logits in whatever company it comes."""
        import torch

        check_is_fitted(self)
        x = validate_data(self, plain(X), reset=False, dtype=np.float32)
        head = copy.deepcopy(self.head_).double()
        logits: FloatArray = predict(head, torch.from_numpy(x.astype(np.float64))).numpy()
        return logits


def _groups(values: Any, n: int, what: str) -> Labels:
    """Groups (n,) as labels; all unknown where none were given."""
    if values is None:
        return Labels(codes=np.full(n, -1), values=np.zeros(0, np.int64))
    found = labels_of(values, what, unknown=-1)
    if len(found) != n:
        raise ArraysError(
            f"expected one of {what} for each of {n} rows, found {len(found)}: pass those of the "
            "same rows"
        )
    return found


def _option(value: Any) -> Any:
    """A parameter as an option: numbers of NumPy and lists, which searches bring, made plain."""
    if isinstance(value, np.generic):
        return value.item()
    return tuple(_option(each) for each in value) if isinstance(value, list | np.ndarray) else value


def _seed(random_state: Any) -> int:
    """A whole number as it is; of a generator, or of None, the next one that it draws."""
    if isinstance(random_state, int | np.integer):
        return int(random_state)
    drawn: int = check_random_state(random_state).randint(2**31 - 1)
    return drawn
