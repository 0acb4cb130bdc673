"""Files' pixels in the encoder's frame, against the preprocessing itself."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image

from embedcal.cache.cropping import cropping
from embedcal.explaining.frame import frame
from embedcal.explaining.regions import tightest
from embedcal.types import EmbedcalError

SIZES = [(60, 60), (97, 61), (61, 98), (20, 50), (131, 7)]
CASES: list[dict[str, Any]] = [
    {"size": [32, 32], "resize_mode": "shortest"},
    {"size": [32, 48], "resize_mode": "shortest"},
    {"size": [32, 32], "resize_mode": "longest"},
    {"size": [40, 32], "resize_mode": "longest"},
    {"size": [32, 24], "resize_mode": "squash"},
    {"size": [32, 32], "resize_mode": "shortest", "center_crop": 45},
    {"size": [32, 32], "resize_mode": "longest", "center_crop": 70},
]


def prepared(pixels: np.ndarray, preprocessing: dict[str, Any]) -> np.ndarray:
    """What open_clip makes of a file, up to ToTensor; brightness (H, W)."""
    given = {k: v for k, v in preprocessing.items() if k != "center_crop"}
    given["size"] = tuple(given["size"])
    steps = image_transform_v2(PreprocessCfg(**given), is_train=False).transforms[:-2]

    def prepare(image: Any) -> np.ndarray:
        for step in steps:
            image = step(image)
        return np.asarray(image)[..., 0]

    image = Image.fromarray(pixels).convert("RGB")
    return cropping(prepare, preprocessing.get("center_crop"))(image)


@pytest.mark.parametrize("preprocessing", CASES)
@pytest.mark.parametrize("size", SIZES)
def test_a_region_is_where_the_encoder_sees_it(size: Any, preprocessing: dict[str, Any]) -> None:
    """White box on black, through open_clip: its bright half is the region, but for its edge."""
    width, height = size
    left, top, wide, high = width // 4, height // 3, width // 2, height // 2
    mask = np.zeros((height, width), bool)
    mask[top : top + high, left : left + wide] = True
    seen = prepared(mask.astype(np.uint8) * 255, preprocessing).astype(float)
    found = frame(width, height, preprocessing)
    by_mask, by_box = found.mask(mask), found.box(np.array([left, top, wide, high], float))
    assert found.shape == seen.shape == by_mask.shape
    np.testing.assert_array_equal(by_mask, by_box)
    np.testing.assert_array_equal(tightest(mask), [left, top, wide, high])
    clear = (seen < 60) | (seen > 195)
    assert clear.mean() > 0.5
    assert by_mask[clear & (seen > 195)].all()
    assert not by_mask[clear & (seen < 60)].any()


@pytest.mark.parametrize("preprocessing", CASES)
def test_places_are_those_of_a_ramp(preprocessing: dict[str, Any]) -> None:
    """A ramp of brightness keeps its value under resizing, so it tells where each pixel is from."""
    width, height = 200, 180
    ramp = np.tile(np.arange(width, dtype=np.uint8), (height, 1))
    found = frame(width, height, preprocessing)
    for pixels, places in ((ramp, found.x), (np.tile(np.arange(180, dtype=np.uint8), (200, 1)).T,
                                            found.y)):  # fmt: skip
        seen = prepared(pixels, preprocessing).astype(float)
        line = seen[len(seen) // 2] if places is found.x else seen[:, seen.shape[1] // 2]
        there = np.isfinite(places)
        np.testing.assert_array_equal(line[~there], 0)
        inner = np.flatnonzero(there)[2:-2]  # bicubic weights are one-sided at the edge
        # The centre of the file's pixel i is i + 1/2; brightness is rounded.
        assert np.abs(line[inner] + 0.5 - places[inner]).max() < 1.01


def test_nothing_of_a_mask_outside_the_crop() -> None:
    preprocessing = {"size": [8, 8], "resize_mode": "shortest", "center_crop": 10}
    mask = np.ones((30, 30), bool)
    mask[10:20, 10:20] = False
    assert not frame(30, 30, preprocessing).mask(mask).any()
    padded = frame(4, 4, preprocessing).mask(np.ones((4, 4), bool))
    assert 0 < padded.sum() < 64
    assert np.isnan(tightest(np.zeros((3, 3), bool))).all()
    assert not frame(9, 9, preprocessing).box(np.full(4, np.nan)).any()


def test_another_preprocessing_is_refused() -> None:
    with pytest.raises(EmbedcalError, match="prepares images as open_clip does"):
        frame(10, 10, {"size": 8})
