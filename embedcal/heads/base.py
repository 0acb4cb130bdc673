"""What a head is: features of one level in, logits and unit embeddings out."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, ClassVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from embedcal.types import EmbedcalError, Level

FORMAT = "embedcal-head 1"


class Head(nn.Module, ABC):
    """Features (n, d_in) -> logits (n, C). A head names the level that it eats.

    ``config`` holds what, beside the tensors of ``state_dict``, makes the head again; subclasses
    rebuild themselves from both in ``from_state``.
    """

    name: ClassVar[str]
    level: Level

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """Features (n, d_in) -> logits (n, C)."""

    @abstractmethod
    def embed(self, x: Tensor) -> Tensor:
        """Features (n, d_in) -> unit embeddings (n, d)."""

    @property
    @abstractmethod
    def config(self) -> dict[str, Any]:
        """What beside the tensors makes the head again, as JSON holds it."""

    @classmethod
    @abstractmethod
    def from_state(cls, state: dict[str, Tensor], config: dict[str, Any]) -> Head:
        """The head of ``state_dict`` and ``config``."""


def save_head(head: Head, path: Path) -> None:
    """Write a head as safetensors; the file appears whole or not at all."""
    metadata = {"format": FORMAT, "head": head.name, "config": json.dumps(head.config)}
    part = path.with_name(path.name + ".part")
    tensors = {k: v.detach().cpu().contiguous().clone() for k, v in head.state_dict().items()}
    save_file(tensors, part, metadata=metadata)
    part.replace(path)


def load_head(path: Path) -> Head:
    """Read what :func:`save_head` wrote. Raises EmbedcalError for any other file."""
    from embedcal.heads import HEADS

    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise EmbedcalError(
            f"expected a head saved by embedcal at {path}, found {error}: name a run's "
            "head.safetensors"
        ) from None
    if metadata.get("format") != FORMAT or metadata.get("head") not in HEADS:
        raise EmbedcalError(
            f"expected '{FORMAT}' in {path}, found '{metadata.get('format')}': it is another "
            "file, or a newer embedcal wrote it"
        )
    return HEADS[metadata["head"]].from_state(state, json.loads(metadata["config"]))


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


@torch.no_grad()
def predict(head: Head, x: Tensor, *, batch_size: int = 8192) -> Tensor:
    """Logits (n, C) of many rows, in batches that bound the memory."""
    head.eval()
    return torch.cat([head(part) for part in torch.split(x, batch_size)])
