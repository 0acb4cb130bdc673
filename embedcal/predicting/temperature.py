"""One temperature for all logits: the convex problem that it solves, and where there is no answer.

softmax(z / T) with T > 0 (Guo et al. 2017, arXiv:1706.04599, section 4.2; Platt 1999 for two
classes). T = 1 is the head as it was fitted; above 1 the probabilities move towards equal.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float, Int

from embedcal.types import EmbedcalError, FloatArray

BOUND = 1000.0  # temperatures from 1 / BOUND to BOUND
EXACT = 1e-12  # of ln T

Where = Literal["inside", "lowest", "highest", "flat"]


@dataclass(frozen=True)
class Temperature:
    """The minimiser of the NLL, and whether it lies ``inside`` the bounds.

    ``lowest``: every row is told apart, and the NLL falls without end as T goes to 0; ``highest``:
    the logits are no better than none; ``flat``: every T is as good, and 1 is kept.
    """

    value: float
    where: Where


def softmax(logits: Float[np.ndarray, "n C"], temperature: float = 1.0) -> FloatArray:
    """Probabilities (n, C) of logits divided by the temperature, in float64."""
    scaled = logits.astype(np.float64) / temperature
    weights = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    shares: FloatArray = weights / weights.sum(axis=1, keepdims=True)
    return shares


def nll(
    logits: Float[np.ndarray, "n C"], y: Int[np.ndarray, " n"], temperature: float
) -> FloatArray:
    """-log p(y) (n,) of softmax(logits / temperature), in nats; finite for finite logits."""
    scaled = logits.astype(np.float64) / temperature
    top = scaled.max(axis=1)
    total = np.log(np.exp(scaled - top[:, None]).sum(axis=1))
    lost: FloatArray = total + (top - scaled[np.arange(len(y)), y])
    return lost


def fit_temperature(logits: Float[np.ndarray, "n C"], y: Int[np.ndarray, " n"]) -> Temperature:
    """The T that minimises the mean NLL of softmax(z / T), by a root of its derivative.

    In b = 1 / T the mean of logsumexp(b z) - b z_y is convex, so that its derivative, the mean of
    E_p[z] - z_y, rises with b and has one root at most: Brent's method finds it on ln b. Raises
    EmbedcalError for no rows and for logits that are not finite.
    """
    from scipy.optimize import brentq

    z = logits.astype(np.float64)
    if not len(z) or not np.isfinite(z).all():
        found = "no rows" if not len(z) else "NaN or infinity"
        raise EmbedcalError(
            f"expected finite logits to calibrate on, found {found}: fit the run again, or give "
            "the data set a val split"
        )
    if not np.ptp(z, axis=1).any():
        return Temperature(1.0, "flat")
    of_class = z[np.arange(len(y)), y]

    def slope(log_b: float) -> float:
        # By gaps to the row's label: near the end of the scale both terms are large and equal.
        p = softmax(z, math.exp(-log_b))
        return float((p * (z - of_class[:, None])).sum(axis=1).mean())

    end = math.log(BOUND)
    if slope(end) <= 0:
        return Temperature(1 / BOUND, "lowest")
    if slope(-end) >= 0:
        return Temperature(BOUND, "highest")
    root = brentq(slope, -end, end, xtol=EXACT)
    return Temperature(math.exp(-float(root)), "inside")
