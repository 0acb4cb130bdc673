"""One bird, drawn with polygons on a picture and on its mask at once."""

from __future__ import annotations

import math
from dataclasses import astuple, dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from embedcal.datasets.birds.colour import Colour, near
from embedcal.datasets.birds.species import SPECIES, Palette, Species

Points = list[tuple[float, float]]

COLOUR_JITTER = 12.0
GEOMETRY_JITTER = 0.08
FOREIGN_PALETTE = 0.05
FLYING = 0.15
# A bird's size, as a fraction of the picture's side; long parts make for a smaller body.
SIZE = (0.58, 0.84)


@dataclass
class Pen:
    """Draws shapes given in the bird's own frame.

    The frame has its origin in the middle of the body, the beak towards +x and the back
    towards -y (as pictures count), and the body's length as its unit.
    """

    picture: ImageDraw.ImageDraw
    mask: ImageDraw.ImageDraw
    centre: tuple[float, float]
    unit: float
    mirrored: bool

    def polygon(self, points: Points, colour: Colour) -> None:
        """Fill the polygon through `points`."""
        flip = -1.0 if self.mirrored else 1.0
        x0, y0 = self.centre
        placed = [(x0 + flip * self.unit * x, y0 + self.unit * y) for x, y in points]
        self.picture.polygon(placed, fill=colour)
        self.mask.polygon(placed, fill=255)

    def limb(
        self,
        start: tuple[float, float],
        end: tuple[float, float],
        widths: tuple[float, float],
        colour: Colour,
    ) -> None:
        """Fill a straight limb that is `widths` wide at its two ends."""
        (x0, y0), (x1, y1) = start, end
        length = math.hypot(x1 - x0, y1 - y0) or 1.0
        across, down = -(y1 - y0) / length, (x1 - x0) / length
        half, other = widths[0] / 2, widths[1] / 2
        self.polygon(
            [
                (x0 + half * across, y0 + half * down),
                (x1 + other * across, y1 + other * down),
                (x1 - other * across, y1 - other * down),
                (x0 - half * across, y0 - half * down),
            ],
            colour,
        )


def ellipse(x: float, y: float, width: float, height: float, degrees: float = 0.0) -> Points:
    """The outline of an ellipse about (x, y), its first axis raised by `degrees`."""
    turn = math.radians(degrees)
    cos, sin = math.cos(turn), math.sin(turn)
    outline = []
    for step in range(20):
        angle = math.tau * step / 20
        along, across = width / 2 * math.cos(angle), height / 2 * math.sin(angle)
        outline.append((x + along * cos + across * sin, y - along * sin + across * cos))
    return outline


def _jittered(palette: Palette, rng: np.random.Generator) -> Palette:
    return Palette(*(near(colour, COLOUR_JITTER, rng) for colour in astuple(palette)))


def _extent(species: Species) -> float:
    """Roughly how far the bird reaches, in bodies."""
    return 1 + (abs(species.tail) + species.neck + species.beak + species.legs) / 2


