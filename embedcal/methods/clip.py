"""Fine-tuned CLIP: CLIP's own contrastive loss, with each image's label as its caption."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from embedcal.heads import ClipHead, Head, prototypes, text_states
from embedcal.losses import paired
from embedcal.methods.base import CLIP_HEADS, Batch, Gradient, Offer, Step, option
from embedcal.types import EmbedcalError, Task


@dataclass(frozen=True, kw_only=True)
class CLIP(Gradient):
    """Minimises symmetric InfoNCE between a batch's images and captions that name their classes.

    Yang et al., 2023 (arXiv:2304.03916), equation 1. The paper takes all templates and does not say
    how: variant ``paper_mean`` averages an image's captions to one unit vector, ``paper_sampled``
    draws one template for each image of a batch. ``official`` is the released code, which averages
    and leaves the average as it is. In all of them images of one class are each other's negatives,
    so that the loss ends near the logarithm of their number and not at 0. The official runs also
    balance batches over the training groups, which uses their labels: ``--sampler group``.
    """

    name = "clip"
    variants = ("paper_mean", "paper_sampled", "official")

    variant: str = option("paper_mean", "which reading of the paper or its code")
    scope: str = option(
        "image+text_proj",
        "CLIP's heads: train the image projection, or the text projection too",
        choices=("image", "image+text_proj"),
    )

    def resolve(self, offer: Offer) -> Self:
        chosen = super().resolve(offer)
        if chosen.head not in CLIP_HEADS:
            raise EmbedcalError(
                "expected a cache with a projection and class prompts for clip, which compares "
                "images with text, found image features alone: use erm --head linear"
            )
        return chosen

    def prepare(self, task: Task, generator: torch.Generator) -> Tensor:
        """The states (C, T, *) of the class prompts, before what the scope trains."""
        return text_states(task.bank("class"), self.scope)

    def init(self, plan: Tensor) -> Tensor:
        return plan

    def steps(
        self, task: Task, plan: Tensor, epoch: int, generator: torch.Generator
    ) -> Iterator[Step]:
        for step in super().steps(task, plan, epoch, generator):
            if self.variant != "paper_sampled":
                yield step
                continue
            template = torch.randint(plan.shape[1], (len(step.batch),), generator=generator)
            yield replace(step, drawn={"template": template})

    def loss(
        self, head: Head, state: Tensor, batch: Batch, hyper: Mapping[str, Tensor]
    ) -> tuple[Tensor, Tensor]:
        assert isinstance(head, ClipHead)
        text = head.encode(state)  # (C, T, d)
        if self.variant == "paper_sampled":
            captions = text[batch.y, batch.drawn["template"]]
        else:
            kind = "normalised" if self.variant == "paper_mean" else "mean"
            captions = prototypes(text, kind)[batch.y]
        return paired(head.embed(batch.x), captions, head.logit_scale.exp()).mean(), state
