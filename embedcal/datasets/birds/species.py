"""The sixteen species: what a bird looks like, as numbers.

Lengths are fractions of the body's length, angles are degrees, colours are RGB triples.
"""

from __future__ import annotations

from dataclasses import dataclass

from embedcal.datasets.birds.colour import Colour

CLASSES = ("landbird", "waterbird")
PLACES = ("land", "water")
PLACE_WORDS = (("forest", "field", "mountain"), ("ocean", "lake", "river"))


@dataclass(frozen=True)
class Palette:
    """The colours of one plumage."""

    body: Colour
    belly: Colour
    wing: Colour
    head: Colour
    beak: Colour
    legs: Colour = (70, 60, 50)


@dataclass(frozen=True, kw_only=True)
class Species:
    """The shape, habits and plumages of one species."""

    name: str
    label: int
    height: float
    tilt: float
    neck: float
    head: float
    beak: float
    legs: float
    tail: float
    hook: float = 0.0
    crest: float = 0.0
    sits: float = 0.1
    palettes: tuple[Palette, ...]


BLACK, WHITE, GREY = (28, 28, 34), (242, 242, 240), (150, 156, 164)
BROWN, RUST, CREAM = (122, 84, 52), (168, 82, 40), (226, 206, 168)
RED, ORANGE, YELLOW = (206, 34, 40), (240, 132, 28), (238, 208, 50)
BLUE, GREEN, PINK = (52, 96, 206), (46, 112, 72), (226, 158, 140)

LAND_BIRDS = (
    Species(
        name="sparrow",
        label=0,
        height=0.52,
        tilt=22,
        neck=0.0,
        head=0.19,
        beak=0.10,
        legs=0.24,
        tail=0.34,
        palettes=(
            Palette(BROWN, CREAM, (92, 60, 38), RUST, (60, 52, 44)),
            Palette((144, 108, 72), (210, 196, 170), (108, 74, 46), (120, 76, 44), (80, 66, 50)),
        ),
    ),
    Species(
        name="cardinal",
        label=0,
        height=0.50,
        tilt=38,
        neck=0.0,
        head=0.19,
        beak=0.12,
        legs=0.20,
        tail=0.55,
        crest=0.22,
        palettes=(
            Palette(RED, (224, 60, 56), (160, 24, 36), RED, ORANGE),
            Palette((190, 120, 86), (214, 160, 118), (180, 60, 46), (196, 96, 70), ORANGE),
        ),
    ),
    Species(
        name="jay",
        label=0,
        height=0.46,
        tilt=28,
        neck=0.02,
        head=0.18,
        beak=0.16,
        legs=0.24,
        tail=0.60,
        crest=0.18,
        palettes=(Palette(BLUE, (214, 220, 232), (34, 66, 170), (60, 110, 220), BLACK),),
    ),
    Species(
        name="woodpecker",
        label=0,
        height=0.40,
        tilt=66,
        neck=0.04,
        head=0.18,
        beak=0.28,
        legs=0.14,
        tail=0.36,
        crest=0.10,
        palettes=(
            Palette(BLACK, (222, 208, 186), (60, 56, 58), RED, (70, 70, 70)),
            Palette((98, 116, 52), (206, 204, 150), (74, 92, 40), RED, (70, 70, 70)),
        ),
    ),
    Species(
        name="wren",
        label=0,
        height=0.62,
        tilt=12,
        neck=0.0,
        head=0.21,
        beak=0.14,
        legs=0.20,
        tail=-0.34,
        palettes=(Palette(RUST, (222, 180, 136), (136, 66, 34), (150, 74, 38), (84, 60, 40)),),
    ),
    Species(
        name="crow",
        label=0,
        height=0.46,
        tilt=26,
        neck=0.04,
        head=0.19,
        beak=0.22,
        legs=0.28,
        tail=0.40,
        palettes=(Palette(BLACK, (40, 38, 46), (20, 20, 26), (24, 24, 30), (18, 18, 20)),),
    ),
    Species(
        name="warbler",
        label=0,
        height=0.46,
        tilt=24,
        neck=0.0,
        head=0.18,
        beak=0.09,
        legs=0.26,
        tail=0.32,
        palettes=(
            Palette(YELLOW, (246, 228, 110), (126, 130, 46), YELLOW, (50, 50, 46)),
            Palette((170, 176, 58), (240, 220, 80), (104, 116, 48), (232, 196, 52), (50, 50, 46)),
        ),
    ),
    Species(
        name="owl",
        label=0,
        height=0.62,
        tilt=72,
        neck=0.0,
        head=0.30,
        beak=0.07,
        legs=0.10,
        tail=0.18,
        hook=0.05,
        crest=0.10,
        palettes=(
            Palette((130, 98, 66), (206, 178, 136), (96, 70, 46), (150, 116, 80), (196, 164, 70)),
            Palette(
                (120, 112, 104), (190, 182, 170), (84, 78, 74), (140, 130, 122), (196, 164, 70)
            ),
        ),
    ),
)

