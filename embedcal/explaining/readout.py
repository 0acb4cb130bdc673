"""How a head reads an encoder: from its last tokens or pooled vector to logits."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from embedcal.runs import Run, check_over
from embedcal.types import EmbedcalError, Projection

if TYPE_CHECKING:
    from torch import Tensor

    from embedcal.cache import FeatureCache
    from embedcal.heads import Head


@dataclass(frozen=True)
class Readout:
    """Pooled vectors (n, w) -> logits (n, K), and the attention pool before it in a ResNet.

    ``pool`` and ``heads`` are what ``attention_pool`` takes: those of the encoder, or those of a
    head that trained them. Both are empty without an attention pool.
    """

    logits: Callable[[Tensor], Tensor]
    pool: Mapping[str, Tensor] = field(default_factory=dict)
    heads: int = 0

    def of_trunk(self, out: Tensor) -> Tensor:
        """Logits (b, K) of what a trunk gives, with gradients: (b, w, h, w') of a ResNet, which are
        pooled, or (b, w)."""
        from embedcal.encoders.attnpool import attention_pool

        if self.heads:
            out = attention_pool(out.flatten(2).transpose(1, 2), self.pool, self.heads)
        return self.logits(out)

    def from_tokens(self, tokens: Tensor, classes: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Maps (b, C, s, s), not normalised, and logits (b, K) of tokens (b, s * s, w)."""
        import torch

        from embedcal.encoders.attnpool import attention_pool
        from embedcal.explaining.gradcam import class_gradients, class_maps, pool_alphas

        with torch.no_grad():
            pooled = attention_pool(tokens, self.pool, self.heads)
        with torch.enable_grad():
            leaf = pooled.requires_grad_()
            logits = self.logits(leaf)
            gradients = class_gradients(logits, leaf, classes)
        side = round(tokens.shape[1] ** 0.5)
        with torch.no_grad():
            alpha = pool_alphas(tokens, self.pool, self.heads, gradients)
            return class_maps(tokens, alpha, (side, side)), logits.detach()


def readout(head: Head, projection: Projection | None, device: str) -> Readout:
    """How ``head`` reads tokens or pooled vectors of an encoder with this projection.

    The head is moved to the device, set to evaluation and freed of gradients of its own. Raises
    EmbedcalError where the cache lacks what stands between tokens and head.
    """
    import torch
    from torch.nn import functional as F

    from embedcal.heads import AttnPoolHead

    if projection is None:
        raise EmbedcalError(
            "expected a projection in the cache for Grad-CAM, found none: cache with a ViT or a "
            "ResNet of CLIP's"
        )
    head = head.to(device).eval().requires_grad_(requires_grad=False)
    if isinstance(head, AttnPoolHead):
        own = {name: value.detach() for name, value in head.named_parameters()}
        return Readout(lambda pooled: head.classify(head.c_proj(pooled)), own, head.heads)
    if head.level == "tokens":
        raise EmbedcalError(
            f"expected a head on embeddings, on pooled vectors, or the attention pool, found "
            f"'{head.name}' on tokens: explain a run with another head"
        )
    pool = {k: torch.tensor(v, device=device) for k, v in projection.attnpool.items()}
    if head.level == "pooled":
        return Readout(head, pool, projection.attnpool_heads)
    weight = torch.tensor(projection.image_weight, device=device)
    given = projection.image_bias
    bias = None if given is None else torch.tensor(given, device=device)
    return Readout(
        lambda pooled: head(F.linear(pooled, weight, bias)), pool, projection.attnpool_heads
    )


def head_of(run: Run | None, cache: FeatureCache) -> Head:
    """The head that a run keeps, or zero-shot's. Refuses a run of other labels or features."""
    if run is None:
        from embedcal.methods.zeroshot import ZeroShot
        from embedcal.types import Examples, Task

        task = Task(  # it reads no rows
            train=Examples(split="train", arrays={}),
            val=Examples(split="val", arrays={}),
            text={"class": cache.text("class")},
            projection=cache.projection(),
            n_classes=cache.n_classes,
            n_attributes=1,
        )
        return ZeroShot().solve(task, 0)
    check_over(run, cache)
    return run.head()
