"""The centre crop that a data set wants before an encoder's own preprocessing."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from embedcal.datasets.manifest import Manifest
from embedcal.encoders.base import EncoderMeta
from embedcal.encoders.decode import refuse_size

if TYPE_CHECKING:
    from PIL.Image import Image

Prepare = Callable[["Image"], npt.NDArray[np.uint8]]


def crop_for(manifest: Manifest, meta: EncoderMeta) -> int | None:
    """Side in pixels of the crop of these images for this encoder; None: whole images.

    ``Manifest.crop`` is for every encoder, ``Manifest.image_only_crop`` for one without a text
    tower.
    """
    if manifest.crop is not None or meta.has_text:
        return manifest.crop
    return manifest.image_only_crop


def center_crop(image: Image, size: int) -> Image:
    """The ``size`` x ``size`` pixels in the middle of a picture, whatever its mode.

    An odd pixel more on one side is dealt with as by torchvision's ``CenterCrop``: the offset is
    half the difference, rounded half to even. Where the picture is smaller than the crop it is
    padded with zeros, the odd row or column at the far end.
    """
    refuse_size(size, size, "a crop")
    left, top = (_offset(length, size) for length in image.size)
    return image.crop((left, top, left + size, top + size))


def _offset(length: int, size: int) -> int:
    """Where the crop begins along one side; negative where there is padding before it."""
    return -((size - length) // 2) if size > length else round((length - size) / 2)


def cropping(prepare: Prepare, size: int | None) -> Prepare:
    """``prepare`` of the centre crop of a picture; ``prepare`` itself for None."""
    if size is None:
        return prepare
    return lambda image: prepare(center_crop(image, size))
