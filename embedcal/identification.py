"""How well a method that is told no groups found the rare ones: recall and precision of its marks.

The method says which rows it took for rare; the groups are looked up here, where it cannot see
them. Shapes: n rows, C classes, A attribute values.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from embedcal.methods.base import Marks, Method
from embedcal.types import EmbedcalError, IntArray
from embedcal.workbench import Workbench

Mask = npt.NDArray[np.bool_]


def rare_groups(counts: IntArray) -> Mask:
    """Which groups (C * A,) are rare, from the training rows of each (C, A).

    Those with less than half of the mean rows of the groups of their class that have any. So of two
    groups the smaller one is rare where it has less than a quarter of its class.
    """
    there = (counts > 0).sum(1, keepdims=True)
    rare: Mask = (2 * there * counts < counts.sum(1, keepdims=True)).ravel()
    return rare


def identified(marks: Marks, method: Method, on: Workbench) -> dict[str, Any]:
    """What a record says of the rows that a method marked.

    How many of how many; and where the groups of some are known, over rows of known group:
    ``recall``, the share of the rare ones that it marked, ``precision``, the share of rare ones in
    what it marked, and ``share``, that in all that it chose from: the precision of marks at random.
    None where there is nothing to divide by. EmbedcalError for marks that are no positions.
    """
    examples = on.split(marks.split, method.level)
    groups = examples.g if "g" in examples else np.full(len(examples), -1)
    by_group = {f"{marks.split}.a", f"{marks.split}.g"} & method.needs
    groups = groups[groups >= 0] if by_group else groups  # what the method sees
    marked = _mask(marks.rows, len(groups), marks, method)
    among = marked | True
    if marks.among is not None:
        among = marked | _mask(marks.among, len(groups), marks, method)
    found: dict[str, Any] = {
        "split": marks.split,
        "marked": int(marked.sum()),
        "among": int(among.sum()),
    }
    counts = on.strata(marks.split, method.level).train_group_counts
    if counts is None:
        return found
    is_rare = rare_groups(counts)
    known = groups >= 0
    rare = known & is_rare[groups]
    return found | {
        "rare_groups": np.flatnonzero(is_rare).tolist(),
        "rare": int((rare & among).sum()),
        "recall": _share(rare & marked, rare & among),
        "precision": _share(rare & marked, known & marked),
        "share": _share(rare & among, known & among),
    }


def _share(part: Mask, whole: Mask) -> float | None:
    return float(part.sum() / whole.sum()) if whole.any() else None


def _mask(rows: IntArray, n: int, marks: Marks, method: Method) -> Mask:
    """Which of n rows (n,) are among these positions, each of them counted once."""
    positions = np.asarray(rows)
    whole = positions.dtype.kind in "iu" or len(positions) == 0
    if not whole or (len(positions) and not 0 <= positions.min() <= positions.max() < n):
        found = f"from {positions.min()} to {positions.max()}" if whole else positions.dtype
        raise EmbedcalError(
            f"expected marks of {method.name} to be positions in {marks.split}, 0 to {n - 1}, "
            f"found {found}: give row numbers as task.{marks.split} has them"
        )
    mask = np.zeros(n, bool)
    mask[positions.astype(np.int64)] = True
    return mask
