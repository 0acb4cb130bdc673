"""A linear map of the image embedding, few directions wide, before a linear classifier."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from embedcal.heads.base import Head
from embedcal.heads.checked import check_options, check_tensors

SHAPES = {"basis": "r d", "change": "r d", "weight": "C d"}


class MappedHead(Head):
    """logits = W nrm(z), z = x + (x B^T) D: along the rows of B the embedding x is changed by D.

    So every map that moves x within a span of r directions and by what lies along it can be
    written: B is a basis of that span. Edits of embeddings by concepts are such maps.
    """

    name = "mapped"
    level = "embedding"

    def __init__(self, state: dict[str, Tensor]) -> None:
        """``state`` holds every tensor by the names of ``SHAPES``."""
        super().__init__()
        self.basis = nn.Parameter(state["basis"])  # (r, d)
        self.change = nn.Parameter(state["change"])  # (r, d)
        self.weight = nn.Parameter(state["weight"])  # (C, d)

    def project(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        """Image embeddings (n, d) -> changed ones (n, d), not normalised."""
        return x + (x @ self.basis.T) @ self.change

    def embed(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        return F.normalize(self.project(x), dim=-1)

    def forward(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "n C"]:
        z = self.project(x)
        length = torch.linalg.vector_norm(z, dim=-1, keepdim=True).clamp_min(1e-12)
        logits: Tensor = z @ self.weight.T / length
        return logits

    @property
    def config(self) -> dict[str, Any]:
        return {}

    @classmethod
    def from_state(cls, state: dict[str, Tensor], config: dict[str, Any]) -> MappedHead:
        check_tensors(state, SHAPES)
        check_options(config, {})
        return cls(state)
