"""The span of a few directions, such as prompts, and what is left beside it."""

from __future__ import annotations

import numpy as np

from embedcal.types import FloatArray

RANK_CUT = 1e-6  # singular values below this part of the largest are rounding
NO_CUT = -1.0  # as many directions as rows, those of rounding among them


def span_basis(rows: FloatArray, rank_cut: float = RANK_CUT) -> FloatArray:
    """An orthonormal basis (r, d) of the span of rows (k, d), in float64; r is its rank.

    By the singular value decomposition. Prompts lie close together, so that an explicit inverse of
    their Gram matrix, or a decomposition without a cut, would take rounding for directions.
    """
    _, values, basis = np.linalg.svd(rows.astype(np.float64), full_matrices=False)
    found: FloatArray = basis[values > rank_cut * values.max(initial=0.0)]
    return found


def beside(x: FloatArray, basis: FloatArray) -> FloatArray:
    """x (n, d) less its part in the span of an orthonormal basis (r, d)."""
    found: FloatArray = x - (x @ basis.T) @ basis
    return found
