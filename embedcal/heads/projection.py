"""CLIP's own last matrices, trained further: what Yang et al. (2023) call the projection."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from embedcal.heads.checked import check_options, check_tensors
from embedcal.heads.clip import ClipHead
from embedcal.heads.text import DEFAULTS, OPTIONS, TextSide
from embedcal.types import Projection, TextBank


class ProjectionHead(ClipHead):
    """z = W x + b over the pooled image vector x.

    The whole projection of a vision transformer (Yang et al. 2023, arXiv:2304.03916, section
    5.1); of a ResNet the output matrix of its attention pool alone.
    """

    name = "projection"
    level = "pooled"

    def __init__(self, image_weight: Tensor, image_bias: Tensor | None, side: TextSide) -> None:
        super().__init__(side)
        self.image_weight = nn.Parameter(image_weight)  # (d, w)
        self.image_bias = None if image_bias is None else nn.Parameter(image_bias)  # (d,)

    @classmethod
    def start(
        cls,
        projection: Projection,
        bank: TextBank,
        *,
        scope: str,
        temperature: str = "trainable",
        prototype: str = "normalised",
    ) -> ProjectionHead:
        """The pre-trained matrices themselves; ``TextSide.start`` has the rest.

        Raises EmbedcalError where the cache lacks what an option asks for.
        """
        bias = projection.image_bias
        return cls(
            torch.tensor(projection.image_weight),
            None if bias is None else torch.tensor(bias),
            TextSide.start(
                projection, bank, scope=scope, temperature=temperature, prototype=prototype
            ),
        )

    def project(self, x: Float[Tensor, "n w"]) -> Float[Tensor, "n d"]:
        return F.linear(x, self.image_weight, self.image_bias)

    @property
    def config(self) -> dict[str, Any]:
        return self.text_options

    @classmethod
    def from_state(cls, state: dict[str, Tensor], config: dict[str, Any]) -> ProjectionHead:
        bias = {"image_bias": "d"} if "image_bias" in state else {}
        check_tensors(state, {"image_weight": "d w", **bias, **TextSide.shapes(state)})
        config = {**DEFAULTS, **config}  # older files have no options
        check_options(config, OPTIONS)
        side = TextSide.from_state(state, config)
        return cls(state["image_weight"], state.get("image_bias"), side)
