"""The classifiers: one for any method, and thin ones that spell the options of the usual out.

A parameter has the name, the default and the meaning of the method's option: docs/reference/
methods.md. Options that a thin one leaves out are for ``HeadClassifier(method, options=...)``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from embedcal.estimators.base import SHARED, Classifier


class HeadClassifier(Classifier):
    """Any method that reads image features alone, by its name or the path of its file.

    Args:
        method: ``erm``, ``dfr``, ``jtt``, ...; methods that read prompts, a projection or tokens
            need a cache, and ``embedcal.fit``.
        options: of the method, by name.
        select: the rule that chooses an epoch: by default ``val.worst_group`` where validation
            rows have groups, else ``val.worst_class``; ``last`` sets no rows aside.
        validation_fraction: share of the rows to validate on, where none are given to ``fit``.
        random_state: a seed, a generator, or None for another result every time.
        device: where the head is trained; ``auto`` is the accelerator where there is one.

    Example:
        >>> import numpy as np
        >>> from embedcal.estimators import HeadClassifier
        >>> rng = np.random.default_rng(0)
        >>> y = np.repeat(["cat", "dog"], 50)
        >>> X = rng.normal(size=(100, 8)) + np.where(y == "dog", 3, -3)[:, None]
        >>> model = HeadClassifier("erm", options={"epochs": 20}).fit(X, y)
        >>> model.predict(X[:1]), model.labels_used_
        (array(['cat'], dtype='<U3'), ('train.y', 'val.y'))
    """

    def __init__(
        self,
        method: str = "erm",
        *,
        options: Mapping[str, Any] | None = None,
        select: str | None = None,
        validation_fraction: float = 0.2,
        random_state: Any = 0,
        device: str = "auto",
    ) -> None:
        self.method = method
        self.options = options
        self.select = select
        self.validation_fraction = validation_fraction
        self.random_state = random_state
        self.device = device

    def _chosen(self) -> tuple[str, Mapping[str, Any]]:
        return self.method, self.options or {}


class _Named(Classifier):
    """One method, whose options are the parameters beside the shared ones."""

    method: ClassVar[str]

    def _chosen(self) -> tuple[str, Mapping[str, Any]]:
        params = self.get_params(deep=False)
        return self.method, {key: params[key] for key in params if key not in SHARED}


class ERMClassifier(_Named):
    """A linear head by mean cross-entropy: the baseline that learns what predicts on average.

    Yang et al., 2023 (arXiv:2304.03916). Reads no groups; the epoch is chosen by ``select``.

    Example:
        >>> import numpy as np
        >>> from embedcal.estimators import ERMClassifier
        >>> rng = np.random.default_rng(0)
        >>> y, place = rng.integers(0, 2, (2, 200))
        >>> X = rng.normal(size=(200, 4)) + 4 * np.stack([y, y, place, place], axis=1)
        >>> model = ERMClassifier(epochs=5).fit(X, y, place)
        >>> model.labels_used_  # the epoch is chosen by the worst group of the rows set aside
        ('train.y', 'val.g', 'val.y')
    """

    method = "erm"

    def __init__(  # noqa: PLR0913 - an estimator has the parameters that its method has
        self,
        *,
        features: str = "normalised",
        sampler: str = "iid",
        optimizer: str = "adamw",
        lr: float = 0.0,
        weight_decay: float = 1e-4,
        epochs: int = 30,
        batch_size: int = 128,
        select: str | None = None,
        validation_fraction: float = 0.2,
        random_state: Any = 0,
        device: str = "auto",
    ) -> None:
        self.features = features
        self.sampler = sampler
        self.optimizer = optimizer
        self.lr = lr
        self.weight_decay = weight_decay
        self.epochs = epochs
        self.batch_size = batch_size
        self.select = select
        self.validation_fraction = validation_fraction
        self.random_state = random_state
        self.device = device


class GroupDROClassifier(_Named):
    """A linear head that minimises the loss of the group that fares worst.

    Sagawa et al., 2020 (arXiv:1911.08731), algorithm 1. Reads the groups of training rows;
    without any, each class is a group.

    Example:
        >>> import numpy as np
        >>> from embedcal.estimators import GroupDROClassifier
        >>> rng = np.random.default_rng(0)
        >>> y, place = rng.integers(0, 2, (2, 200))
        >>> X = rng.normal(size=(200, 4)) + 4 * np.stack([y, y, place, place], axis=1)
        >>> model = GroupDROClassifier(epochs=5).fit(X, y, groups=place)
        >>> model.predict_proba(X).shape, model.labels_used_
        ((200, 2), ('train.g', 'train.y', 'val.g', 'val.y'))
    """

    method = "group-dro"

    def __init__(  # noqa: PLR0913
        self,
        *,
        variant: str = "wilds",
        eta: float = 0.01,
        adjustment: float = 0.0,
        features: str = "normalised",
        sampler: str = "group",
        optimizer: str = "adamw",
        lr: float = 0.0,
        weight_decay: float = 1e-4,
        epochs: int = 30,
        batch_size: int = 128,
        select: str | None = None,
        validation_fraction: float = 0.2,
        random_state: Any = 0,
        device: str = "auto",
    ) -> None:
        self.variant = variant
        self.eta = eta
        self.adjustment = adjustment
        self.features = features
        self.sampler = sampler
        self.optimizer = optimizer
        self.lr = lr
        self.weight_decay = weight_decay
        self.epochs = epochs
        self.batch_size = batch_size
        self.select = select
        self.validation_fraction = validation_fraction
        self.random_state = random_state
        self.device = device


class AFRClassifier(_Named):
    """A linear head retrained on the rows that a first run is unsure about; reads no groups.

    Qiu et al., 2023 (arXiv:2306.11074).

    Example:
        >>> import numpy as np
        >>> from embedcal.estimators import AFRClassifier
        >>> rng = np.random.default_rng(0)
        >>> y, place = rng.integers(0, 2, (2, 200))
        >>> X = rng.normal(size=(200, 4)) + 4 * np.stack([y, y, place, place], axis=1)
        >>> model = AFRClassifier(epochs=50, select="last").fit(X, y)
        >>> model.epoch_, model.labels_used_
        (50, ('train.y',))
    """

    method = "afr"

    def __init__(  # noqa: PLR0913
        self,
        *,
        variant: str = "paper",
        gamma: float = 8.0,
        penalty: float = 0.0,
        features: str = "normalised",
        lr: float = 0.3,
        epochs: int = 500,
        stage_fraction: float = 0.8,
        stage_epochs: int = 30,
        stage_lr: float = 3e-2,
        select: str | None = None,
        validation_fraction: float = 0.2,
        random_state: Any = 0,
        device: str = "auto",
    ) -> None:
        self.variant = variant
        self.gamma = gamma
        self.penalty = penalty
        self.features = features
        self.lr = lr
        self.epochs = epochs
        self.stage_fraction = stage_fraction
        self.stage_epochs = stage_epochs
        self.stage_lr = stage_lr
        self.select = select
        self.validation_fraction = validation_fraction
        self.random_state = random_state
        self.device = device


class DFRClassifier(_Named):
    """L1 logistic regressions on subsets balanced over groups, averaged: the last layer anew.

    Kirichenko et al., 2023 (arXiv:2204.02937). Variant ``val`` fits validation rows and takes from
    the others their scale alone, so that without ``X_val`` every row is both; without groups,
    subsets are balanced over classes.

    Example:
        >>> import numpy as np
        >>> from embedcal.estimators import DFRClassifier
        >>> rng = np.random.default_rng(0)
        >>> y, place = rng.integers(0, 2, (2, 200))
        >>> X = rng.normal(size=(200, 4)) + 4 * np.stack([y, y, place, place], axis=1)
        >>> model = DFRClassifier(halves=2, refits=4).fit(X, y, groups=place)
        >>> model.score(X, y) > 0.9, model.labels_used_
        (True, ('val.g', 'val.y'))
    """

    method = "dfr"

    def __init__(  # noqa: PLR0913
        self,
        *,
        variant: str = "val",
        features: str = "embedding",
        balance: str = "group",
        c: Sequence[float] = (1.0, 0.7, 0.3, 0.1, 0.07, 0.03, 0.01),
        halves: int = 5,
        refits: int = 0,
        class_weights: str = "off",
        scaler: str = "train",
        validation_fraction: float = 0.2,
        random_state: Any = 0,
    ) -> None:
        self.variant = variant
        self.features = features
        self.balance = balance
        self.c = c
        self.halves = halves
        self.refits = refits
        self.class_weights = class_weights
        self.scaler = scaler
        self.validation_fraction = validation_fraction
        self.random_state = random_state


class LinearProbeClassifier(_Named):
    """CLIP's linear probe: logistic regression with an L2 penalty, to convergence.

    Radford et al., 2021 (arXiv:2103.00020), appendix A.3. Draws nothing and needs no validation
    rows; ``balance="group"`` weighs groups equally, or classes where there are none.

    Example:
        >>> import numpy as np
        >>> from embedcal.estimators import LinearProbeClassifier
        >>> rng = np.random.default_rng(0)
        >>> y, place = rng.integers(0, 2, (2, 200))
        >>> X = rng.normal(size=(200, 4)) + 4 * np.stack([y, y, place, place], axis=1)
        >>> model = LinearProbeClassifier(c=10.0).fit(X, y)
        >>> model.decision_function(X).shape, model.labels_used_
        ((200,), ('train.y',))
    """

    method = "linear-probe"

    def __init__(
        self,
        *,
        c: float = 1.0,
        features: str = "normalised",
        standardise: str = "off",
        balance: str = "none",
        tol: float = 1e-5,
    ) -> None:
        self.c = c
        self.features = features
        self.standardise = standardise
        self.balance = balance
        self.tol = tol
