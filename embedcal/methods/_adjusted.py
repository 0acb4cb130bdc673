"""A linear head by cross-entropy with an offset of each label's logit: logit adjustment."""

from __future__ import annotations

import numpy as np

from embedcal.types import EmbedcalError, FloatArray, IntArray

STEPS = 2000


def fit_adjusted(
    x: FloatArray,
    labels: IntArray,
    offsets: FloatArray,
    *,
    scale: float,
    penalty: float,
    bias: bool,
) -> tuple[FloatArray, FloatArray]:
    """Minimises mean_i CE(scale W x_i + b + offsets, labels_i) + penalty ||W||^2 from zero.

    Menon et al., 2021 (arXiv:2007.07314, eq. 10), with offsets (K,) of tau times log priors; they
    are no part of the head. x (n, d) and labels (n,) below K; b is zero without ``bias``, and free
    of the penalty. By L-BFGS over all rows in float64. Returns W (K, d) and b (K,).
    Raises EmbedcalError where the steps do not suffice.
    """
    from scipy.optimize import minimize
    from threadpoolctl import threadpool_limits

    n, d = x.shape
    k = len(offsets)
    target = np.zeros((n, k))
    target[np.arange(n), labels] = 1

    def objective(theta: FloatArray) -> tuple[float, FloatArray]:
        weight, intercept = theta[: k * d].reshape(k, d), theta[k * d :]
        scores = scale * (x @ weight.T) + offsets + (intercept if bias else 0.0)
        scores -= scores.max(1, keepdims=True)
        log_p = scores - np.log(np.exp(scores).sum(1, keepdims=True))
        residual = (np.exp(log_p) - target) / n
        value = -log_p[np.arange(n), labels].mean() + penalty * (weight**2).sum()
        by_weight = scale * (residual.T @ x) + 2 * penalty * weight
        by_intercept = residual.sum(0) if bias else np.zeros(k)
        return float(value), np.concatenate([by_weight.ravel(), by_intercept])

    with threadpool_limits(1):  # sums in one order on every machine
        found = minimize(
            objective,
            np.zeros(k * d + k),
            jac=True,
            method="L-BFGS-B",
            options={"maxiter": STEPS, "maxfun": 2 * STEPS, "ftol": 1e-12, "gtol": 1e-7},
        )
    if not np.isfinite(found.x).all() or found.status == 1:  # steps or evaluations used up
        raise EmbedcalError(
            f"expected the head to converge in {STEPS} steps, found {found.message}: raise "
            "--penalty"
        )
    return found.x[: k * d].reshape(k, d), found.x[k * d :]
