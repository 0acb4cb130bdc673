"""Zero-shot CLIP: the class prompts are the classifier."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from embedcal.heads import LinearHead, prototypes
from embedcal.methods._prompts import multiplier
from embedcal.methods._text_solver import TextSolver
from embedcal.methods.base import option
from embedcal.types import Task


@dataclass(frozen=True, kw_only=True)
class ZeroShot(TextSolver):
    """Trains nothing: logits = s nrm(f) W^T with W the averaged prompts of each class.

    Radford et al., 2021 (arXiv:2103.00020), section 3.1.4: w_c = nrm(mean_t nrm(e_ct)). Every
    template of the cache is used unless ``--templates`` says how many of the first to take.
    """

    name = "zeroshot"

    templates: int = option(0, "use only the first so many templates; 0: all")

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"text.class", "projection"})  # the projection for its logit scale

    def solve(self, task: Task, seed: int) -> LinearHead:
        embedding = torch.tensor(task.bank("class").embedding)  # (C, T, d)
        weight = prototypes(embedding) * multiplier(task)
        bias = torch.zeros(len(weight))
        return LinearHead(weight, bias, normalise=True, level="embedding")
