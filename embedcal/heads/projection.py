"""CLIP's own last matrices, trained further: what Yang et al. (2023) call the projection."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from embedcal.heads.base import Head
from embedcal.types import EmbedcalError, Projection, TextBank

START_SCALE = math.log(1 / 0.07)  # what the official code starts from, not CLIP's learned 100


def prototypes(embedding: Tensor) -> Tensor:
    """Text embeddings (C, T, d) -> class prototypes (C, d): nrm(mean_t nrm(e_ct)).

    The zero-shot convention: normalise every template, average, normalise the average.
    """
    return F.normalize(F.normalize(embedding, dim=-1).mean(-2), dim=-1)


class ProjectionHead(Head):
    """logits = exp(s) nrm(W x + b) P^T over the pooled image vector x.

    P are the class prototypes of all templates. Scope ``image`` trains W, b and s against fixed
    prototypes; scope ``image+text_proj`` trains the text projection V as well, and P is
    recomputed from the cached text states in every step. Both encoders stay frozen.
    """

    name = "projection"
    level = "pooled"

    def __init__(
        self,
        image_weight: Tensor,
        image_bias: Tensor | None,
        logit_scale: Tensor,
        *,
        text: Tensor,
        text_weight: Tensor | None,
    ) -> None:
        super().__init__()
        self.image_weight = nn.Parameter(image_weight)  # (d, w)
        self.image_bias = None if image_bias is None else nn.Parameter(image_bias)  # (d,)
        self.logit_scale = nn.Parameter(logit_scale)  # ()
        self.text_weight = None if text_weight is None else nn.Parameter(text_weight)  # (d, wt)
        self.register_buffer("text", text)  # (C, d) prototypes, or (C, T, wt) text states

    @classmethod
    def start(cls, projection: Projection, bank: TextBank, *, scope: str) -> ProjectionHead:
        """The pre-trained matrices themselves; only the temperature starts anew, at 1/0.07."""
        bias = projection.image_bias
        if scope == "image":
            text, text_weight = prototypes(torch.tensor(bank.embedding)), None
        elif bank.pooled is not None and projection.text_weight is not None:
            text = torch.tensor(bank.pooled)
            text_weight = torch.tensor(projection.text_weight)
        else:
            raise EmbedcalError(
                "expected text states before their projection for --scope image+text_proj, found "
                "none in the cache: use --scope image"
            )
        return cls(
            torch.tensor(projection.image_weight),
            None if bias is None else torch.tensor(bias),
            torch.tensor(START_SCALE),
            text=text,
            text_weight=text_weight,
        )

    def prototypes(self) -> Tensor:
        """Class prototypes (C, d) from the current text side."""
        text: Tensor = self.get_buffer("text")
        return text if self.text_weight is None else prototypes(F.linear(text, self.text_weight))

    def embed(self, x: Tensor) -> Tensor:
        return F.normalize(F.linear(x, self.image_weight, self.image_bias), dim=-1)

    def forward(self, x: Tensor) -> Tensor:
        # nrm(z) P^T, with the division after the product: it falls on (n, C), not on (n, d).
        z = F.linear(x, self.image_weight, self.image_bias)  # (n, d)
        length = torch.linalg.vector_norm(z, dim=-1, keepdim=True).clamp_min(1e-12)
        logits: Tensor = self.logit_scale.exp() * (z @ self.prototypes().T) / length
        return logits

    @property
    def config(self) -> dict[str, Any]:
        return {}

    @classmethod
    def from_state(cls, state: dict[str, Tensor], config: dict[str, Any]) -> ProjectionHead:
        return cls(
            state["image_weight"],
            state.get("image_bias"),
            state["logit_scale"],
            text=state["text"],
            text_weight=state.get("text_weight"),
        )
