"""scikit-learn's own checks of its estimators, all of them but those that are named here."""

from __future__ import annotations

from typing import Any

import pytest
from sklearn.utils.estimator_checks import parametrize_with_checks

from embedcal.estimators import (
    AFRClassifier,
    DFRClassifier,
    ERMClassifier,
    GroupDROClassifier,
    HeadClassifier,
    LinearProbeClassifier,
)

# The checks hand two or three raw features over, whose length matters, and some tens of rows.
QUICK = {"features": "embedding", "lr": 0.1, "epochs": 20}

QUICKEST = [
    ERMClassifier(**QUICK),
    DFRClassifier(halves=1, refits=2, c=(1.0, 0.1)),
    LinearProbeClassifier(features="embedding"),
]
OTHERS = [
    HeadClassifier(options=QUICK),
    GroupDROClassifier(**QUICK),
    AFRClassifier(features="embedding", epochs=20, stage_lr=0.1),
]

# Which checks cannot hold, and why, by their names. They must fail: a reason that is none any more
# is an error.
TEN_ROWS = "ten rows, of which AFR retrains on two: they are of one class, which it refuses"
FAILING: dict[type, dict[str, str]] = {
    AFRClassifier: {
        "check_estimators_nan_inf": TEN_ROWS,
        "check_classifier_data_not_an_array": TEN_ROWS,
    }
}


def failing(estimator: Any) -> dict[str, str]:
    return FAILING.get(type(estimator), {})


@parametrize_with_checks(QUICKEST, expected_failed_checks=failing)
def test_scikit_learn_agrees(estimator: Any, check: Any) -> None:
    check(estimator)


@pytest.mark.slow
@parametrize_with_checks(OTHERS, expected_failed_checks=failing)
def test_scikit_learn_agrees_with_the_others(estimator: Any, check: Any) -> None:
    check(estimator)
