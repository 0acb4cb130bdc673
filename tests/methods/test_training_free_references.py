"""What mutants of the methods that train nothing got past: references that their own tests lack."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from prompted import bank, logits, mean_rows, nrm, prompted

from embedcal.methods.orth_cal import OrthCal

EQUAL = [(0, 1, "equal"), (2, 3, "equal"), (4, 1, "equal")]
S, STRENGTH = np.exp(2.5), 30.0


def calibrated(task: Any, directions: int) -> Any:
    """s cos(x, P q), P = P_0 (I + lambda M)^-1 with P_0 less so many singular directions of S."""
    z = mean_rows(task.bank("pairs").embedding)
    apart = [z[i] - z[j] for i, j, role in task.bank("pairs").pairs if role == "equal"]
    scatter = sum(np.outer(each, each) for each in apart) / len(apart)
    _, _, basis = np.linalg.svd(mean_rows(task.bank("attribute").embedding))
    p0 = np.eye(len(scatter))
    for direction in basis[:directions]:
        p0 = p0 - np.outer(direction, direction)
    rows = mean_rows(task.bank("class").embedding) @ np.linalg.inv(
        np.eye(len(scatter)) + STRENGTH * scatter
    )
    return S * nrm(task.train.x) @ nrm(rows @ p0).T


@pytest.mark.parametrize(("variant", "directions"), [("paper", 2), ("official", 4)])
def test_prompts_listed_twice_take_directions_of_rounding_in_the_official_variant(
    variant: str, directions: int
) -> None:
    """Two prompts, listed twice with noise far above rounding but below the cut of a rank."""
    task = prompted(EQUAL)
    once = task.bank("attribute").embedding.astype(float)
    noise = 1e-8 * np.random.default_rng(3).normal(size=once.shape)
    twice = bank("attribute", np.concatenate([once, once + noise]))
    task = replace(task, text={**task.text, "attribute": twice})
    found = logits(OrthCal(variant=variant, strength=STRENGTH).solve(task, 0), task.train.x)
    np.testing.assert_allclose(found, calibrated(task, directions), rtol=2e-3, atol=2e-3)
    other = calibrated(task, 6 - directions)
    assert not np.allclose(found, other, atol=1e-1)
