"""One scene: a bird before a place, with its mask."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from embedcal.datasets.birds.background import draw_background
from embedcal.datasets.birds.bird import draw_bird
from embedcal.datasets.birds.species import Species

SIDE = 64
CANVAS = 2 * SIDE
OCCLUDED = 0.15
NOISE = 5.0


@dataclass(frozen=True)
class Scene:
    """What was drawn: `image` (64, 64, 3) uint8 and `mask` (64, 64) bool, true on the bird."""

    image: NDArray[np.uint8]
    mask: NDArray[np.bool_]

    @property
    def box(self) -> tuple[int, int, int, int]:
        """The mask's bounds: left, top, width, height in pixels."""
        rows, columns = np.flatnonzero(self.mask.any(1)), np.flatnonzero(self.mask.any(0))
        left, top = int(columns[0]), int(rows[0])
        return left, top, int(columns[-1]) - left + 1, int(rows[-1]) - top + 1


def draw_scene(species: Species, word: str, rng: np.random.Generator) -> Scene:
    """Draw a bird of `species` at the place called `word`.

    The picture is drawn at twice its size and box-reduced, which smooths every edge. A pixel
    belongs to the bird where at least half of its four canvas pixels do.
    """
    background = draw_background(word, CANVAS, rng)
    picture = background.copy()
    mask = draw_bird(picture, species, rng)
    if rng.random() < OCCLUDED:
        mask = _occlude(picture, background, mask, rng)
    drawn = np.asarray(picture.reduce(2)) - 128.0
    image = 128 + drawn * rng.uniform(0.85, 1.15) + rng.normal(0, NOISE, drawn.shape)
    share = mask.reshape(SIDE, 2, SIDE, 2).mean((1, 3))
    return Scene(np.clip(image, 0, 255).astype(np.uint8), share >= 0.5)


def _occlude(
    picture: Image.Image,
    background: Image.Image,
    mask: NDArray[np.bool_],
    rng: np.random.Generator,
) -> NDArray[np.bool_]:
    """Put a piece of the place in front of the bird; return what of the mask is left."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    width = int((columns[-1] - columns[0]) * rng.uniform(0.12, 0.25))
    height = int((rows[-1] - rows[0]) * rng.uniform(0.12, 0.25))
    if rng.random() < 0.5:
        left = int(rng.integers(columns[0], columns[-1] - width + 1))
        box = (left, 0, left + width, CANVAS)
    else:
        top = int(rng.integers(rows[0], rows[-1] - height + 1))
        box = (0, top, CANVAS, top + height)
    picture.paste(background.crop(box), box[:2])
    left, top, right, bottom = box
    covered = mask.copy()
    covered[top:bottom, left:right] = False
    return covered
