"""A cache with attributes that were annotated beside it: as if it had their labels of its own."""

from __future__ import annotations

from collections.abc import Sequence

from embedcal.annotating.annotations import annotated, annotation
from embedcal.annotating.prompts import prompts
from embedcal.cache import FeatureCache
from embedcal.datasets.printable import printable
from embedcal.types import EmbedcalError


def labelled(cache: FeatureCache, attribute: str | Sequence[str] | None) -> FeatureCache:
    """The cache where it has every attribute that is named, else a view with the annotated ones.

    A view shares the file with the cache, and is closed with it. None names none: what is inferred
    is used only where somebody asks for it. EmbedcalError for a name that is neither the cache's
    nor annotated, for an annotation that is damaged or of other images, and for what is no cache.
    """
    if not hasattr(cache, "meta"):
        raise EmbedcalError(
            f"expected an open cache, found {type(cache).__name__} "
            f"{printable(str(cache), longest=200)}: write 'with embedcal.open(FILE) as cache:'"
        )
    names = (attribute,) if isinstance(attribute, str) else tuple(attribute or ())
    own = [name for name, _ in cache.meta.attributes]
    missing = [name for name in dict.fromkeys(names) if name not in own]
    if not missing:
        return cache
    known = annotated(cache)
    for name in missing:
        if name not in known:
            listed = [*own, *(f"{each} (inferred)" for each in known if each not in own)]
            raise EmbedcalError(
                f"expected an attribute of {cache.meta.path.name}, found '{printable(name)}': "
                + (f"choose {', '.join(listed)}" if listed else "run detect, then annotate")
            )
    for name in missing:
        found = annotation(cache, name)
        cache = cache.with_attribute(
            name, found.values, found.labels, found.digest, prompts(cache, name)
        )
    return cache


def notes(cache: FeatureCache, attribute: str | Sequence[str] | None) -> tuple[str, ...]:
    """What a user should know before groups are made of attributes that were annotated.

    A healthy attribute belongs to its class. Nothing forbids groups of it, to judge by say, but a
    head that is trained to do without it is worse for it.
    """
    return tuple(
        f"note: {printable(name)} was judged healthy; a head that learns to do without it may lose "
        "what its class is known by"
        for name in labelled(cache, attribute).inferred
        if annotation(cache, name).verdict == "healthy"
    )
