"""What a head is: features of one level in, logits and unit embeddings out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from embedcal.types import EmbedcalError, Level


class Head(nn.Module, ABC):
    """Features (n, d_in) -> logits (n, C). A head names the level that it eats.

    ``config`` holds what, beside the tensors of ``state_dict``, makes the head again; subclasses
    rebuild themselves from both in ``from_state``.
    """

    name: ClassVar[str]
    level: Level

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """Features (n, ...) -> logits (n, C)."""

    @abstractmethod
    def embed(self, x: Tensor) -> Tensor:
        """Features (n, ...) -> unit embeddings (n, d)."""

    @property
    @abstractmethod
    def config(self) -> dict[str, Any]:
        """What beside the tensors makes the head again, as JSON holds it."""

    @classmethod
    @abstractmethod
    def from_state(cls, state: dict[str, Tensor], config: dict[str, Any]) -> Head:
        """The head of ``state_dict`` and ``config``; EmbedcalError for anything else."""


def torch_device(name: str) -> str:
    """``auto`` is CUDA or MPS where torch finds one, else the CPU; other names are checked."""
    if name == "auto":
        if torch.cuda.is_available():
            return "cuda"
        return "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        raise EmbedcalError(
            f"expected a device that torch can use, found '{name}' ({str(error).splitlines()[0]}): "
            "use --device cpu"
        ) from None
    return name
