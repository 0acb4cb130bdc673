"""Classes under every context, weighed by how likely the context is for the image."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from embedcal.heads.base import Head
from embedcal.heads.checked import check_options, check_tensors
from embedcal.types import EmbedcalError

INFER = ("with-class", "alone")
SHAPES = {"text": "C Z d", "logit_scale": ""}


class ContextHead(Head):
    """logits = log P(y|x), P(y|x) = sum_z P(z|x) P(y|x,z), with a text row for every (y, z).

    With f(y,z) = exp(s) cos(x, e_yz), P(y|x,z) is its softmax over y. P(z|x) is, with a temperature
    T, the softmax over z of logsumexp_y f(y,z)/T (``with-class``), or of exp(s) cos(x, c_z)/T with
    rows c_z for contexts alone (``alone``). Sums are of logarithms, so that nothing overflows.
    """

    name = "context"
    level = "embedding"

    def __init__(self, state: dict[str, Tensor], *, infer: str, temperature: float) -> None:
        """``state`` holds tensors by the names of ``SHAPES``, and ``contexts`` (Z, d) for alone."""
        super().__init__()
        self.text = nn.Parameter(state["text"])  # (C, Z, d) unit rows
        self.logit_scale = nn.Parameter(state["logit_scale"])  # ()
        contexts = state.get("contexts")
        self.contexts = None if contexts is None else nn.Parameter(contexts)  # (Z, d) unit rows
        self.infer = infer
        self.temperature = temperature

    def scores(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "n C Z"]:
        """f(y,z): the scaled cosine of every image with every class under every context."""
        found: Tensor = self.logit_scale.exp() * torch.einsum(
            "nd,czd->ncz", self.embed(x), self.text
        )
        return found

    def _contexts(self, x: Tensor, scores: Tensor) -> Tensor:
        """log P(z|x)."""
        if self.contexts is None:
            about = torch.logsumexp(scores / self.temperature, dim=1)
        else:
            about = self.logit_scale.exp() * self.embed(x) @ self.contexts.T / self.temperature
        return F.log_softmax(about, dim=1)

    def embed(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        return F.normalize(x, dim=-1)

    def forward(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "n C"]:
        scores = self.scores(x)
        classes = F.log_softmax(scores, dim=1)  # log P(y|x,z)
        logits: Tensor = torch.logsumexp(classes + self._contexts(x, scores)[:, None], dim=2)
        return logits

    @property
    def config(self) -> dict[str, Any]:
        return {"infer": self.infer, "temperature": self.temperature}

    @classmethod
    def from_state(cls, state: dict[str, Tensor], config: dict[str, Any]) -> ContextHead:
        check_options(config, {"infer": INFER, "temperature": float})
        alone = {"contexts": "Z d"} if config["infer"] == "alone" else {}
        check_tensors(state, SHAPES | alone)
        if config["temperature"] == 0:
            raise EmbedcalError("expected option 'temperature' above 0, found 0.0")
        return cls(state, **config)
