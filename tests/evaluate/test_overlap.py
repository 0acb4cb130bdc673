"""IOU and AIOU against loops and closed forms."""

import numpy as np
import pytest

from embedcal.evaluate import aiou, iou, overlap, strata
from embedcal.evaluate.overlap import adjusted
from embedcal.types import EmbedcalError


def iou_by_loops(m, b):
    low = high = 0.0
    for row in range(m.shape[0]):
        for column in range(m.shape[1]):
            low += min(m[row, column], float(b[row, column]))
            high += max(m[row, column], float(b[row, column]))
    return low / high if high else 0.0


@pytest.mark.parametrize("c", [2, 5])
def test_both_equal_their_loops(c):
    rng = np.random.default_rng(c)
    maps, region = rng.random((6, c, 4, 5)), rng.random((6, 4, 5)) < 0.4
    y = rng.integers(0, c, 6)
    maps[0], region[1], maps[2, y[2]] = 0.0, False, 0.0
    wanted = []
    for i in range(6):
        each = [iou_by_loops(maps[i, k], region[i]) for k in range(c)]
        np.testing.assert_allclose(iou(maps[i], region[i]), each)
        rival = max(v for k, v in enumerate(each) if k != y[i])
        bottom = each[y[i]] + rival
        wanted.append(each[y[i]] / bottom if bottom else 0.0)
    np.testing.assert_allclose(aiou(maps, region, y), wanted)
    np.testing.assert_allclose(aiou(maps.astype(np.float32), region, y), wanted, rtol=1e-6)


def test_closed_forms():
    region = np.zeros((1, 4, 4), dtype=bool)
    region[:, :2] = True
    exact, half = region.astype(float), np.full((1, 4, 4), 0.5)
    assert iou(exact, region) == 1.0
    assert iou(half, region) == pytest.approx(4 / 12)
    assert iou(1 - exact, region) == 0.0
    assert iou(np.zeros((1, 4, 4)), ~(region | ~region)) == 0.0  # 0/0
    both = np.stack([half, half], axis=1)
    assert aiou(both, region, np.array([1])) == 0.5
    own = np.stack([exact, 1 - exact], axis=1)
    assert aiou(own, region, np.array([0])) == 1.0
    assert aiou(own, region, np.array([1])) == 0.0


def test_groups_of_a_split():
    y, a = np.array([0, 0, 0, 1]), np.array([0, 0, -1, 1])
    values = np.array([0.2, 0.4, 0.9, 0.5])
    found = overlap(values, strata(y, a, 2, 2))
    assert found.mean == pytest.approx(0.5)
    np.testing.assert_allclose(found.groups, [0.3, np.nan, np.nan, 0.5])
    assert found.worst_group == pytest.approx(0.3)
    assert overlap(values, strata(y, None, 2, 0)).worst_group is None


def test_images_without_an_object_are_left_out():
    y, a = np.array([0, 0, 1, 1, 1]), np.array([0, 0, 1, 1, -1])
    values = np.array([0.2, np.nan, np.nan, np.nan, 0.8])
    np.testing.assert_array_equal(
        adjusted(np.array([[0.1, 0.3], [np.nan, np.nan]]), y[:2])[1], np.nan
    )
    found = overlap(values, strata(y, a, 2, 2))
    assert (found.images, found.mean) == (2, pytest.approx(0.5))
    np.testing.assert_array_equal(np.isnan(found.groups), [False, True, True, True])
    np.testing.assert_array_equal(found.group_intervals[3], [np.nan, np.nan])
    low, high = found.group_intervals[0]  # one image tells nothing of the spread
    assert low < 0.1
    assert high > 0.9
    with pytest.raises(EmbedcalError, match="at least one image"):
        overlap(np.full(5, np.nan), strata(y, a, 2, 2))


def test_intervals_cover_what_they_should():
    """Skewed values in [0, 1], groups of 8 to 200 images, the worst two nearly tied."""
    rng = np.random.default_rng(0)
    sizes, shapes = np.array([200, 60, 20, 8]), [(8, 4), (3, 4), (6, 7), (9, 3)]
    y, a = np.repeat([0, 0, 1, 1], sizes), np.repeat([0, 1, 0, 1], sizes)
    cells = strata(y, a, 2, 2)
    truth = np.array([p / (p + q) for p, q in shapes])
    hits = []
    for seed in range(400):
        values = np.concatenate([rng.beta(*shape, size=n) for shape, n in zip(shapes, sizes)])
        found = overlap(values, cells, draws=500, seed=seed)
        wanted = [*truth, truth @ sizes / sizes.sum(), truth.min()]
        intervals = [*found.group_intervals, found.mean_interval, found.worst_group_interval]
        # Biased down once more in its draws, the minimum is reflected about its estimate.
        assert sum(found.worst_group_interval) >= 2 * found.worst_group - 1e-12
        hits.append([low <= w <= high for (low, high), w in zip(intervals, wanted)])
    covered = np.mean(hits, axis=0)
    assert (covered > 0.92).all(), covered
    assert (covered[:5] < 0.985).all(), covered


@pytest.mark.parametrize("bad", [-0.1, 1.1, np.nan])
def test_maps_must_be_normalised(bad):
    maps = np.zeros((2, 3, 3))
    maps[1, 2, 2] = bad
    with pytest.raises(EmbedcalError, match="from 0 to 1"):
        iou(maps, np.ones((2, 3, 3), dtype=bool))


def test_one_class_has_no_rival():
    with pytest.raises(EmbedcalError, match="two classes or more, found 1"):
        aiou(np.zeros((2, 1, 3, 3)), np.ones((2, 3, 3), dtype=bool), np.array([0, 0]))
