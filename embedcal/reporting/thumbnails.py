"""Small pictures of a cache's images, as data that stands in the page itself."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from embedcal.cache import FeatureCache
from embedcal.types import EmbedcalError

if TYPE_CHECKING:
    from PIL.Image import Image

    from embedcal.pictures import Pictures

SIDE = 144  # pixels: sharp at 96 on most screens, about 4 KB each
QUALITY = 78


@dataclass
class Thumbnails:
    """Data URIs of the images of rows, each made once; ``note`` says why there are none.

    Images are read as they were cached, checked against the cache's digests, and written anew: of
    the files' own metadata, such as where a photograph was taken, nothing gets into the page.
    """

    cache: FeatureCache
    pictures: Pictures | None
    note: str = ""
    _made: dict[int, str] = field(default_factory=dict)

    def of(self, row: int) -> str:
        """The data URI of a row; empty where its file is not there, is changed, or is no image."""
        if self.pictures is None:
            return ""
        if row not in self._made:
            self._made[row] = self._make(row, self.pictures)
        return self._made[row]

    def _make(self, row: int, pictures: Pictures) -> str:
        from PIL import Image

        from embedcal.encoders.decode import decode

        try:
            pixels = decode(pictures.read(row), _small)
        except EmbedcalError as error:
            self.note = self.note or str(error)
            return ""
        out = io.BytesIO()
        Image.fromarray(pixels).save(out, "JPEG", quality=QUALITY)
        return data_uri(out.getvalue(), "image/jpeg")


def _small(image: Image) -> npt.NDArray[np.uint8]:
    rgb = image.convert("RGB")
    rgb.thumbnail((SIDE, SIDE))
    return np.asarray(rgb)


def thumbnails(
    cache: FeatureCache, rows: Sequence[int], root: Path | None, *, wanted: bool
) -> Thumbnails:
    """Of a cache, from ``root`` or from where the first of ``rows`` is found as it was cached."""
    from embedcal.pictures import find

    if not wanted:
        return Thumbnails(cache, None, "no images, as asked (--no-images)")
    if not len(rows):
        return Thumbnails(cache, None)
    try:
        return Thumbnails(cache, find(cache, int(rows[0]), root))
    except EmbedcalError as error:
        return Thumbnails(cache, None, f"no images: {error}")


def data_uri(data: bytes, kind: str) -> str:
    """Bytes as an address that holds them."""
    return f"data:{kind};base64,{base64.b64encode(data).decode('ascii')}"
