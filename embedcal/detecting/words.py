"""Words as directions of a cache's joint space: its classes, its attribute values, a vocabulary."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from embedcal.cache import FeatureCache
from embedcal.detecting.options import DetectOptions
from embedcal.detecting.presence import directions, plain
from embedcal.detecting.vocabulary import candidates, vocabulary
from embedcal.detecting.wording import unit
from embedcal.types import EmbedcalError, FloatArray

CLASS, ATTRIBUTE = "class", "attribute"  # banks of prompts


def word_directions(
    cache: FeatureCache,
    source: str | Path | Sequence[str] | None = None,
    options: DetectOptions | None = None,
) -> dict[str, FloatArray]:
    """By name w_j - mean_c w_c (d,): a unit text feature less the mean of the class prompts.

    The classes come first, then the values of attributes, both by the prompts of the cache; then
    the names of a vocabulary (see ``vocabulary``) that the encoder can tell and that are neither.
    EmbedcalError without a text tower.
    """
    if CLASS not in cache.banks:
        raise EmbedcalError(
            f"expected prompts of the classes to speak of, found none in {cache.meta.path.name}: "
            "cache with an encoder that has a text tower"
        )
    prompted = {bank: unit(unit(cache.text(bank).embedding).mean(1)) for bank in _banks(cache)}
    null = prompted[CLASS].mean(0)
    found = dict(zip(cache.meta.classes, prompted[CLASS] - null, strict=True))
    if ATTRIBUTE in prompted:
        for name, feature in zip(cache.text(ATTRIBUTE).prompts, prompted[ATTRIBUTE], strict=True):
            found.setdefault(name, feature - null)
    taken = {plain(name) for name in found}
    names = [name for name in candidates(vocabulary(source), cache) if plain(name) not in taken]
    if names:
        told, towards = directions(cache, names, options or DetectOptions())
        found |= dict(zip(told, towards, strict=True))
    return found


def _banks(cache: FeatureCache) -> tuple[str, ...]:
    return tuple(bank for bank in (CLASS, ATTRIBUTE) if bank in cache.banks)
