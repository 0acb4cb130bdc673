"""Six kinds of place, three on land and three by the water, drawn without a bird."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw

from embedcal.datasets.birds.colour import Colour, near
from embedcal.datasets.birds.species import PLACE_WORDS

COLOUR_JITTER = 16.0
SHORE = 0.25
SHORE_SHARE = (0.20, 0.45)


def _near(colour: Colour, rng: np.random.Generator) -> Colour:
    return near(colour, COLOUR_JITTER, rng)


def _ground(side: int, upper: Colour, lower: Colour, rng: np.random.Generator) -> Image.Image:
    """A vertical gradient with soft blotches."""
    ramp = np.linspace(0, 1, 8)[:, None, None]
    soft = (1 - ramp) * np.array(upper) + ramp * np.array(lower) + rng.normal(0, 9, (8, 8, 3))
    small = Image.fromarray(np.clip(soft, 0, 255).astype(np.uint8))
    return small.resize((side, side), Image.Resampling.BILINEAR)


def _sky(picture: Image.Image, horizon: int, colour: Colour, rng: np.random.Generator) -> None:
    pale = tuple(min(255, value + 30) for value in colour)
    sky = _ground(picture.width, colour, (pale[0], pale[1], pale[2]), rng)
    picture.paste(sky.crop((0, 0, picture.width, horizon)), (0, 0))


def _forest(side: int, rng: np.random.Generator) -> Image.Image:
    picture = _ground(side, _near((44, 84, 44), rng), _near((58, 66, 34), rng), rng)
    draw = ImageDraw.Draw(picture)
    for _ in range(rng.integers(4, 9)):
        x, width = rng.uniform(0, side), rng.uniform(0.03, 0.08) * side
        draw.rectangle([x, 0, x + width, side * rng.uniform(0.7, 1.0)], _near((74, 54, 38), rng))
    for _ in range(rng.integers(10, 18)):
        x, y, r = rng.uniform(0, side), rng.uniform(0, 0.6) * side, rng.uniform(0.05, 0.13) * side
        draw.ellipse([x - r, y - r, x + r, y + r], _near((40, 100, 44), rng))
    return picture


def _field(side: int, rng: np.random.Generator) -> Image.Image:
    picture = _ground(side, _near((140, 160, 70), rng), _near((110, 140, 50), rng), rng)
    horizon = int(side * rng.uniform(0.2, 0.4))
    _sky(picture, horizon, _near((166, 196, 220), rng), rng)
    draw = ImageDraw.Draw(picture)
    for _ in range(rng.integers(25, 45)):
        x, y = rng.uniform(0, side), rng.uniform(horizon, side)
        tip = (x + rng.normal(0, 0.02) * side, y - rng.uniform(0.04, 0.12) * side)
        draw.line([(x, y), tip], _near((170, 168, 70), rng), 2)
    return picture


def _mountain(side: int, rng: np.random.Generator) -> Image.Image:
    picture = _ground(side, _near((132, 116, 94), rng), _near((112, 92, 66), rng), rng)
    horizon = int(side * rng.uniform(0.45, 0.6))
    _sky(picture, horizon, _near((172, 186, 202), rng), rng)
    draw = ImageDraw.Draw(picture)
    for _ in range(rng.integers(2, 5)):
        x, half = rng.uniform(0, side), rng.uniform(0.25, 0.5) * side
        top = side * rng.uniform(0.05, 0.25)
        rock = _near((116, 106, 98), rng)
        draw.polygon([(x - half, horizon), (x, top), (x + half, horizon)], rock)
        cap, drop = 0.25 * half, top + 0.25 * (horizon - top)
        draw.polygon([(x - cap, drop), (x, top), (x + cap, drop)], (232, 234, 238))
    for _ in range(rng.integers(6, 12)):
        x, y, r = rng.uniform(0, side), rng.uniform(horizon, side), rng.uniform(0.02, 0.05) * side
        draw.ellipse([x - r, y - r * 0.7, x + r, y + r * 0.7], _near((126, 116, 104), rng))
    return picture


def _ripples(
    picture: Image.Image, top: int, colour: Colour, count: int, rng: np.random.Generator
) -> None:
    draw, side = ImageDraw.Draw(picture), picture.width
    for _ in range(count):
        x, y, half = rng.uniform(0, side), rng.uniform(top, side), rng.uniform(0.04, 0.14) * side
        draw.line([(x - half, y), (x, y - 2), (x + half, y)], _near(colour, rng), 2)


def _ocean(side: int, rng: np.random.Generator) -> Image.Image:
    picture = _ground(side, _near((48, 100, 158), rng), _near((28, 70, 128), rng), rng)
    horizon = int(side * rng.uniform(0.2, 0.4))
    _sky(picture, horizon, _near((160, 192, 224), rng), rng)
    _ripples(picture, horizon, (150, 190, 218), int(rng.integers(14, 26)), rng)
    return picture


def _lake(side: int, rng: np.random.Generator) -> Image.Image:
    picture = _ground(side, _near((104, 150, 176), rng), _near((64, 116, 150), rng), rng)
    horizon = int(side * rng.uniform(0.15, 0.3))
    _sky(picture, horizon, _near((180, 204, 222), rng), rng)
    hills = ImageDraw.Draw(picture)
    hills.rectangle([0, horizon - 0.06 * side, side, horizon], _near((76, 104, 92), rng))
    _ripples(picture, horizon, (136, 178, 198), int(rng.integers(8, 16)), rng)
    return picture


def _river(side: int, rng: np.random.Generator) -> Image.Image:
    picture = _ground(side, _near((84, 138, 150), rng), _near((52, 108, 126), rng), rng)
    _ripples(picture, 0, (176, 208, 212), int(rng.integers(16, 28)), rng)
    draw = ImageDraw.Draw(picture)
    for _ in range(rng.integers(2, 6)):
        x, y, r = rng.uniform(0, side), rng.uniform(0, side), rng.uniform(0.03, 0.07) * side
        draw.ellipse([x - r, y - r * 0.6, x + r, y + r * 0.6], _near((108, 108, 106), rng))
    return picture


_PAINTERS = {
    "forest": _forest,
    "field": _field,
    "mountain": _mountain,
    "ocean": _ocean,
    "lake": _lake,
    "river": _river,
}


def draw_background(word: str, side: int, rng: np.random.Generator) -> Image.Image:
    """A square picture of the place called `word`, `side` pixels wide.

    A quarter are shores: a strip of the other kind of place lies along one edge.
    """
    picture = _PAINTERS[word](side, rng)
    if rng.random() < SHORE:
        other = PLACE_WORDS[0 if word in PLACE_WORDS[1] else 1]
        strip = _PAINTERS[other[rng.integers(len(other))]](side, rng)
        width = int(side * rng.uniform(*SHORE_SHARE))
        edges = ((0, 0, width, side), (side - width, 0, side, side), (0, side - width, side, side))
        box = edges[rng.integers(len(edges))]
        picture.paste(strip.crop(box), box[:2])
    return picture
