"""What a study needs of a cache, by name, and what to do where it is not there."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from embedcal.cache import FeatureCache
from embedcal.datasets.printable import printable
from embedcal.types import EmbedcalError


@dataclass(frozen=True, kw_only=True)
class Need:
    """One thing that a cache may have: whether it has, its name, and how to get it."""

    there: Callable[[FeatureCache], bool]
    what: str
    found: Callable[[FeatureCache], str]
    mend: str


def _attributes(cache: FeatureCache) -> str:
    names = [printable(name) for name, _ in cache.meta.attributes]
    return f"{len(names)} ({', '.join(names)})" if names else "none"


def _text(cache: FeatureCache) -> str:
    return f"the prompts {', '.join(cache.banks)}" if cache.banks else "image features alone"


def _projects(cache: FeatureCache) -> bool:
    return (
        cache.projection() is not None and "class" in cache.banks and "pooled" in cache.meta.levels
    )


def _projects_text(cache: FeatureCache) -> bool:
    projection = cache.projection()
    return projection is not None and projection.text_weight is not None


WITH_TEXT = "cache the images by an encoder with a text tower"

NEEDS: dict[str, Need] = {
    "attributes": Need(
        there=lambda cache: len(cache.meta.attributes) > 0,
        what="attribute labels",
        found=_attributes,
        mend="add an attribute column and cache again",
    ),
    "two attributes": Need(
        there=lambda cache: len(cache.meta.attributes) > 1,
        what="two attributes or more",
        found=_attributes,
        mend="cache a table with a column for each attribute",
    ),
    "projection": Need(
        there=_projects,
        what="a projection with class prompts",
        found=_text,
        mend=WITH_TEXT,
    ),
    "text projection": Need(
        there=_projects_text,
        what="the weights of a text projection",
        found=_text,
        mend=WITH_TEXT,
    ),
    "class prompts": Need(
        there=lambda cache: "class" in cache.banks,
        what="class prompts",
        found=_text,
        mend=WITH_TEXT,
    ),
    "attribute prompts": Need(
        there=lambda cache: "attribute" in cache.banks,
        what="attribute prompts",
        found=_text,
        mend="give 'attribute' in a file of prompts (--prompts) and cache again",
    ),
    "templates": Need(
        there=lambda cache: len(cache.meta.templates) > 1,
        what="two templates or more",
        found=lambda cache: f"{len(cache.meta.templates)}",
        mend="cache with --templates openai",
    ),
    "tokens": Need(
        there=lambda cache: "tokens" in cache.meta.levels,
        what="tokens",
        found=lambda cache: ", ".join(cache.meta.levels),
        mend="cache again with --keep tokens",
    ),
}


def check(
    study: str,
    needs: Iterable[str],
    cache: FeatureCache,
    attribute: str | Sequence[str] | None = None,
) -> None:
    """EmbedcalError for the first of ``needs`` that the cache, or the choice of its attributes,
    lacks."""
    for name in needs:
        need = NEEDS[name]
        if not need.there(cache):
            raise EmbedcalError(
                f"expected {need.what} for the study {study}, found {need.found(cache)} in "
                f"{cache.meta.path.name}: {need.mend}"
            )
    chosen = cache.meta.chosen(attribute)
    if "two attributes" in needs and len(chosen) < 2:
        raise EmbedcalError(
            f"expected two attributes or more for the study {study}, found {', '.join(chosen)} "
            "alone: name more of them, or none for all"
        )
