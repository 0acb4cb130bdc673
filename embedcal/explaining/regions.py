"""The object's pixels in the frame of the encoder's input, from masks or boxes of the files."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from embedcal.cache import FeatureCache
from embedcal.cache.digests import read_regular
from embedcal.datasets.printable import printable
from embedcal.explaining.frame import frame
from embedcal.pictures import Pictures
from embedcal.types import EmbedcalError, IntArray

Kind = Literal["auto", "mask", "box"]
KINDS: tuple[Kind, ...] = ("auto", "mask", "box")

HALF = 127  # above it a grey value is the object: a majority of CUB's annotators


def has_regions(cache: FeatureCache) -> bool:
    """Whether the cache knows masks or boxes at all."""
    return cache.samples.masks is not None or cache.samples.box is not None


@dataclass(frozen=True)
class Regions:
    """The object in each image. ``kind``: ``mask``; ``box``, the cache's or else the tightest box
    around the mask; ``auto``, the mask where there is one and else the box.

    Masks are images of the size of their file; grey values above 127, or any colour of a palette
    but the first, are the object. No backbone is needed, only the files of images, which must be
    those that were cached, and of masks, of which the cache knows no more than the name: a mask of
    another size than its image is refused.
    """

    pictures: Pictures
    kind: Kind = "auto"

    def __post_init__(self) -> None:
        samples, name = self.pictures.cache.samples, self.pictures.cache.meta.path.name
        if self.kind not in KINDS:
            raise EmbedcalError(
                f"expected a region among {', '.join(KINDS)}, found '{printable(self.kind)}': take "
                "auto, the mask where there is one and else the box"
            )
        if not has_regions(self.pictures.cache) or (self.kind == "mask" and samples.masks is None):
            wanted = "masks" if self.kind == "mask" else "masks or boxes"
            raise EmbedcalError(
                f"expected {wanted} of the objects in {name}, found none: give the data set a "
                "'mask' column or a file of boxes, and cache again"
            )

    def __call__(self, rows: IntArray) -> npt.NDArray[np.bool_]:
        """(n, H, W): the object in the frame; nothing is set in rows without mask and box."""
        return np.stack([self._one(int(row)) for row in rows])

    def _one(self, row: int) -> npt.NDArray[np.bool_]:
        cache = self.pictures.cache
        samples, preprocessing = cache.samples, cache.meta.preprocessing
        box = None if samples.box is None else samples.box[row]
        if box is not None and not np.isfinite(box).all():
            box = None
        path = "" if samples.masks is None else samples.masks[row]
        if path and (self.kind != "box" or box is None):
            mask = self._mask(path, self.pictures.size(row))
            found = frame(mask.shape[1], mask.shape[0], preprocessing)
            return found.mask(mask) if self.kind != "box" else found.box(tightest(mask))
        if box is None or self.kind == "mask":
            return np.zeros(frame(1, 1, preprocessing).shape, bool)
        return frame(*self.pictures.size(row), preprocessing).box(box)

    def _mask(self, path: str, size: tuple[int, int]) -> npt.NDArray[np.bool_]:
        """(h, w) of a file's mask, where ``size`` is the width and height of its image."""
        from embedcal.encoders.decode import UnreadableImageError, decode

        file = self.pictures.root / path
        try:
            mask = decode(read_regular(file), _object) > 0
        except (OSError, ValueError, UnreadableImageError) as error:
            why = getattr(error, "strerror", None) or getattr(error, "reason", str(error))
            raise EmbedcalError(
                f"expected a mask at {printable(str(file), longest=300)}, found {why}: name the "
                "folder of the images with --root, or use boxes with --region box"
            ) from None
        if mask.shape[::-1] != size:
            raise EmbedcalError(
                f"expected a mask of its image's {size[0]} x {size[1]} pixels at "
                f"{printable(str(file), longest=300)}, found {mask.shape[1]} x {mask.shape[0]}: "
                "put that image's mask there, or use boxes with --region box"
            )
        return mask


def tightest(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
    """x, y, width, height of the smallest box around a mask (h, w); NaN around nothing."""
    ys, xs = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(ys):
        return np.full(4, np.nan)
    return np.array([xs[0], ys[0], xs[-1] - xs[0] + 1, ys[-1] - ys[0] + 1], float)


def _object(image: object) -> npt.NDArray[np.uint8]:
    """1 where a mask's picture shows the object."""
    from PIL.Image import Image

    assert isinstance(image, Image)
    if image.mode in ("1", "P"):
        return (np.asarray(image) > 0).astype(np.uint8)
    return (np.asarray(image.convert("L")) > HALF).astype(np.uint8)
