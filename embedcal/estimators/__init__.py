"""Methods as scikit-learn's classifiers, over arrays in memory."""

from embedcal.estimators.classifiers import (
    AFRClassifier,
    DFRClassifier,
    ERMClassifier,
    GroupDROClassifier,
    HeadClassifier,
    LinearProbeClassifier,
)
from embedcal.estimators.scoring import worst_group_score

__all__ = [
    "AFRClassifier",
    "DFRClassifier",
    "ERMClassifier",
    "GroupDROClassifier",
    "HeadClassifier",
    "LinearProbeClassifier",
    "worst_group_score",
]
