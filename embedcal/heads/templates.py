"""Zero-shot through few templates, chosen anew for every image by how far they part the classes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from embedcal.heads.base import Head
from embedcal.heads.checked import check_options, check_tensors
from embedcal.types import EmbedcalError

COMBINE = ("cosines", "embeddings")
SHAPES = {"text": "C T d", "logit_scale": ""}
ELEMENTS = 2**22  # cosines worked out at once: 16 MiB


class TemplatesHead(Head):
    """logits = exp(s) times the mean cosine with the K templates of the largest separation.

    The separation of image x under template t is max_c cos(x, e_ct) - min_c cos(x, e_ct); of equal
    ones the first template counts. ``cosines`` averages cosines over the K templates,
    ``embeddings`` the class embeddings e_ct as they are, before one cosine. For K = 1 both are one.
    """

    name = "templates"
    level = "embedding"

    def __init__(self, state: dict[str, Tensor], *, keep: int, combine: str) -> None:
        """``state`` holds every tensor by the names of ``SHAPES``."""
        super().__init__()
        self.text = nn.Parameter(state["text"])  # (C, T, d), not normalised
        self.logit_scale = nn.Parameter(state["logit_scale"])  # ()
        self.keep = keep
        self.combine = combine

    def cosines(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "n C T"]:
        """The cosine of every image with every class in every template."""
        return torch.einsum("nd,ctd->nct", self.embed(x), F.normalize(self.text, dim=-1))

    def chosen(self, x: Float[Tensor, "n d"]) -> Int[Tensor, "n K"]:
        """The templates of every image, that of the largest separation first."""
        return torch.cat([_largest(self.cosines(part), self.keep) for part in self._parts(x)])

    @torch.no_grad()
    def histogram(self, parts: Iterable[Tensor]) -> Int[Tensor, " T"]:
        """For how many images each template is kept; images (n, d) come part by part."""
        found = torch.zeros(self.text.shape[1], dtype=torch.int64, device=self.text.device)
        for part in parts:
            found += torch.bincount(self.chosen(part).flatten(), minlength=len(found))
        return found

    def embed(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        return F.normalize(x, dim=-1)

    def forward(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "n C"]:
        found = torch.cat([self._logits(part) for part in self._parts(x)])
        return self.logit_scale.exp() * found

    def _parts(self, x: Tensor) -> tuple[Tensor, ...]:
        n_classes, n_templates, _ = self.text.shape
        return torch.split(x, max(1, ELEMENTS // (n_classes * n_templates)))

    def _logits(self, x: Tensor) -> Tensor:
        cosines = self.cosines(x)
        chosen = _largest(cosines, self.keep)
        if self.combine == "cosines":
            return cosines.gather(2, chosen[:, None].expand(-1, len(self.text), -1)).mean(2)
        taken = torch.zeros_like(cosines[:, 0]).scatter(1, chosen, 1.0)  # (n, T) of 0 and 1
        along = torch.einsum("nd,ctd,nt->nc", self.embed(x), self.text, taken)
        gram = self.text @ self.text.mT  # (C, T, T)
        squared = torch.einsum("nt,ctu,nu->nc", taken, gram, taken)
        return along / squared.clamp_min(1e-24).sqrt()

    @property
    def config(self) -> dict[str, Any]:
        return {"keep": self.keep, "combine": self.combine}

    @classmethod
    def from_state(cls, state: dict[str, Tensor], config: dict[str, Any]) -> TemplatesHead:
        check_tensors(state, SHAPES)
        check_options(config, {"keep": int, "combine": COMBINE})
        there = state["text"].shape[1]
        if not 1 <= config["keep"] <= there:
            raise EmbedcalError(
                f"expected option 'keep' from 1 to the {there} templates, found {config['keep']}"
            )
        return cls(state, **config)


def _largest(cosines: Tensor, keep: int) -> Tensor:
    """The templates (n, K) whose cosines (n, C, T) lie furthest apart over the classes."""
    separation = cosines.amax(1) - cosines.amin(1)
    order: Tensor = separation.sort(dim=1, descending=True, stable=True).indices
    return order[:, :keep]
