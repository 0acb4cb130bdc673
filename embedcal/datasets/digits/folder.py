"""Draw the planned digits and write them as a folder."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from embedcal.datasets.digits.plan import Row, plan
from embedcal.datasets.made import Picture, Pixels, write_folder
from embedcal.types import IntArray

# Raise it whenever the same (rows, seed) gives other pictures.
REVISION = 1
SIZE = 64
INK = 16  # load_digits counts ink from 0 to 16

# Red, yellow, green, blue, purple, mixed with two parts of white. In full colours frozen features
# tell next to nothing but the colour, and no head over them can be mended.
COLORS = ((247, 183, 183), (250, 243, 183), (187, 233, 190), (190, 200, 247), (223, 190, 237))


def write(
    folder: Path, *, rows: int, seed: int, progress: Callable[[int], None] | None = None
) -> Path:
    """Write the digits into ``folder``: ``metadata.csv`` and pictures in ``digit/``.

    Columns: ``id`` (its place in load_digits), ``filename``, ``y``, ``split``, ``digit``,
    ``color``.
    """
    images, digits = _handwriting()
    planned = plan(digits, rows=rows, seed=seed)
    identity = {"made": "digits", "revision": REVISION, "rows": rows, "seed": seed}
    return write_folder(folder, identity, _pictures(planned, images), count=rows, progress=progress)


def draw(image: Pixels, color: int) -> Pixels:
    """Ink (8, 8) of 0 to 16 -> a coloured stroke on black (64, 64, 3), enlarged bicubically."""
    grey = Image.fromarray((image.astype(np.uint16) * 255 // INK).astype(np.uint8))
    ink = np.asarray(grey.resize((SIZE, SIZE), Image.Resampling.BICUBIC)).astype(np.uint16)
    paint = np.array(COLORS[color], np.uint16)
    return ((ink[..., None] * paint + 127) // 255).astype(np.uint8)


def _pictures(planned: list[Row], images: Pixels) -> Iterator[Picture]:
    for row in planned:
        cells = {
            "id": row.image,
            "filename": f"{row.digit}/{row.image:04d}.png",
            "y": row.y,
            "split": row.split,
            "digit": row.digit,
            "color": row.color,
        }
        yield cells, draw(images[row.image], row.color)


def _handwriting() -> tuple[Pixels, IntArray]:
    """Images (1797, 8, 8) and digits (1797,) of scikit-learn's data set."""
    from sklearn.datasets import load_digits

    found = load_digits()
    return found.images.astype(np.uint8), found.target.astype(np.int64)
