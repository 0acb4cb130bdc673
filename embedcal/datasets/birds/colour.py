"""Colours that vary a little."""

from __future__ import annotations

import numpy as np

Colour = tuple[int, int, int]


def near(colour: Colour, spread: float, rng: np.random.Generator) -> Colour:
    """A colour near `colour`, each channel off by a normal number of standard deviation `spread`.

    In plain Python: on three numbers NumPy's calls cost more than the arithmetic, and a scene
    asks for some twenty colours.
    """
    red, green, blue = (
        int(min(max(level + off, 0.0), 255.0))
        for level, off in zip(colour, rng.normal(0, spread, 3).tolist(), strict=True)
    )
    return red, green, blue
