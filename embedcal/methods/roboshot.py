"""RoboShot: images less the concepts that are to be rejected, and more of those to be accepted."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np
import torch

from embedcal.heads import MappedHead
from embedcal.methods._prompts import averaged, differences, multiplier
from embedcal.methods._span import span_basis
from embedcal.methods._text_solver import FromBanks
from embedcal.methods._unit import unit
from embedcal.methods.base import option
from embedcal.types import EmbedcalError, FloatArray, Role, Task

log = logging.getLogger(__name__)
ROLES: dict[str, tuple[Role, ...]] = {
    "both": ("reject", "accept"),
    "reject": ("reject",),
    "accept": ("accept",),
}


@dataclass(frozen=True, kw_only=True)
class RoboShot(FromBanks):
    """Trains nothing: zero-shot on images less rejected concepts, and with accepted ones doubled.

    Adila et al., 2023 (arXiv:2309.04344), read in its abstract and its code. A concept is the
    difference of two prompts' embeddings as they are, not of length one. With orthonormal bases
    Q_s of the rejected concepts and Q_t of the accepted ones an image becomes
    nrm((I + Q_t^T Q_t) (I - Q_s^T Q_s) x); classes stay their prompts. The pairs are those of the
    cache: a language model makes them in the paper, a file here.

    Accepting comes last, and may put back what was rejected where the two spans are not orthogonal:
    how much of it at most is logged. ``--orthogonalise none`` goes through the concepts one by
    one, as they are. Variant ``official`` takes bases by a QR decomposition, in which concepts that
    depend on one another leave directions of rounding; ``official_fixed``, the default, leaves
    those out.
    """

    name = "roboshot"
    variants = ("official_fixed", "official")

    variant: str = option("official_fixed", "which reading of the paper or its code")
    use: str = option("both", "which pairs", choices=("both", "reject", "accept"))
    orthogonalise: str = option(
        "span", "a basis of all concepts, or one concept after another", choices=("span", "none")
    )
    templates: int = option(0, "use only the first so many templates of the classes; 0: all")

    @property
    def head_name(self) -> str:
        return "mapped"

    @property
    def banks(self) -> tuple[str, ...]:
        return ("class", "pairs")

    def solve(self, task: Task, seed: int) -> MappedHead:
        bank, roles = task.bank("pairs"), ROLES[self.use]
        if not any(role in roles for _, _, role in bank.pairs):
            raise EmbedcalError(
                f"expected concept pairs of the role {' or '.join(roles)} for roboshot, found none "
                "in the cache: cache again with --pairs FILE of lines such as "
                f'{roles[0]} = [["a bird on land", "a bird on water"]]'
            )
        rows = bank.embedding[:, 0].astype(np.float64)
        reject, accept = (
            self._directions(differences(rows, bank, role) if role in roles else rows[:0])
            for role in ROLES["both"]
        )
        basis, change = edit(reject, accept)
        log.info(
            "of an image at most %.3f lies in the rejected span after the last step",
            remainder(reject, basis, change),
        )
        weight = torch.tensor(averaged(task.bank("class"))).float() * multiplier(task)
        return MappedHead(
            {
                "basis": torch.tensor(basis).float(),
                "change": torch.tensor(change).float(),
                "weight": weight,
            }
        )

    def _directions(self, concepts: FloatArray) -> FloatArray:
        """Unit directions (r, d) to take out of images, or to add to them, one after another."""
        if not len(concepts) or self.orthogonalise == "none":
            return unit(concepts)
        if self.variant == "official":
            return np.linalg.qr(concepts.T)[0].T
        return span_basis(concepts)


def edit(reject: FloatArray, accept: FloatArray) -> tuple[FloatArray, FloatArray]:
    """B and D (r, d) of the map x + (x B^T) D that takes and adds unit directions in order.

    First x <- x - (x.q) q for each q of ``reject`` (k, d), then x <- x + (x.q) q for each of
    ``accept``. Bringing x to length one in between changes no direction, so it is left out.
    Without any direction B and D are one row of zeros: a head has at least one.
    """
    moves = [(-1.0, q) for q in reject] + [(1.0, q) for q in accept]
    basis = span_basis(np.concatenate([reject, accept]))
    if not len(basis):
        return np.zeros((1, reject.shape[1])), np.zeros((1, reject.shape[1]))
    within = np.eye(len(basis))  # the map, in coordinates of the basis: row -> row @ within
    for sign, direction in moves:
        q = basis @ direction
        within = within + sign * np.outer(within @ q, q)
    change: FloatArray = (within - np.eye(len(basis))) @ basis
    return basis, change


def remainder(reject: FloatArray, basis: FloatArray, change: FloatArray) -> float:
    """The largest part of a unit image that the map of :func:`edit` leaves in the rejected span."""
    span = span_basis(reject)
    if not len(span):
        return 0.0
    kept = span + (span @ change.T) @ basis  # x -> (I + B^T D) S^T, transposed
    return float(np.linalg.norm(kept, 2))
