"""The mixture over embedding, label and prediction finds a planted slice."""

from __future__ import annotations

import numpy as np
import pytest

from embedcal.detecting.mixture import mixture, reduced


def planted(seed, n=400):
    """Two classes; a tenth of class 0 lies elsewhere and is answered wrongly."""
    rng = np.random.default_rng(seed)
    y = rng.integers(2, size=n)
    odd = (y == 0) & (rng.random(n) < 0.2)
    x = rng.normal(size=(n, 12))
    x[:, 0] += 3 * y
    x[odd, 1] += 4
    answer = np.where(odd, 1, y)
    return x, y, 0.8 * np.eye(2)[answer] + 0.1, odd


@pytest.mark.parametrize("seed", range(3))
def test_a_planted_slice_has_a_component_of_its_own(seed):
    x, y, probabilities, odd = planted(seed)
    fitted = mixture(x, y, probabilities, 4)
    assert fitted.share.sum(1) == pytest.approx(np.ones(len(y)))
    own = np.bincount(fitted.share.argmax(1)[odd]).argmax()
    inside = fitted.share.argmax(1) == own
    assert odd[inside].mean() > 0.95
    assert inside[odd].mean() > 0.8


def test_likelihood_rises_and_seeds_decide():
    x, y, probabilities, _ = planted(7)
    fitted = mixture(x, y, probabilities, 5, seed=1)
    steps = np.diff(fitted.likelihood)
    assert len(steps) > 1
    assert steps.min() > -1e-2
    assert fitted.likelihood[-1] > fitted.likelihood[0]
    assert np.array_equal(mixture(x, y, probabilities, 5, seed=1).share, fitted.share)


def test_reduction_keeps_distances_up_to_one_scale():
    x = np.random.default_rng(0).normal(size=(50, 6))
    z = reduced(10 * x + 5)

    def distances(v):
        return np.linalg.norm(v[:, None] - v[None], axis=-1)[np.triu_indices(50, 1)]

    assert np.std(distances(z) / distances(x)) < 1e-9
    assert z.var(0).mean() == pytest.approx(1)
    assert reduced(x[:4]).shape == (4, 4)