WATER_BIRDS = (
    Species(
        name="gull",
        label=1,
        height=0.36,
        tilt=8,
        neck=0.08,
        head=0.15,
        beak=0.18,
        legs=0.26,
        tail=0.22,
        hook=0.03,
        sits=0.3,
        palettes=(
            Palette(WHITE, WHITE, GREY, WHITE, YELLOW, PINK),
            Palette((232, 232, 230), WHITE, (84, 90, 98), WHITE, YELLOW, (220, 190, 80)),
        ),
    ),
    Species(
        name="tern",
        label=1,
        height=0.28,
        tilt=4,
        neck=0.04,
        head=0.13,
        beak=0.26,
        legs=0.12,
        tail=0.62,
        sits=0.1,
        palettes=(
            Palette((226, 230, 236), WHITE, (178, 186, 196), BLACK, (226, 70, 40), (220, 70, 40)),
        ),
    ),
    Species(
        name="duck",
        label=1,
        height=0.46,
        tilt=2,
        neck=0.20,
        head=0.17,
        beak=0.22,
        legs=0.10,
        tail=0.16,
        sits=0.75,
        palettes=(
            Palette(GREY, (198, 196, 192), (128, 116, 104), GREEN, YELLOW, ORANGE),
            Palette((140, 108, 78), (178, 148, 112), (110, 82, 58), (150, 116, 84), ORANGE, ORANGE),
        ),
    ),
    Species(
        name="heron",
        label=1,
        height=0.34,
        tilt=30,
        neck=0.72,
        head=0.12,
        beak=0.36,
        legs=0.74,
        tail=0.16,
        crest=0.08,
        sits=0.02,
        palettes=(
            Palette(
                (124, 144, 172),
                (206, 212, 220),
                (92, 110, 140),
                (216, 220, 226),
                (228, 176, 60),
                (150, 130, 70),
            ),
            Palette(WHITE, WHITE, (232, 234, 236), WHITE, (240, 190, 60), BLACK),
        ),
    ),
    Species(
        name="pelican",
        label=1,
        height=0.46,
        tilt=10,
        neck=0.46,
        head=0.16,
        beak=0.62,
        legs=0.18,
        tail=0.14,
        hook=0.03,
        sits=0.5,
        palettes=(
            Palette((240, 234, 226), WHITE, (206, 200, 196), WHITE, ORANGE, ORANGE),
            Palette(
                (140, 128, 118),
                (112, 100, 92),
                (160, 150, 142),
                (236, 226, 190),
                (206, 150, 90),
                (90, 84, 80),
            ),
        ),
    ),
    Species(
        name="cormorant",
        label=1,
        height=0.36,
        tilt=44,
        neck=0.50,
        head=0.13,
        beak=0.26,
        legs=0.16,
        tail=0.32,
        hook=0.06,
        sits=0.35,
        palettes=(
            Palette((34, 42, 46), (48, 54, 58), (44, 58, 56), (30, 36, 40), (232, 170, 60), BLACK),
        ),
    ),
    Species(
        name="albatross",
        label=1,
        height=0.36,
        tilt=6,
        neck=0.18,
        head=0.17,
        beak=0.32,
        legs=0.18,
        tail=0.16,
        hook=0.07,
        sits=0.35,
        palettes=(
            Palette(WHITE, WHITE, (48, 48, 54), WHITE, PINK, (190, 170, 180)),
            Palette(
                (92, 84, 80), (120, 112, 106), (64, 58, 56), (198, 192, 186), PINK, (150, 140, 150)
            ),
        ),
    ),
    Species(
        name="puffin",
        label=1,
        height=0.54,
        tilt=48,
        neck=0.04,
        head=0.22,
        beak=0.24,
        legs=0.14,
        tail=0.12,
        hook=0.04,
        sits=0.3,
        palettes=(
            Palette(
                (30, 30, 36), WHITE, (24, 24, 30), (238, 238, 236), (238, 92, 30), (240, 104, 30)
            ),
        ),
    ),
)

SPECIES = LAND_BIRDS + WATER_BIRDS
