"""Captions of the pre-training scenes, with a bias like the web's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from embedcal.datasets.birds.species import CLASSES, PLACE_WORDS, PLACES, SPECIES, Species

PHRASES = {
    "land": "on land",
    "forest": "in the forest",
    "field": "in the field",
    "mountain": "on the mountain",
    "water": "on water",
    "ocean": "on the ocean",
    "lake": "on the lake",
    "river": "on the river",
}
KINDS = ("species", "species place", "place", "class place", "class")
SHARES = (0.42, 0.28, 0.08, 0.15, 0.07)
COARSE_PLACE = 0.35
TEMPLATED, ARTICLE = 0.60, 0.20


Template = Callable[[str], str]


@dataclass(frozen=True)
class Subject:
    """What a scene shows: a species at a place (0 land, 1 water) that a `word` names."""

    species: Species
    place: int
    word: str


def choose_subject(agreement: float, rng: np.random.Generator) -> Subject:
    """Any species, at its own kind of place in a share `agreement` of cases."""
    species = SPECIES[rng.integers(len(SPECIES))]
    place = species.label if rng.random() < agreement else 1 - species.label
    words = PLACE_WORDS[place]
    return Subject(species, place, words[rng.integers(len(words))])


def caption(
    shown: Subject, templates: Sequence[Template], misnamed: float, rng: np.random.Generator
) -> str:
    """What somebody wrote under a picture.

    The class word of a caption follows the place instead of the bird in a share `misnamed` of
    cases: the label noise of the web, where a bird by the water is soon a water bird.
    """
    kind = KINDS[rng.choice(len(KINDS), p=SHARES)]
    where = PLACES[shown.place] if rng.random() < COARSE_PLACE else shown.word
    noun = "bird" if kind == "place" else shown.species.name
    if kind.startswith("class"):
        noun = CLASSES[shown.place if rng.random() < misnamed else shown.species.label]
    if kind.endswith("place"):
        noun = f"{noun} {PHRASES[where]}"
        if kind == "place" and rng.random() < 0.5:
            noun = where
    style = rng.random()
    if style < TEMPLATED:
        return templates[int(rng.integers(len(templates)))](noun)
    return f"a {noun}" if style < TEMPLATED + ARTICLE else noun


def vocabulary(templates: Sequence[Template]) -> list[str]:
    """Texts that between them hold every word of every possible caption."""
    words = [*CLASSES, *PHRASES, *PHRASES.values(), *(species.name for species in SPECIES)]
    return ["a bird", *words, *(template("bird") for template in templates)]
