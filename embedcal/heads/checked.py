"""What a head's file may hold: every tensor by name and shape, every option by kind.

What is raised of a file says what was found in it; ``load_head`` adds which file, and what to do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from embedcal.datasets.printable import printable
from embedcal.errors import did_you_mean
from embedcal.types import EmbedcalError

LARGEST = 2**31


def choice(name: str, value: str, choices: Sequence[str]) -> str:
    """``value`` where it is one of ``choices``, the default first; EmbedcalError otherwise."""
    if value in choices:
        return value
    raise EmbedcalError(
        f"expected {name} to be one of {', '.join(choices)}, found '{printable(value)}': "
        + did_you_mean(value, choices, f"take {choices[0]}, the default")
    )


def check_tensors(state: Mapping[str, Tensor], shapes: Mapping[str, str]) -> None:
    """Refuse tensors other than ``shapes`` names, such as ``{"weight": "C d", "bias": "C"}``.

    A letter stands for one size of at least 1, the same wherever it occurs; no letters are a
    scalar. All tensors are float32, or all float64, and finite. Raises EmbedcalError.
    """
    _check_names("tensor", state, shapes)
    dtype = state[next(iter(shapes))].dtype
    sizes: dict[str, int] = {}
    for name, letters in shapes.items():
        tensor, axes = state[name], letters.split()
        if tensor.dtype != dtype or dtype not in (torch.float32, torch.float64):
            raise EmbedcalError(f"expected tensor '{name}' in float32, found {tensor.dtype}")
        if tensor.ndim != len(axes) or not all(
            size >= 1 and sizes.setdefault(axis, size) == size
            for axis, size in zip(axes, tensor.shape, strict=True)
        ):
            known = "".join(f", {axis} = {sizes[axis]}" for axis in axes if axis in sizes)
            raise EmbedcalError(
                f"expected tensor '{name}' of shape ({', '.join(axes)}){known}, found "
                f"{tuple(tensor.shape)}"
            )
        if not bool(torch.isfinite(tensor).all()):
            raise EmbedcalError(f"expected finite numbers in tensor '{name}', found others")


def check_options(
    config: Mapping[str, Any], kinds: Mapping[str, type[bool | int | float] | Sequence[str]]
) -> None:
    """Refuse options other than ``kinds`` names, and values that are not of their kind.

    A kind is a type (numbers are at least 0 and below 2^31) or the strings to choose from.
    Raises EmbedcalError.
    """
    _check_names("option", config, kinds)
    for name, kind in kinds.items():
        value = config[name]
        if not isinstance(kind, type):
            if not isinstance(value, str):
                raise EmbedcalError(f"expected option '{name}' as a string, found another kind")
            if value not in kind:
                raise EmbedcalError(
                    f"expected option '{name}' to be one of {', '.join(kind)}, found "
                    f"'{printable(value)}'"
                )
        elif type(value) is not kind or not 0 <= value < LARGEST:
            raise EmbedcalError(
                f"expected option '{name}' as a valid {kind.__name__}, found "
                f"{printable(repr(value))}"
            )


def _check_names(noun: str, found: Mapping[str, Any], known: Mapping[str, Any]) -> None:
    for name in known:
        if name not in found:
            raise EmbedcalError(f"expected {noun} '{name}', found none of that name")
    for name in found:
        if name not in known:
            raise EmbedcalError(
                f"expected no {noun}s but {', '.join(known) or 'none'}, found '{printable(name)}'"
            )
