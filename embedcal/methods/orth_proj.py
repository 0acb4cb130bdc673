"""Orth-Proj: class prompts less everything that the attribute's prompts say."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np

from embedcal.heads import LinearHead
from embedcal.methods._prompts import averaged, by_rows
from embedcal.methods._span import NO_CUT, RANK_CUT, beside, span_basis
from embedcal.methods._text_solver import FromBanks
from embedcal.methods.base import option
from embedcal.types import FloatArray, Task

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class OrthProj(FromBanks):
    """Trains nothing: zero-shot with the span of the attribute's prompts projected out of the text.

    Chuang et al., 2023 (arXiv:2302.00070), read in its abstract and its code. With S the prompts of
    the attribute's values and V an orthonormal basis of their span, the row of a class is
    nrm((I - V^T V) q_c), q_c its prompt; images stay as they are. Prompts with several templates
    are averaged and brought to length one first, which is ours: the code has one sentence each.

    The span is taken by a singular value decomposition that leaves out directions of rounding.
    Variant ``official`` keeps as many directions as there are prompts, as the code does.
    """

    name = "orth-proj"
    variants = ("paper", "official")

    templates: int = option(0, "use only the first so many templates; 0: all")

    @property
    def banks(self) -> tuple[str, ...]:
        return ("class", "attribute")

    def solve(self, task: Task, seed: int) -> LinearHead:
        rows = project(task, cut=NO_CUT if self.variant == "official" else RANK_CUT)
        return by_rows(rows, task, task.bank("class").prompts)


def project(task: Task, cut: float = RANK_CUT, *, rows: FloatArray | None = None) -> FloatArray:
    """Class rows (C, d) beside the span of the attribute's prompts, not brought to length one.

    ``rows`` are others than the class prompts'. What is left of their length is logged: in a short
    row small differences between prompts decide.
    """
    rows = averaged(task.bank("class")) if rows is None else rows
    rows = beside(rows, span_basis(averaged(task.bank("attribute")), cut))
    lengths = ", ".join(f"{length:.3f}" for length in np.linalg.norm(rows, axis=1))
    log.info("beside the attribute's prompts class rows keep a length of %s", lengths)
    return rows
