"""Rows at length one, as heads make them."""

from __future__ import annotations

import numpy as np

from embedcal.types import FloatArray


def unit(rows: FloatArray) -> FloatArray:
    """Rows (..., d) at length one, in float64; a row of zeros stays one."""
    rows = rows.astype(np.float64)
    found: FloatArray = rows / np.maximum(np.linalg.norm(rows, axis=-1, keepdims=True), 1e-12)
    return found
