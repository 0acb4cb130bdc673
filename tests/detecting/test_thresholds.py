"""Cuts on planted mixtures, and their invariances."""

from __future__ import annotations

import numpy as np
import pytest

from embedcal.detecting.thresholds import cuts


def planted(seed, n=3000, gap=4.0, shares=(0.95, 0.5, 0.05)):
    """Scores of one attribute: shifts of the classes larger than the gap, shares far apart."""
    rng = np.random.default_rng(seed)
    y = rng.integers(3, size=n)
    z = rng.random(n) < np.array(shares)[y]
    shift = np.array([0.0, 7.0, -5.0])
    return shift[y] + gap * z + rng.normal(size=n), y, z, shift


@pytest.mark.parametrize("seed", range(3))
def test_cuts_and_separation_are_those_that_were_planted(seed):
    scores, y, z, shift = planted(seed)
    found = cuts(scores[:, None], y, 3)
    assert found.threshold[:, 0] == pytest.approx(shift + 2, abs=0.35)
    assert found.separation == pytest.approx([4.0], abs=0.35)
    right = ((found.margin(scores[:, None], y)[:, 0] > 0) == z).mean()
    assert right > 0.96  # the best possible is 0.977
    pooled = ((scores > np.median(scores)) == z).mean()
    assert pooled < 0.8


def test_attributes_do_not_touch_each_other_and_units_do_not_matter():
    one, y, _, _ = planted(5)
    other, _, _, _ = planted(6, gap=6.0)
    both = cuts(np.stack([one, other], axis=1), y, 3)
    alone = cuts(one[:, None], y, 3)
    assert both.threshold[:, 0] == pytest.approx(alone.threshold[:, 0], rel=1e-9)
    moved = cuts(0.01 * one[:, None] + 3, y, 3)
    assert moved.threshold == pytest.approx(0.01 * alone.threshold + 3, abs=1e-6)
    assert moved.separation == pytest.approx(alone.separation)


def test_many_attributes_in_blocks(monkeypatch):
    scores = np.random.default_rng(0).normal(size=(400, 7))
    y = np.arange(400) % 2
    whole = cuts(scores, y, 2)
    monkeypatch.setattr("embedcal.detecting.thresholds.BLOCK", 800)
    assert cuts(scores, y, 2).threshold == pytest.approx(whole.threshold, rel=1e-9)


def test_a_class_without_images_and_constant_scores():
    scores, y, _, _ = planted(1)
    found = cuts(scores[y < 2][:, None], y[y < 2], 3)
    assert found.threshold[2] == pytest.approx(found.threshold[:2].mean(0))
    flat = cuts(np.ones((10, 1)), np.zeros(10, int), 1)
    assert np.isfinite(flat.threshold).all()
    assert np.isfinite(flat.separation).all()
