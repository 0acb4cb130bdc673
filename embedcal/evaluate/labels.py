"""Labels of any kind, as people have them, to numbers from 0 and their names.

NumPy arrays, lists, pandas (categories keep their order, missing values are unknown) and torch
tensors on any device. Neither torch nor pandas is imported for those who do not use it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from embedcal.types import EmbedcalError, IntArray

BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class Labels:
    """Numbers (n,) from 0, -1 where unknown, and the K ``values`` that they stand for."""

    codes: IntArray
    values: npt.NDArray[Any]

    def __len__(self) -> int:
        return len(self.codes)

    @property
    def names(self) -> tuple[str, ...]:
        """The values as text."""
        return tuple(str(value) for value in self.values.tolist())


def plain(values: Any) -> Any:
    """A torch tensor as a NumPy array, on whatever device it was; all else as it is."""
    if not hasattr(values, "detach"):
        return values
    values = values.detach().cpu()
    if str(values.dtype) == "torch.bfloat16":  # NumPy has no such type
        values = values.float()
    return values.numpy()


def array_of(values: Any, what: str) -> npt.NDArray[Any]:
    """Whatever is like an array as one; lists with text in them as Python's own objects."""
    try:
        found = np.asarray(plain(values))
        mixed = isinstance(values, list | tuple) and found.dtype.kind == "U"
        return np.asarray(values, dtype=object) if mixed else found
    except ValueError:
        raise EmbedcalError(
            f"expected {what} as an array, found rows of different lengths: pass one label, or one "
            "score a class, for each row"
        ) from None


def labels_of(values: Any, what: str, unknown: int | None = None) -> Labels:
    """A vector of labels (n,), whole numbers or text, as numbers in the order of their values.

    The values are those that occur, sorted, or the categories of a pandas column in their order.
    Unknown are None, NaN, pandas' NA, and the number ``unknown``. ``what`` names the vector in
    errors. EmbedcalError for another shape, and for what is neither text nor whole numbers.
    """
    kinds = getattr(values, "cat", None)  # of a pandas column of categories
    if kinds is not None:
        categories, _ = _vector(kinds.categories, what)
        kept = np.ones(len(categories), bool)
        if unknown is not None and not is_text(categories):
            kept = categories != unknown
        places = np.append(np.where(kept, np.cumsum(kept) - 1, -1), -1)  # a missing value is -1
        return Labels(codes=places[np.asarray(kinds.codes)], values=categories[kept])
    found, known = _vector(values, what)
    if unknown is not None and not is_text(found):
        known = known & (found != unknown)
    kept, codes = np.unique(found[known], return_inverse=True)
    everywhere = np.full(len(found), -1)
    everywhere[known] = codes
    return Labels(codes=everywhere, values=kept)


def product(parts: Mapping[str, Any]) -> Labels:
    """Attributes by name, several as the product of their values: the last runs fastest.

    A row that lacks one of them is unknown; -1 is, too. EmbedcalError for none, and for vectors
    of unequal lengths.
    """
    whole: Labels | None = None
    for name, values in parts.items():
        part = labels_of(values, f"attribute '{name}'", unknown=-1)
        if whole is None:
            whole = part
            continue
        if len(part) != len(whole):
            raise EmbedcalError(
                f"expected {len(whole)} values of '{name}', as of the attributes before it, found "
                f"{len(part)}: pass columns of one table"
            )
        known = (whole.codes >= 0) & (part.codes >= 0)
        codes = np.where(known, whole.codes * len(part.values) + part.codes, -1)
        pairs = [f"{left}, {right}" for left in whole.names for right in part.names]
        whole = Labels(codes=codes, values=np.asarray(pairs, dtype=np.str_))
    if whole is None:
        raise EmbedcalError("expected at least one attribute, found none: leave attributes out")
    return whole


def columns(values: Any) -> Mapping[str, Any]:
    """Attributes by name: a table's columns, a mapping as it is, or one vector."""
    if isinstance(values, Mapping):
        return values
    if hasattr(values, "columns"):
        return {str(name): values[name] for name in values.columns}
    return {str(getattr(values, "name", None) or "attribute"): values}


def placed(labels: Labels, values: npt.NDArray[Any], what: str) -> IntArray:
    """The place (n,) of each label in ``values`` (K,); EmbedcalError for one that is not there."""
    if len(labels.values) == 0:
        return labels.codes
    if len(values) == 0:
        raise EmbedcalError(f"expected {what} among the classes, found no class: name every class")
    if is_text(labels.values) != is_text(values):
        kinds = ("numbers", "text")
        raise EmbedcalError(
            f"expected {what} to be {kinds[is_text(values)]} as the others are, found "
            f"{kinds[is_text(labels.values)]}: pass labels of one kind"
        )
    order = np.argsort(values, kind="stable")
    at = np.searchsorted(values, labels.values, sorter=order).clip(max=len(values) - 1)
    found: IntArray = order[at]
    strange = labels.values[values[found] != labels.values]
    if len(strange):
        known = ", ".join(str(value) for value in values[:10].tolist())
        raise EmbedcalError(
            f"expected {what} among the classes {known}, found {strange[0]}: correct it, or name "
            "every class"
        )
    return np.where(labels.codes >= 0, found[labels.codes], -1)


def is_text(values: npt.NDArray[Any]) -> bool:
    """Whether labels are text and not numbers."""
    return values.dtype.kind == "U"


def _vector(values: Any, what: str) -> tuple[npt.NDArray[Any], BoolArray]:
    """A vector (n,) of text or of int64, and which of it is known."""
    found = array_of(values, what)
    if found.ndim != 1:
        raise EmbedcalError(
            f"expected {what} as one label a row, found shape {found.shape}: pass a vector"
        )
    known = np.ones(len(found), bool)
    if found.dtype == object:
        from pandas import isna

        known = ~np.asarray(isna(found))
        found = _of_objects(found, known, what)
    elif found.dtype.kind == "f":
        known = ~np.isnan(found)
    if found.dtype.kind in "US":
        return found.astype(np.str_), known
    if found.dtype.kind not in "biuf":
        raise EmbedcalError(
            f"expected {what} as text or whole numbers, found {found.dtype}: pass one label a row"
        )
    whole = np.where(known, found, 0)
    with np.errstate(invalid="ignore"):
        numbers = whole.astype(np.int64)
    if (wrong := numbers != whole).any():
        raise EmbedcalError(
            f"expected {what} as text or whole numbers, found {whole[wrong][0]:g}: pass one label "
            "a row; scores are one row for each and one column a class"
        )
    return numbers, known


def _of_objects(found: npt.NDArray[Any], known: BoolArray, what: str) -> npt.NDArray[Any]:
    """Python objects (n,) as an array of one type; unknown ones are empty text, or zero."""
    some = found[known].tolist()
    if len({isinstance(value, str) for value in some}) > 1:
        raise EmbedcalError(
            f"expected {what} as text or as whole numbers, found both: pass labels of one kind"
        )
    kept = np.asarray(some) if some else np.zeros(0, np.int64)
    if kept.ndim != 1 or kept.dtype == object:
        raise EmbedcalError(
            f"expected {what} as text or whole numbers, found {type(some[0]).__name__}: pass one "
            "label a row"
        )
    whole = np.zeros(len(found), kept.dtype)
    whole[known] = kept
    return whole