def draw_bird(
    picture: Image.Image, species: Species, rng: np.random.Generator
) -> NDArray[np.bool_]:
    """Draw a bird of `species` somewhere on the square `picture`; return its mask.

    Every habit (sitting, flying, borrowed plumage) is independent of the background, so that
    nothing but the bird itself tells its class.
    """
    side = picture.width
    mask = Image.new("L", picture.size)

    def vary(value: float) -> float:
        return value * (1 + GEOMETRY_JITTER * float(rng.normal()))

    wearer = SPECIES[rng.integers(len(SPECIES))] if rng.random() < FOREIGN_PALETTE else species
    plumage = _jittered(wearer.palettes[rng.integers(len(wearer.palettes))], rng)
    pen = Pen(
        ImageDraw.Draw(picture),
        ImageDraw.Draw(mask),
        (side * rng.uniform(0.36, 0.64), side * rng.uniform(0.40, 0.62)),
        side * rng.uniform(*SIZE) / _extent(species),
        bool(rng.random() < 0.5),
    )
    flying = rng.random() < FLYING
    sitting = rng.random() < species.sits
    tilt = 4.0 if flying else species.tilt + 5 * float(rng.normal())
    turn = math.radians(tilt)
    cos, sin = math.cos(turn), math.sin(turn)
    height = vary(species.height)

    def body(along: float, across: float) -> tuple[float, float]:
        """A point given along the body's axis and across it (positive is the belly's side)."""
        return along * cos + across * sin, -along * sin + across * cos

    tail = vary(abs(species.tail))
    lift = -0.7 * tail if species.tail < 0 else 0.0
    root, tip = body(-0.36, 0.0), body(-0.40 - tail, lift)
    pen.limb(root, tip, (height * 0.5, height * 0.34), plumage.wing)

    if not flying and not sitting:
        legs = vary(species.legs)
        for foot in (-0.04, 0.10):
            hip = (foot, height * 0.3)
            ankle = (foot + 0.02, height * 0.42 + legs)
            pen.limb(hip, ankle, (0.05, 0.05), plumage.legs)
            pen.limb(ankle, (ankle[0] + 0.10, ankle[1]), (0.05, 0.03), plumage.legs)

    pen.polygon(ellipse(0, 0, 1.0, height, tilt), plumage.body)
    pen.polygon(ellipse(*body(0.06, height * 0.2), 0.72, height * 0.52, tilt), plumage.belly)

    neck, skull = vary(species.neck), vary(species.head)
    shoulder = body(0.36, -height * 0.12)
    if flying:
        bend = (shoulder[0] + 0.5 * neck, shoulder[1] - 0.05 * neck)
        crown = (bend[0] + 0.5 * neck + skull * 0.5, bend[1] - skull * 0.3)
    else:
        bend = (shoulder[0] + 0.30 * neck, shoulder[1] - 0.42 * neck)
        crown = (bend[0] + 0.02 * neck + skull * 0.3, bend[1] - 0.58 * neck - skull * 0.6)
    thick = max(0.10, skull * 0.9)
    pen.limb(shoulder, bend, (thick * 1.5, thick), plumage.head)
    pen.limb(bend, crown, (thick, thick * 0.9), plumage.head)

    beak = vary(species.beak)
    base = (crown[0] + skull * 0.7, crown[1] + skull * 0.1)
    point = (base[0] + beak, base[1] + 0.18 * beak)
    pen.limb(base, point, (skull * 0.75 + 0.15 * beak, 0.05), plumage.beak)
    if species.hook:
        pen.limb(point, (point[0], point[1] + species.hook), (0.07, 0.04), plumage.beak)
    if species.crest:
        crest = vary(species.crest)
        pen.polygon(
            [
                (crown[0] + skull * 0.5, crown[1] - skull * 0.7),
                (crown[0] - skull * 0.4 - crest, crown[1] - skull * 0.8 - crest),
                (crown[0] - skull * 0.8, crown[1]),
            ],
            plumage.head,
        )
    pen.polygon(ellipse(*crown, skull * 2, skull * 1.8), plumage.head)

    if flying:
        span = vary(0.95 if species.label else 0.70)
        top = (-0.25 + 0.1 * float(rng.normal()), -span)
        pen.polygon([body(0.22, -0.1 * height), body(-0.28, -0.1 * height), top], plumage.wing)
    else:
        pen.polygon(
            ellipse(*body(-0.12, -height * 0.08), 0.74, height * 0.56, tilt - 6), plumage.wing
        )
    eye = (crown[0] + skull * 0.35, crown[1] - skull * 0.2)
    dark = sum(plumage.head) < 240
    pen.polygon(ellipse(*eye, 0.07, 0.07), (240, 220, 120) if dark else (12, 12, 14))
    return np.asarray(mask) > 0
