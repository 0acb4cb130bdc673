"""A hidden layer on the image embedding, and a linear classifier on that."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from embedcal.heads.base import Head
from embedcal.heads.checked import check_options, check_tensors
from embedcal.types import EmbedcalError

SHAPES = {"first_weight": "h d", "first_bias": "h", "last_weight": "C h", "last_bias": "C"}


class MlpHead(Head):
    """logits = W2 z + b2 with z = relu(W1 f + b1), f = nrm(x) where ``normalise``, else x.

    For methods that train a representation where a cache has image features alone. The
    representation is nrm(z); the classifier eats z as it is.
    """

    name = "mlp"
    level = "embedding"

    def __init__(self, state: dict[str, Tensor], *, normalise: bool) -> None:
        """``state`` holds every tensor by the names of ``SHAPES``."""
        super().__init__()
        self.first_weight = nn.Parameter(state["first_weight"])  # (h, d)
        self.first_bias = nn.Parameter(state["first_bias"])  # (h,)
        self.last_weight = nn.Parameter(state["last_weight"])  # (C, h)
        self.last_bias = nn.Parameter(state["last_bias"])  # (C,)
        self.normalise = normalise

    @classmethod
    def start(
        cls,
        width: int,
        n_classes: int,
        generator: torch.Generator,
        *,
        hidden: int = 256,
        normalise: bool = True,
    ) -> MlpHead:
        """Weights uniform in +-1/sqrt(inputs), as torch starts a linear layer, and no biases.

        On unit embeddings torch's random biases would outweigh the features, and nrm(z) would
        start nearly equal for all.
        """
        if hidden < 1:
            raise EmbedcalError(f"expected at least one hidden unit, found {hidden}: take 256")

        def uniform(outputs: int, inputs: int) -> Tensor:
            bound = inputs**-0.5
            return torch.empty(outputs, inputs).uniform_(-bound, bound, generator=generator)

        state = {
            "first_weight": uniform(hidden, width),
            "first_bias": torch.zeros(hidden),
            "last_weight": uniform(n_classes, hidden),
            "last_bias": torch.zeros(n_classes),
        }
        return cls(state, normalise=normalise)

    def project(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "n h"]:
        """Image embeddings (n, d) -> hidden units (n, h), not normalised."""
        f = F.normalize(x, dim=-1) if self.normalise else x
        return F.relu(F.linear(f, self.first_weight, self.first_bias))

    def classify(self, z: Float[Tensor, "n h"]) -> Float[Tensor, "n C"]:
        """Hidden units (n, h) -> logits (n, C)."""
        return F.linear(z, self.last_weight, self.last_bias)

    def embed(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "n h"]:
        return F.normalize(self.project(x), dim=-1)

    def forward(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "n C"]:
        return self.classify(self.project(x))

    @property
    def config(self) -> dict[str, Any]:
        return {"normalise": self.normalise}

    @classmethod
    def from_state(cls, state: dict[str, Tensor], config: dict[str, Any]) -> MlpHead:
        check_tensors(state, SHAPES)
        check_options(config, {"normalise": bool})
        return cls(state, normalise=config["normalise"])
