"""Heads shaped like CLIP: a trained image part, and classes given by text."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from embedcal.heads.base import Head
from embedcal.heads.text import TextSide, prototypes


class ClipHead(Head):
    """logits = exp(s) nrm(z) P^T with z = project(x) the image part and P the class prototypes.

    P come from all templates. Scope ``image`` trains the image part and s against fixed
    prototypes; scope ``image+text_proj`` trains the text projection V as well, and P is
    recomputed from the cached text states in every step. Both encoders stay frozen. A parameter
    that is not trained, s under temperature ``fixed``, is one all the same.
    """

    def __init__(self, side: TextSide) -> None:
        super().__init__()
        trained = side.temperature != "fixed"
        self.logit_scale = nn.Parameter(side.logit_scale, requires_grad=trained)  # ()
        weight = side.text_weight
        self.text_weight = None if weight is None else nn.Parameter(weight)  # (d, wt)
        self.register_buffer("text", side.text)  # (C, d) prototypes, or (C, T, wt) text states
        self.temperature = side.temperature
        self.prototype = side.prototype

    @abstractmethod
    def project(self, x: Tensor) -> Float[Tensor, "n d"]:
        """Features (n, ...) -> image embeddings (n, d), not normalised."""

    def embed(self, x: Tensor) -> Float[Tensor, "n d"]:
        return F.normalize(self.project(x), dim=-1)

    def encode(self, states: Float[Tensor, "P T w"]) -> Float[Tensor, "P T d"]:
        """A bank's text states, as ``text_states`` gives them -> unit embeddings (P, T, d).

        They pass through the current text projection, with gradient, where the scope trains it;
        else they are embeddings already and are normalised only.
        """
        if self.text_weight is not None:
            states = F.linear(states, self.text_weight)
        return F.normalize(states, dim=-1)

    def prototypes(self) -> Float[Tensor, "C d"]:
        """Class prototypes (C, d) from the current text side."""
        text: Tensor = self.get_buffer("text")
        if self.text_weight is None:
            return text
        return prototypes(F.linear(text, self.text_weight), self.prototype)

    def classify(self, z: Float[Tensor, "n d"]) -> Float[Tensor, "n C"]:
        """Image embeddings (n, d) of any length -> logits (n, C)."""
        # nrm(z) P^T, with the division after the product: it falls on (n, C), not on (n, d).
        length = torch.linalg.vector_norm(z, dim=-1, keepdim=True).clamp_min(1e-12)
        logits: Tensor = self.logit_scale.exp() * (z @ self.prototypes().T) / length
        return logits

    def forward(self, x: Tensor) -> Float[Tensor, "n C"]:
        return self.classify(self.project(x))

    @property
    def text_options(self) -> dict[str, Any]:
        """The text side's part of ``config``."""
        return {"temperature": self.temperature, "prototype": self.prototype}
