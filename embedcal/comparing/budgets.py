"""What a method reads, from nothing to everything: rows of one budget are fair rivals."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

KINDS = (
    "nothing",
    "attribute names",
    "class labels",
    "class labels and attribute names",
    "groups of validation images",
    "groups of training images",
)
NOTHING, NAMES, CLASSES, CLASSES_AND_NAMES, VAL_GROUPS, TRAIN_GROUPS = KINDS

# Settings that go by a name of their own; some of them read other labels than their defaults.
EXTRA: tuple[tuple[str, dict[str, Any]], ...] = (
    ("spurious", {"vs_weight": 1.0, "ls_weight": 0.0}),
    ("cfr", {"calibration": "erm"}),
    ("cfr", {"calibration": "none"}),
    ("dfr", {"variant": "train"}),
    ("dfr", {"balance": "class"}),
)


def kind(reads: Iterable[str]) -> str:
    """Which of ``KINDS`` it is to read these arrays, in the words of a method's needs.

    Class prompts are what the classes are called, and count as nothing. Every other prompt says
    what else is in the pictures, and counts as the names of attributes.
    """
    read = {name.partition(" ")[0] for name in reads}  # without what labels are inferred
    if read & {"train.g", "train.a"}:
        return TRAIN_GROUPS
    if any(name.endswith((".g", ".a")) for name in read):
        return VAL_GROUPS
    named = any(name.startswith("text.") and name != "text.class" for name in read)
    if any(name.endswith(".y") for name in read):
        return CLASSES_AND_NAMES if named else CLASSES
    return NAMES if named else NOTHING
