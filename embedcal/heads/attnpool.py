"""A ResNet's whole attention pool, trained further over its tokens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from embedcal.encoders.attnpool import attention_pool
from embedcal.heads.checked import check_options, check_tensors
from embedcal.heads.clip import ClipHead
from embedcal.heads.text import OPTIONS, TextSide
from embedcal.types import EmbedcalError, Projection, TextBank

# open_clip's names; t counts the mean token too.
SHAPES = {
    "positional_embedding": "t w",
    "q_proj.weight": "w w",
    "q_proj.bias": "w",
    "k_proj.weight": "w w",
    "k_proj.bias": "w",
    "v_proj.weight": "w w",
    "v_proj.bias": "w",
    "c_proj.weight": "d w",
    "c_proj.bias": "d",
}


class AttnPoolHead(ClipHead):
    """z = c_proj(attention pool of the tokens x), all of the pool's parameters trained.

    What Yang et al. 2023 (arXiv:2304.03916, section 5.1) train of a ResNet: open_clip's
    ``AttentionPool2d``, for the one query that is kept (see ``attention_pool``). The gradient of
    ``k_proj.bias`` is zero by the mathematics and given as zeros, so that weight decay acts on it.
    """

    name = "attnpool"
    level = "tokens"

    def __init__(self, pool: Mapping[str, Tensor], heads: int, side: TextSide) -> None:
        super().__init__(side)
        self.positional_embedding = nn.Parameter(pool["positional_embedding"])  # (t + 1, w)
        self.q_proj = _linear(pool, "q_proj")
        self.k_proj = _linear(pool, "k_proj")
        self.v_proj = _linear(pool, "v_proj")
        self.c_proj = _linear(pool, "c_proj")  # (d, w)
        self.heads = heads

    @classmethod
    def start(
        cls,
        projection: Projection,
        bank: TextBank,
        *,
        scope: str,
        temperature: str = "trainable",
        prototype: str = "normalised",
    ) -> AttnPoolHead:
        """The pre-trained pool itself; ``TextSide.start`` has the rest.

        Raises EmbedcalError where the cache lacks what an option asks for.
        """
        if not projection.attnpool:
            raise EmbedcalError(
                "expected an attention pool in the cache's projection for --head attnpool, found "
                "none, as in every ViT: use --head projection"
            )
        pool = {name: torch.tensor(array) for name, array in projection.attnpool.items()}
        check_tensors(pool, SHAPES)
        _check_heads(projection.attnpool_heads, pool)
        side = TextSide.start(
            projection, bank, scope=scope, temperature=temperature, prototype=prototype
        )
        return cls(pool, projection.attnpool_heads, side)

    def project(self, x: Float[Tensor, "n t w"]) -> Float[Tensor, "n d"]:
        z: Tensor = self.c_proj(attention_pool(x, dict(self.named_parameters()), self.heads))
        return z

    @property
    def config(self) -> dict[str, Any]:
        return {"heads": self.heads, **self.text_options}

    @classmethod
    def from_state(cls, state: dict[str, Tensor], config: dict[str, Any]) -> AttnPoolHead:
        check_tensors(state, SHAPES | TextSide.shapes(state))
        check_options(config, {"heads": int, **OPTIONS})
        _check_heads(config["heads"], state)
        return cls(state, config["heads"], TextSide.from_state(state, config))


def _linear(pool: Mapping[str, Tensor], name: str) -> nn.Linear:
    weight, bias = pool[f"{name}.weight"], pool[f"{name}.bias"]
    # Nothing is drawn on the meta device: neither time nor the global generator is spent.
    linear = nn.Linear(weight.shape[1], weight.shape[0], device="meta")
    linear.weight, linear.bias = nn.Parameter(weight), nn.Parameter(bias)
    return linear


def _check_heads(heads: int, pool: Mapping[str, Tensor]) -> None:
    width = pool["q_proj.bias"].shape[0]
    if heads < 1 or width % heads:
        raise EmbedcalError(
            f"expected a number of heads that divides the attention pool's width {width}, found "
            f"{heads}"
        )
