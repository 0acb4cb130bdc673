"""Orth-Cal: Orth-Proj, and pairs of prompts that differ in the attribute alone pulled together."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from embedcal.heads import LinearHead
from embedcal.methods._bounds import at_least
from embedcal.methods._prompts import averaged, by_rows, differences
from embedcal.methods._span import NO_CUT, RANK_CUT
from embedcal.methods._text_solver import FromBanks
from embedcal.methods.base import option
from embedcal.methods.orth_proj import project
from embedcal.types import EmbedcalError, FloatArray, Task


@dataclass(frozen=True, kw_only=True)
class OrthCal(FromBanks):
    """Trains nothing: Orth-Proj, with pairs of prompts that should be one drawn together.

    Chuang et al., 2023 (arXiv:2302.00070), read in its abstract and its code. Over the ``equal``
    pairs E of the cache, prompts that differ in the attribute alone, let z = nrm(prompt) and
    M = mean_E (z_i - z_j)(z_i - z_j)^T. With P_0 the projection of ``orth-proj``, class rows are
    nrm(P q_c), P = P_0 (I + lambda M)^-1. That P is the one minimum of
    |P - P_0|_F^2 + lambda mean_E |P z_i - P z_j|^2. lambda is 1000, as in the code; 0 is
    ``orth-proj``.

    The inverse is taken in the span of the pairs alone, which is exact and quick. Variant
    ``official`` differs in P_0, as it does in ``orth-proj``.
    """

    name = "orth-cal"
    variants = ("paper", "official")

    strength: float = option(
        1000.0, "lambda: how close the pairs come", grid=(10.0, 100.0, 1000.0, 10000.0)
    )
    templates: int = option(0, "use only the first so many templates; 0: all")

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self, strength=0)

    @property
    def banks(self) -> tuple[str, ...]:
        return ("class", "attribute", "pairs")

    def solve(self, task: Task, seed: int) -> LinearHead:
        bank = task.bank("pairs")
        apart = differences(averaged(bank), bank, "equal")
        if not len(apart):
            raise EmbedcalError(
                "expected concept pairs of the role equal for orth-cal, found none in the cache: "
                'cache again with --pairs FILE of lines such as equal = [["a landbird on land", '
                '"a landbird on water"]]'
            )
        cut = NO_CUT if self.variant == "official" else RANK_CUT
        drawn = calibrate(averaged(task.bank("class")), apart, self.strength)
        rows = project(task, cut, rows=drawn)
        return by_rows(rows, task, task.bank("class").prompts)


def calibrate(rows: FloatArray, apart: FloatArray, strength: float) -> FloatArray:
    """(I + lambda M)^-1 q for rows q (C, d), with M = apart^T apart / k of differences (k, d).

    By the singular value decomposition of ``apart``: a direction of singular value s shrinks to
    1 / (1 + lambda s^2 / k), every other one stays.
    """
    _, values, basis = np.linalg.svd(apart, full_matrices=False)
    shrunk = strength * values**2 / len(apart)
    found: FloatArray = rows - (rows @ basis.T * (shrunk / (1 + shrunk))) @ basis
    return found
