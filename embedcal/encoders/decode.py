"""Bytes of an image file -> pixels, exactly as PIL and open_clip would see them, or a reason."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from embedcal.types import EmbedcalError


class UnreadableImageError(EmbedcalError):
    """One file cannot be used as an image; ``reason`` is one line without the file's name."""

    def __init__(self, reason: str) -> None:
        self.reason = " ".join(reason.split())
        super().__init__(self.reason)


def refuse_size(width: int, height: int, what: str = "an image") -> None:
    """Raise if width x height is beyond ``PIL.Image.MAX_IMAGE_PIXELS`` (None there: no limit).

    PIL itself only warns up to twice its limit; a warning does not keep a machine alive.
    """
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and width * height > limit:
        raise UnreadableImageError(
            f"expected {what} of at most {limit} pixels, found {width} x {height}: "
            "refused as a decompression bomb"
        )


def _open(data: bytes) -> Image.Image:
    """The first frame, loaded. PIL's plug-ins may raise anything on hostile bytes."""
    if not data:
        raise UnreadableImageError("the file is empty")
    try:
        image = Image.open(io.BytesIO(data))
        refuse_size(image.width, image.height)
        image.load()
    except UnreadableImageError:
        raise
    except UnidentifiedImageError:
        raise UnreadableImageError("not an image that PIL knows") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise UnreadableImageError(f"refused as a decompression bomb: {error}") from None
    except MemoryError:
        raise UnreadableImageError("does not fit into memory") from None
    except Exception as error:
        raise UnreadableImageError(f"{type(error).__name__}: {error}") from error
    return image


def decode(
    data: bytes, prepare: Callable[[Image.Image], npt.NDArray[np.uint8]]
) -> npt.NDArray[np.uint8]:
    """One file's bytes -> ``prepare``'s pixels (h, w, 3) uint8.

    The picture reaches ``prepare`` as ``PIL.Image.open`` gives it: the mode is the file's own,
    no EXIF rotation, the first frame of an animation, and no ``draft`` or ``reducing_gap``, which
    change features. Safe in threads: no global state is touched.

    Raises UnreadableImageError for an empty, truncated or damaged file, for what is no image, for
    decompression bombs, and where ``prepare`` cannot handle the mode or size.
    """
    image = _open(data)
    try:
        return prepare(image)
    except UnreadableImageError:
        raise
    except (OSError, ValueError, MemoryError) as error:
        raise UnreadableImageError(
            f"mode {image.mode}, {image.width} x {image.height}: {type(error).__name__}: {error}"
        ) from error
