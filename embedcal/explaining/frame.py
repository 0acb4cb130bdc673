"""Where a pixel of the encoder's input lies in the image's file: preprocessing, read backwards."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from embedcal.types import EmbedcalError, FloatArray

MODES = ("shortest", "longest", "squash")


@dataclass(frozen=True)
class Frame:
    """Places in the file of the centres of the input's pixels.

    ``x`` (W,) and ``y`` (H,) count pixels of the file from its left and upper edge, so that the
    file's pixel i covers [i, i + 1). NaN is padding: nothing of the file is there.
    """

    x: FloatArray
    y: FloatArray

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.y), len(self.x)

    def mask(self, mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
        """A mask (h, w) of the file -> (H, W): each pixel takes the one that its centre is in."""
        rows, columns = np.isfinite(self.y), np.isfinite(self.x)
        out = np.zeros(self.shape, bool)
        # A centre in the file's last pixel may be rounded to its far edge.
        y = np.minimum(self.y[rows].astype(np.int64), mask.shape[0] - 1)
        x = np.minimum(self.x[columns].astype(np.int64), mask.shape[1] - 1)
        out[np.ix_(rows, columns)] = mask[np.ix_(y, x)]
        return out

    def box(self, box: FloatArray) -> npt.NDArray[np.bool_]:
        """x, y, width, height in pixels of the file -> (H, W): pixels whose centre is within."""
        left, top, width, height = map(float, box)
        inside_x = (self.x >= left) & (self.x < left + width)  # NaN is nowhere
        inside_y = (self.y >= top) & (self.y < top + height)
        return inside_y[:, None] & inside_x[None, :]


def frame(width: int, height: int, preprocessing: Mapping[str, Any]) -> Frame:
    """The frame of a file of ``width`` x ``height`` pixels.

    ``preprocessing`` is that of a cache: open_clip's ``PreprocessCfg`` (``size``, ``resize_mode``),
    and ``center_crop``, the side of a centre crop before it, where there is one. Raises
    EmbedcalError for the preprocessing of an encoder that is not open_clip's.
    """
    mode, target = preprocessing.get("resize_mode"), preprocessing.get("size")
    if mode not in MODES or not isinstance(target, list | tuple) or len(target) != 2:
        raise EmbedcalError(
            "expected an encoder that prepares images as open_clip does, found other "
            "preprocessing in the cache: cache with a CLIP of open_clip's"
        )
    crop = preprocessing.get("center_crop")
    shape = (height, width)
    starts = (0, 0) if crop is None else tuple(_start(length, crop) for length in shape)
    cropped = shape if crop is None else (crop, crop)
    resized = _resized(cropped, (int(target[0]), int(target[1])), mode)
    y, x = (
        _centres(start, before, after, int(end), whole)
        for start, before, after, end, whole in zip(
            starts, cropped, resized, target, shape, strict=True
        )
    )
    return Frame(x=x, y=y)


def _resized(shape: tuple[int, int], target: tuple[int, int], mode: str) -> tuple[int, int]:
    """Height and width after open_clip's resizing, before its crop."""
    if mode == "squash":
        return target
    height, width = shape
    if mode == "shortest" and target[0] == target[1]:  # torchvision's Resize: it rounds down
        short, size = min(shape), target[0]
        return (
            size if height == short else int(size * height / short),
            size if width == short else int(size * width / short),
        )
    ratios = (height / target[0], width / target[1])
    ratio = max(ratios) if mode == "longest" else min(ratios)
    return round(height / ratio), round(width / ratio)


def _start(length: int, size: int) -> int:
    """Where a centre crop begins, as torchvision and ``cache.cropping`` have it; < 0: padding."""
    return -((size - length) // 2) if size > length else round((length - size) / 2)


def _centres(start: int, before: int, after: int, end: int, whole: int) -> FloatArray:
    """Places along one side: a crop of ``before`` at ``start``, resized to ``after``, cut to
    ``end`` at the centre, in a file of ``whole`` pixels."""
    inside = np.arange(end) + 0.5 + _start(after, end)
    places = inside * (before / after) + start
    there = (inside > 0) & (inside < after) & (places >= 0) & (places < whole)
    return np.where(there, places, np.nan)
