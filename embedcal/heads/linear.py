"""A linear classifier on the image embedding (or on the pooled vector)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from embedcal.heads.base import Head
from embedcal.heads.checked import check_options, check_tensors
from embedcal.types import LEVELS, Level


class LinearHead(Head):
    """logits = W f + b with f = nrm(x) where ``normalise``, else x.

    Zero-shot is such a head (W the scaled class prototypes, no bias), a linear probe another,
    DFR's averaged logistic regression, with its scaler folded into W and b, a third.
    """

    name = "linear"

    def __init__(self, weight: Tensor, bias: Tensor, *, normalise: bool, level: Level) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)  # (C, d)
        self.bias = nn.Parameter(bias)  # (C,)
        self.normalise = normalise
        self.level = level

    @classmethod
    def start(
        cls, width: int, n_classes: int, generator: torch.Generator, *, normalise: bool
    ) -> LinearHead:
        """torch's default start of a linear layer: uniform in +-1/sqrt(width)."""
        bound = width**-0.5
        weight = torch.empty(n_classes, width).uniform_(-bound, bound, generator=generator)
        bias = torch.empty(n_classes).uniform_(-bound, bound, generator=generator)
        return cls(weight, bias, normalise=normalise, level="embedding")

    def forward(self, x: Tensor) -> Tensor:
        if not self.normalise:
            return F.linear(x, self.weight, self.bias)
        # W nrm(x), with the division after the product: it falls on (n, C), not on (n, d).
        length = torch.linalg.vector_norm(x, dim=-1, keepdim=True).clamp_min(1e-12)
        logits: Tensor = x @ self.weight.T / length + self.bias
        return logits

    def embed(self, x: Tensor) -> Tensor:
        return F.normalize(x, dim=-1)

    @property
    def config(self) -> dict[str, Any]:
        return {"normalise": self.normalise, "level": self.level}

    @classmethod
    def from_state(cls, state: dict[str, Tensor], config: dict[str, Any]) -> LinearHead:
        check_tensors(state, {"weight": "C d", "bias": "C"})
        check_options(config, {"normalise": bool, "level": LEVELS})
        return cls(state["weight"], state["bias"], **config)
