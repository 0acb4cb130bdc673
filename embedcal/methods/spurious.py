"""Contrastive language and image losses that part classes, and spurious attributes, from others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple, Self

import numpy as np
import torch
from torch import Tensor

from embedcal.heads import ClipHead, Head, prototypes, text_states
from embedcal.losses import (
    cross_entropy,
    image_contrast,
    language_contrast,
    official_cross,
    official_domain,
    official_image,
    official_language,
    official_spurious_cross,
    official_spurious_language,
    official_spurious_vision,
    official_tracker,
    paired,
)
from embedcal.methods.base import CLIP_HEADS, Batch, Gradient, Offer, option
from embedcal.types import EmbedcalError, Task


class State(NamedTuple):
    """Text states (prompts, templates, *) of each bank in use, and the number A of values."""

    texts: dict[str, Tensor]
    n_attributes: Tensor


@dataclass(frozen=True, kw_only=True)
class Spurious(Gradient):
    """Minimises L_CLIP + L_lc + L_vc + L_ls + L_vs, each with its weight; 0 leaves a term out.

    Yang et al., 2023 (arXiv:2304.03916), equations 1 and 3 to 6. L_vc parts the images of different
    classes, L_lc their prompts; L_vs parts the images of different attribute values, L_ls the
    prompts that name them. The paper adds either L_ls, which needs the values' names alone and is
    the default here, or L_vs, which needs every training image's value. All terms share the
    temperature. Open in the paper and options here: whether L_vs means attribute values or groups,
    whether L_ls parts values from each other or from classes, whether an image is its own positive.

    Variant ``official`` is what the released code computes, mistakes included: no contrast but
    means of cosines, L_vc without classes, L_lc and L_ls over the wrong prompts, L_vs a classifier
    of the attribute; ``official_fixed`` what it evidently meant. Their weights of L_ls and L_lc are
    independent here, and the terms that are off in every published command are options too.
    ``--tracker on`` adds what its ``--use_wandb`` adds to L_ls. The official runs balance
    batches over the training groups: ``--sampler group``.
    """

    name = "spurious"
    revision = 2  # language terms without masks: other rounding
    variants = ("paper", "official", "official_fixed")

    scope: str = option(
        "image+text_proj",
        "CLIP's heads: train the image projection, or the text projection too",
        choices=("image", "image+text_proj"),
    )
    clip_weight: float = option(1.0, "weight of L_CLIP", hyper=True)
    lc_weight: float = option(1.0, "weight of L_lc: class prompts", grid=(0.0, 1.0), hyper=True)
    vc_weight: float = option(1.0, "weight of L_vc: images by class", grid=(0.0, 1.0), hyper=True)
    ls_weight: float = option(1.0, "weight of L_ls: attribute prompts", grid=(0.0, 1.0), hyper=True)
    vs_weight: float = option(
        0.0, "weight of L_vs: images by attribute", grid=(0.0, 1.0), hyper=True
    )
    ce_weight: float = option(0.0, "weight of a cross-entropy over the classes", hyper=True)
    vs_sets: str = option(
        "attribute", "L_vs: images of one value, or of one group", choices=("attribute", "group")
    )
    ls_form: str = option(
        "attribute",
        "L_ls: part attribute prompts from each other, or class prompts from them",
        choices=("attribute", "class_x_attribute"),
    )
    include_self: str = option(
        "off", "L_vc and L_vs: an image is its own positive", choices=("off", "on")
    )
    pos_weight: float = option(1.0, "official variants: weight of likeness within", hyper=True)
    neg_weight: float = option(1.0, "official variants: weight of likeness across", hyper=True)
    tracker: str = option(
        "off", "official: the term that its --use_wandb adds", choices=("off", "on")
    )
    diagonal: str = option(
        "off",
        "official variants: L_ls compares prompts of one number (diag_spurious)",
        choices=("off", "on"),
    )
    domain_weight: float = option(0.0, "official variants: context prompts as L_lc", hyper=True)
    cross_weight: float = option(0.0, "official variants: images with prompts", hyper=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        of_code = {"tracker": "off", "diagonal": "off", "domain_weight": 0, "cross_weight": 0}
        if self.variant == "official":
            return
        if self.variant == "official_fixed":
            of_code = {"tracker": "off"}
        for name, off in of_code.items():
            if getattr(self, name) != off:
                raise EmbedcalError(
                    f"expected --variant official for --{name.replace('_', '-')}, found "
                    f"{self.variant}: the term is the released code's alone"
                )

    def resolve(self, offer: Offer) -> Self:
        chosen = super().resolve(offer)
        if chosen.head not in CLIP_HEADS:
            raise EmbedcalError(
                "expected a cache with a projection and class prompts for spurious, which "
                "compares images with text, found image features alone: use group-dro or dfr"
            )
        if not self._trains:
            raise EmbedcalError(
                f"expected a term of spurious that depends on what is trained, found none under "
                f"--scope {self.scope} and --temperature {self.temperature}: give --clip-weight 1, "
                "or --lc-weight 1 with --scope image+text_proj"
            )
        return chosen

    @property
    def _trains(self) -> bool:
        """Whether some term with a weight depends on a trained parameter.

        Those of prompts alone do by the text projection, and in the paper by the temperature.
        """
        by_text = self.scope == "image+text_proj"
        if self.variant == "paper":
            by_text = by_text or self.temperature != "fixed"
        images = self.clip_weight, self.vc_weight, self.vs_weight, self.ce_weight, self.cross_weight
        prompts = self.lc_weight, self.ls_weight, self.domain_weight
        return any(images) or (by_text and any(prompts))

    @property
    def _banks(self) -> tuple[str, ...]:
        """The text banks that some term with a weight reads."""
        official = self.variant != "paper"
        banks = ["class"]
        if self.ls_weight or (official and self.cross_weight):
            banks.append("attribute")
        if official and (self.vs_weight or self.domain_weight):
            banks.append("context")
        return tuple(banks)

    @property
    def _by_attribute(self) -> bool:
        """Whether some term reads the attribute values of training images."""
        return bool(self.vs_weight or (self.variant != "paper" and self.domain_weight))

    @property
    def needs(self) -> frozenset[str]:
        labels = {"train.g"} if self._by_attribute else set()
        return super().needs | labels | {f"text.{bank}" for bank in self._banks}

    def prepare(self, task: Task, generator: torch.Generator) -> State:
        if self._by_attribute and len(np.unique(task.train.g % task.n_attributes)) < 2:
            raise EmbedcalError(
                "expected at least two attribute values in train for L_vs, found one: use "
                "--vs-weight 0 --ls-weight 1, which needs only the values' names"
            )
        texts = {bank: text_states(task.bank(bank), self.scope) for bank in self._banks}
        return State(texts, torch.tensor(task.n_attributes))

    def init(self, plan: State) -> State:
        return plan

    def loss(
        self, head: Head, state: State, batch: Batch, hyper: Mapping[str, Tensor]
    ) -> tuple[Tensor, State]:
        assert isinstance(head, ClipHead)
        unit = head.embed(batch.x)
        texts = {bank: head.encode(states) for bank, states in state.texts.items()}
        a = None if batch.g is None else batch.g % state.n_attributes
        terms = self._paper if self.variant == "paper" else self._official
        parts = terms(head, unit, texts, batch, a, hyper)
        if self.ce_weight:
            logits = head.logit_scale.exp() * unit @ prototypes(texts["class"]).T
            parts["ce"] = cross_entropy(logits, batch.y).mean()
        total = torch.zeros((), device=unit.device)
        for name, value in parts.items():
            total = total + hyper[f"{name}_weight"] * value
        return total, state

    def _captions(self, text: Tensor, y: Tensor) -> Tensor:
        kind = "normalised" if self.variant == "paper" else "mean"
        return prototypes(text, kind)[y]

    def _paper(
        self,
        head: ClipHead,
        unit: Tensor,
        texts: Mapping[str, Tensor],
        batch: Batch,
        a: Tensor | None,
        hyper: Mapping[str, Tensor],
    ) -> dict[str, Tensor]:
        tau = (-head.logit_scale).exp()
        include_self = self.include_self == "on"
        parts = {}
        if self.clip_weight:
            captions = self._captions(texts["class"], batch.y)
            parts["clip"] = paired(unit, captions, 1 / tau).mean()
        if self.lc_weight:
            parts["lc"] = language_contrast(texts["class"], tau)
        if self.vc_weight:
            parts["vc"] = image_contrast(unit, batch.y, tau, include_self=include_self)
        if self.ls_weight:
            attribute = texts["attribute"]
            parts["ls"] = (
                language_contrast(attribute, tau)
                if self.ls_form == "attribute"
                else language_contrast(texts["class"], tau, negatives=attribute)
            )
        if self.vs_weight:
            labels = a if self.vs_sets == "attribute" else batch.g
            assert labels is not None  # declared in needs
            parts["vs"] = image_contrast(unit, labels, tau, include_self=include_self)
        return parts

    def _official(
        self,
        head: ClipHead,
        unit: Tensor,
        texts: Mapping[str, Tensor],
        batch: Batch,
        a: Tensor | None,
        hyper: Mapping[str, Tensor],
    ) -> dict[str, Tensor]:
        scale = head.logit_scale.exp()
        fixed = self.variant == "official_fixed"
        pos, neg, text = hyper["pos_weight"], hyper["neg_weight"], texts["class"]
        parts = {}
        if self.clip_weight:
            parts["clip"] = paired(unit, self._captions(text, batch.y), scale)
        if self.lc_weight:
            parts["lc"] = official_language(text, batch.y, pos, neg, fixed=fixed)
        if self.vc_weight:
            parts["vc"] = official_image(unit, batch.y, pos, neg, fixed=fixed)
        if self.ls_weight:
            diagonal = self.diagonal == "on"
            parts["ls"] = official_spurious_language(
                text, texts["attribute"], batch.y, neg, fixed=fixed, diagonal=diagonal
            )
            if self.tracker == "on":
                parts["ls"] = parts["ls"] + official_tracker(text, batch.y, neg)
        if self.vs_weight:
            assert a is not None  # declared in needs
            parts["vs"] = official_spurious_vision(unit, texts["context"], a, scale)
        if self.domain_weight:
            assert a is not None
            n_classes = len(text)
            parts["domain"] = official_domain(
                texts["context"], a, pos, neg, n_classes=n_classes, fixed=fixed
            )
        if self.cross_weight:
            parts["cross"] = official_cross(unit, text, batch.y, pos, neg, fixed=fixed)
            named = [texts["attribute"]] if self.ls_weight else []
            named += [text] if self.tracker == "on" else []
            for prompts in named:
                spurious = official_spurious_cross(unit, prompts, neg)
                parts["cross"] = parts["cross"] + hyper["ls_weight"] * spurious
        return {name: values.mean() for name, values in parts.items()}
