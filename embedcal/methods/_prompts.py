"""What methods that train nothing share: prompts as unit rows, pairs of them, one multiplier."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from embedcal.heads import LinearHead, prototypes
from embedcal.methods._unit import unit
from embedcal.methods.base import Offer
from embedcal.types import EmbedcalError, FloatArray, Role, Task, TextBank

SHORTEST = 1e-6  # of a class row that is left of a unit one: less is rounding
SAME = 1e-5  # of an embedding's length: prompts that lie closer are one to the encoder

# How to get a bank that a cache lacks.
MEND = {
    "pairs": "cache again with --pairs FILE of lines such as "
    'reject = [["a bird on land", "a bird on water"]]',
    "group": 'give "group", one prompt for each class and attribute value, in a file of prompts '
    "(--prompts) and cache again",
    "context": 'give "context", one prompt for each attribute value, in a file of prompts '
    "(--prompts) and cache again",
    "attribute": "name the attribute's values (--attributes) and cache again",
    "class": "name the classes (--classes) and cache again",
}


def require(method: str, offer: Offer, *banks: str) -> None:
    """Raise EmbedcalError that says how to get the first of the banks that a cache lacks."""
    for bank in banks:
        if bank not in offer.banks:
            mend = MEND[bank] if offer.banks else "cache with an encoder that has a text tower"
            raise EmbedcalError(
                f"expected {'concept' if bank == 'pairs' else bank} "
                f"{'pairs' if bank == 'pairs' else 'prompts'} in the cache for {method}, found "
                f"{', '.join(sorted(offer.banks)) or 'no text'}: {mend}"
            )


def multiplier(task: Task) -> Tensor:
    """What cosines are multiplied by, (): the cache's own logit scale, or 100."""
    scale = task.projection.logit_scale if task.projection else task.logit_scale
    return torch.tensor(100.0) if scale is None else torch.tensor(scale).exp()


def averaged(bank: TextBank) -> FloatArray:
    """Unit rows (P, d) of a bank's prompts, float64: nrm(mean_t nrm(e_pt))."""
    rows: FloatArray = prototypes(torch.tensor(bank.embedding).double()).numpy()
    return rows


def differences(rows: FloatArray, bank: TextBank, *roles: Role) -> FloatArray:
    """rows[p] - rows[q] (k, d) of the concept pairs (p, q) of some roles, in their order.

    Zeros where the encoder cannot tell the two apart, such as by a word that it does not know:
    what differs then is rounding.
    """
    chosen = [(p, q) for p, q, role in bank.pairs if role in roles]
    if not chosen:
        return rows[:0]
    first, second = np.array(chosen).T
    found: FloatArray = rows[first] - rows[second]
    length = np.linalg.norm(rows[first], axis=1)
    found[np.linalg.norm(found, axis=1) < SAME * length] = 0
    return found


def by_rows(rows: FloatArray, task: Task, names: Sequence[str]) -> LinearHead:
    """The head whose logits are s cos(x, row) of rows (C, d), which it brings to length one.

    Raises EmbedcalError where nothing is left of a row, by the name of its prompt.
    """
    length = np.linalg.norm(rows, axis=1)
    if length.min() < SHORTEST:
        raise EmbedcalError(
            "expected class prompts that say more than the prompts projected out, found nothing "
            f"left of '{names[int(length.argmin())]}': word one or the other differently"
        )
    weight = torch.tensor(unit(rows)).float() * multiplier(task)
    return LinearHead(weight, torch.zeros(len(weight)), normalise=True, level="embedding")
