"""A small network on the image embedding, trained against fixed class prompts."""

from __future__ import annotations

import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from embedcal.heads.base import Head
from embedcal.heads.checked import check_options, check_tensors, choice
from embedcal.heads.text import PROTOTYPES, prototypes
from embedcal.types import EmbedcalError, TextBank

SCALE = math.log(100.0)
MOMENTUM = 0.1  # of the running statistics, and the constant beside the variance: torch's own
EPSILON = 1e-5

SHAPES = {
    "first_weight": "h d",
    "norm_weight": "h",
    "norm_bias": "h",
    "running_mean": "h",
    "running_var": "h",
    "last_weight": "d h",
    "last_bias": "d",
    "text": "C d",
    "logit_scale": "",
}


class AdapterHead(Head):
    """logits = exp(s) cos(z, p_c) with z = W2 relu(BN(W1 x)) + b2 + residual x.

    The adapter of Zhang and Re 2022 (arXiv:2207.07180) over the embedding x as the encoder gives
    it, not normalised; the official code adds x to z where asked (residual 1, here 0 by default).
    The prototypes p_c and s = ln 100 are fixed. BN uses the batch's statistics in training and
    the running ones in evaluation. Deviation: one row alone has no variance, so in training it
    is normalised by the running statistics and leaves them as they are.

    A loss over many rows may call the three steps of :meth:`project` apart: ``hidden`` is linear
    and can be shared by all batches that a row is in, ``activate`` depends on the batch.
    """

    name = "adapter"
    level = "embedding"

    def __init__(self, state: dict[str, Tensor], *, residual: float = 0.0) -> None:
        """``state`` holds every tensor by the names of ``SHAPES``."""
        super().__init__()
        self.first_weight = nn.Parameter(state["first_weight"])  # (h, d)
        self.norm_weight = nn.Parameter(state["norm_weight"])  # (h,)
        self.norm_bias = nn.Parameter(state["norm_bias"])  # (h,)
        self.last_weight = nn.Parameter(state["last_weight"])  # (d, h)
        self.last_bias = nn.Parameter(state["last_bias"])  # (d,)
        for name in ("running_mean", "running_var", "text", "logit_scale"):
            self.register_buffer(name, state[name])
        self.residual = residual

    @classmethod
    def start(
        cls,
        bank: TextBank,
        generator: torch.Generator,
        *,
        hidden: int = 128,
        residual: float = 0.0,
        prototype: str = "normalised",
    ) -> AdapterHead:
        """torch's default start of both linear layers: uniform in +-1/sqrt(inputs)."""
        choice("prototype", prototype, PROTOTYPES)
        if hidden < 1:
            raise EmbedcalError(f"expected at least one hidden unit, found {hidden}: take 128")
        text = prototypes(torch.tensor(bank.embedding), prototype)  # (C, d)
        d = text.shape[1]

        def uniform(*shape: int, inputs: int) -> Tensor:
            bound = inputs**-0.5
            return torch.empty(*shape).uniform_(-bound, bound, generator=generator)

        state = {
            "first_weight": uniform(hidden, d, inputs=d),
            "norm_weight": torch.ones(hidden),
            "norm_bias": torch.zeros(hidden),
            "running_mean": torch.zeros(hidden),
            "running_var": torch.ones(hidden),
            "last_weight": uniform(d, hidden, inputs=hidden),
            "last_bias": uniform(d, inputs=hidden),
            "text": text,
            "logit_scale": torch.tensor(SCALE),
        }
        return cls(state, residual=residual)

    def hidden(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "n h"]:
        """W1 x: what stands before the batch norm."""
        return F.linear(x, self.first_weight)

    def activate(self, hidden: Float[Tensor, "n h"]) -> Float[Tensor, "n h"]:
        """relu(BN(hidden)); in training these n rows are the batch, and move the running ones."""
        normalised = F.batch_norm(
            hidden,
            self.get_buffer("running_mean"),
            self.get_buffer("running_var"),
            self.norm_weight,
            self.norm_bias,
            training=self.training and len(hidden) > 1,
            momentum=MOMENTUM,
            eps=EPSILON,
        )
        return F.relu(normalised)

    def output(self, activated: Float[Tensor, "n h"]) -> Float[Tensor, "n d"]:
        """W2 r + b2, not normalised and without the residual."""
        return F.linear(activated, self.last_weight, self.last_bias)

    def project(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        """Image embeddings (n, d) -> adapted ones (n, d), not normalised."""
        z = self.output(self.activate(self.hidden(x)))
        return z + self.residual * x if self.residual else z

    def embed(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        return F.normalize(self.project(x), dim=-1)

    def prototypes(self) -> Float[Tensor, "C d"]:
        """The fixed class prototypes (C, d)."""
        text: Tensor = self.get_buffer("text")
        return text

    def classify(self, z: Float[Tensor, "n d"]) -> Float[Tensor, "n C"]:
        """Adapted embeddings (n, d) of any length -> logits (n, C)."""
        length = torch.linalg.vector_norm(z, dim=-1, keepdim=True).clamp_min(1e-12)
        logits: Tensor = self.get_buffer("logit_scale").exp() * (z @ self.prototypes().T) / length
        return logits

    def forward(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "n C"]:
        return self.classify(self.project(x))

    @property
    def config(self) -> dict[str, Any]:
        return {"residual": self.residual}

    @classmethod
    def from_state(cls, state: dict[str, Tensor], config: dict[str, Any]) -> AdapterHead:
        check_tensors(state, SHAPES)
        check_options(config, {"residual": float})
        if bool((state["running_var"] < 0).any()):
            raise EmbedcalError("expected variances in tensor 'running_var', found negative ones")
        return cls(state, residual=config["residual"])
