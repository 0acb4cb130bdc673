"""SAGE: zero-shot through the template that parts the classes the most, for every image its own."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from embedcal.heads import Head, LinearHead, TemplatesHead
from embedcal.methods._bounds import at_least
from embedcal.methods._prompts import multiplier
from embedcal.methods._text_solver import FromBanks
from embedcal.methods._unit import unit
from embedcal.methods.base import option
from embedcal.types import EmbedcalError, FloatArray, IntArray, Task

log = logging.getLogger(__name__)
MOST = 5  # templates in the record of a run


@dataclass(frozen=True, kw_only=True)
class SAGE(FromBanks):
    """Trains nothing: zero-shot through the K templates that part the classes of an image the most.

    Ye et al., 2025 (arXiv:2511.13005), read in its abstract and its code. The separation of image x
    under template t is max_c cos(x, e_ct) - min_c cos(x, e_ct). The K templates of the largest
    separation are kept and their cosines averaged; variant ``official`` averages the class
    embeddings instead, as they are, before one cosine. For K = 1, the default, both are one.

    Ours: ``--scope split`` keeps the K templates of the largest mean separation over the images of
    train, without a label, for all images alike; ``text`` those whose class prompts lie furthest
    apart, without any image; ``random`` draws K by the seed. They, and ``--keep 0`` for all
    templates, are controls: does it take a template for each image? A run's record says how many
    templates were kept for some image, and which most often: for two classes the separation is the
    margin, so that one template that leans to a class may be kept for nearly all images.
    """

    name = "sage"
    variants = ("paper", "official")

    keep: int = option(1, "K: how many templates are kept; 0: all", grid=(1, 5, 20, 0))
    scope: str = option(
        "image",
        "templates chosen for every image, for the split, by the text alone, or at random",
        choices=("image", "split", "text", "random"),
    )
    templates: int = option(0, "choose among the first so many templates; 0: all")

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self, keep=0)

    @property
    def random(self) -> bool:  # type: ignore[override]
        return self.scope == "random"

    @property
    def head_name(self) -> str:
        return "templates" if self.scope == "image" else "linear"

    @property
    def banks(self) -> tuple[str, ...]:
        return ("class",)

    @property
    def needs(self) -> frozenset[str]:
        return super().needs | ({"train.x"} if self.scope == "split" else set())

    def solve(self, task: Task, seed: int) -> Head:
        text = task.bank("class").embedding.astype(np.float64)  # (C, T, d)
        n_templates = text.shape[1]
        if self.keep > n_templates:
            raise EmbedcalError(
                f"expected --keep of at most the {n_templates} templates of the cache, found "
                f"{self.keep}: keep fewer, or cache with more templates"
            )
        keep = self.keep or n_templates
        scale = multiplier(task)
        if self.scope == "image":
            state = {"text": torch.tensor(text).float(), "logit_scale": scale.log()}
            combine = "embeddings" if self.variant == "official" else "cosines"
            return TemplatesHead(state, keep=keep, combine=combine)
        chosen = self._chosen(task, text, keep, seed)
        names = task.bank("class").templates or task.bank("class").descriptions[0]
        log.info("sage keeps %s", "; ".join(names[t] for t in chosen))
        if self.variant == "official":
            rows = unit(text[:, chosen].mean(1))
        else:
            rows = unit(text)[:, chosen].mean(1)
        weight = torch.tensor(rows).float() * scale
        return LinearHead(weight, torch.zeros(len(weight)), normalise=True, level="embedding")

    def account(self, head: Head, parts: Iterable[Tensor]) -> Mapping[str, Any]:
        """Of templates chosen for each image: how many are, and those kept for the most images."""
        if not isinstance(head, TemplatesHead):
            return {}
        counts = head.histogram(parts).cpu().numpy()
        order = np.argsort(-counts, kind="stable")[:MOST]
        images, used = int(counts.sum()) // head.keep, int((counts > 0).sum())
        log.info(
            "sage keeps %d of %d templates, number %d for %d of %d images",
            used, len(counts), order[0], counts[order[0]], images,
        )  # fmt: skip
        most = [{"template": int(t), "images": int(counts[t])} for t in order if counts[t]]
        return {"images": images, "templates": len(counts), "kept": used, "most": most}

    def _chosen(self, task: Task, text: FloatArray, keep: int, seed: int) -> IntArray:
        """The templates (K,) for all images, the best first; equal ones in their order."""
        if self.scope == "random":
            found: IntArray = np.random.default_rng(seed).permutation(text.shape[1])[:keep]
            return found
        rows = unit(text)
        if self.scope == "split":
            score = separations(unit(task.train.x), rows).mean(0)
        else:
            mean = rows.mean(0)  # (T, d): the mean cosine of two classes follows from its length
            n_classes = len(rows)
            score = -(n_classes * (mean**2).sum(1) - 1) / max(1, n_classes - 1)
        best: IntArray = np.argsort(-score, kind="stable")[:keep]
        return best


def separations(x: FloatArray, rows: FloatArray) -> FloatArray:
    """max_c x.e_ct - min_c x.e_ct (n, T) of unit images (n, d) and unit class rows (C, T, d)."""
    highest = lowest = x @ rows[0].T
    for row in rows[1:]:  # class by class: (n, C, T) at once would be much memory
        cosines = x @ row.T
        highest, lowest = np.maximum(highest, cosines), np.minimum(lowest, cosines)
    found: FloatArray = highest - lowest
    return found
