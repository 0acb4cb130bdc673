"""The text side of heads shaped like CLIP: states, prototypes, and the temperature."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from embedcal.heads.checked import choice
from embedcal.types import EmbedcalError, Projection, TextBank

SCOPES = ("image", "image+text_proj")
TEMPERATURES = ("trainable", "pretrained", "fixed")
PROTOTYPES = ("normalised", "mean")
START_SCALE = math.log(1 / 0.07)  # what the official code starts from, not CLIP's learned 100
FIXED_SCALE = math.log(100.0)  # where CLIP's own training ends up, clipped
OPTIONS = {"temperature": TEMPERATURES, "prototype": PROTOTYPES}  # of a text side
DEFAULTS = {"temperature": "trainable", "prototype": "normalised"}


def prototypes(
    embedding: Float[Tensor, "C T d"], prototype: str = "normalised"
) -> Float[Tensor, "C d"]:
    """Class prototypes of text embeddings of C classes through T templates, any length.

    ``normalised``: nrm(mean_t nrm(e_ct)), the zero-shot convention (Radford et al. 2021,
    arXiv:2103.00020, section 3.1.4). ``mean``: mean_t nrm(e_ct), shorter where templates
    disagree, as the official code of Yang et al. 2023 (arXiv:2304.03916) has it in its CLIP loss.
    """
    mean = F.normalize(embedding, dim=-1).mean(-2)
    return F.normalize(mean, dim=-1) if prototype == "normalised" else mean


def text_states(bank: TextBank, scope: str) -> Float[Tensor, "P T w"]:
    """What :meth:`ClipHead.encode` eats: a bank's states before the part that ``scope`` trains.

    Scope ``image`` trains none of the text side, so these are the bank's embeddings (P, T, d);
    scope ``image+text_proj`` trains the text projection, so they are what it eats (P, T, wt).
    Raises EmbedcalError where the cache has none.
    """
    if choice("scope", scope, SCOPES) == "image":
        return torch.tensor(bank.embedding)
    if bank.pooled is None:
        raise _no_text_projection()
    return torch.tensor(bank.pooled)


def start_scale(projection: Projection, temperature: str) -> float:
    """The natural logarithm of the multiplier that a head starts from.

    ``trainable`` is 1/0.07, as Yang et al. 2023 start; ``pretrained`` the cache's own, which
    must be there; ``fixed`` the cache's own, or 100 where there is none.
    """
    if choice("temperature", temperature, TEMPERATURES) == "trainable":
        return START_SCALE
    if projection.logit_scale is not None:
        return projection.logit_scale
    if temperature == "fixed":
        return FIXED_SCALE
    raise EmbedcalError(
        "expected the cache's projection to have a logit scale for --temperature pretrained, "
        "found none: use --temperature trainable"
    )


@dataclass(frozen=True, kw_only=True)
class TextSide:
    """Where a head's prototypes come from, and the temperature of its logits.

    ``text`` holds prototypes (C, d) where ``text_weight`` is None, else text states (C, T, wt)
    that ``text_weight`` (d, wt) projects. ``logit_scale`` () is a natural logarithm.
    """

    text: Tensor
    text_weight: Tensor | None
    logit_scale: Tensor
    temperature: str
    prototype: str

    @classmethod
    def start(
        cls,
        projection: Projection,
        bank: TextBank,
        *,
        scope: str,
        temperature: str,
        prototype: str,
    ) -> TextSide:
        """The pre-trained text side, with the temperature that was asked for."""
        choice("prototype", prototype, PROTOTYPES)
        text, weight = text_states(bank, scope), None
        if scope == "image":
            text = prototypes(text, prototype)
        elif projection.text_weight is not None:
            weight = torch.tensor(projection.text_weight)
        else:
            raise _no_text_projection()
        return cls(
            text=text,
            text_weight=weight,
            logit_scale=torch.tensor(start_scale(projection, temperature)),
            temperature=temperature,
            prototype=prototype,
        )

    @staticmethod
    def shapes(state: Mapping[str, Tensor]) -> dict[str, str]:
        """The text side's tensors in a head's file, for ``check_tensors``."""
        if "text_weight" in state:
            return {"logit_scale": "", "text": "C T v", "text_weight": "d v"}
        return {"logit_scale": "", "text": "C d"}

    @classmethod
    def from_state(cls, state: Mapping[str, Tensor], config: Mapping[str, Any]) -> TextSide:
        """The text side of a head's checked tensors and options."""
        return cls(
            text=state["text"],
            text_weight=state.get("text_weight"),
            logit_scale=state["logit_scale"],
            temperature=config["temperature"],
            prototype=config["prototype"],
        )


def _no_text_projection() -> EmbedcalError:
    return EmbedcalError(
        "expected text states before their projection for --scope image+text_proj, found "
        "none in the cache: use --scope image"
    )
