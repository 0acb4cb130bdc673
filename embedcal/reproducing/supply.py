"""The caches that a recipe runs over: given, found, made, or what to fetch and type for them."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from embedcal.cache import FeatureCache, open_cache
from embedcal.datasets.named import benchmark, benchmark_names
from embedcal.datasets.places import data_dir, last_cache
from embedcal.encoders.load import TINY
from embedcal.reproducing.recipe import Part, Recipe
from embedcal.types import EmbedcalError

ROOT = "~/data"
IMPORTED = "imported"  # what a cache of ready features has for an encoder and its weights
OWN = {TINY: "embedded", IMPORTED: IMPORTED}  # weights of backbones that are not OpenAI's


@dataclass(frozen=True, kw_only=True)
class Supplied:
    """A part with its cache; without one ``needed`` says what to do, one sentence each.

    ``asked`` is false where caches were given, and none of them for this part.
    """

    part: Part
    cache: FeatureCache | None = None
    needed: tuple[str, ...] = ()
    asked: bool = True


def supply(
    recipe: Recipe,
    given: Sequence[FeatureCache] | None,
    root: str | Path | None,
    stack: ExitStack,
) -> tuple[Supplied, ...]:
    """A cache for every part, as far as there is one.

    ``given`` caches serve the parts that they fit, and no other is looked for. Without them those
    on this machine are; what comes with the package, or lies below ``root``, is cached where it
    is not yet. Caches that are opened here are closed by ``stack``.

    Raises EmbedcalError where no part has a cache, with what to fetch and what to type.
    """
    if given is not None:
        found = tuple(_given(part, given) for part in recipe.parts)
        if not any(one.cache for one in found):
            raise EmbedcalError(_none_fits(recipe, given))
        return found
    found = tuple(_found(part, root, stack) for part in recipe.parts)
    if not any(one.cache for one in found):
        told = "; or ".join(_told(recipe, one) for one in found)
        raise EmbedcalError(f"expected {told}")
    return found


def differences(part: Part, cache: FeatureCache) -> tuple[str, ...]:
    """What keeps a cache from serving a part; nothing where it does."""
    meta = cache.meta
    weights = part.weights or (OWN.get(part.backbone, "openai"),)
    found = []
    if meta.dataset != part.called:
        found.append(f"it is of {meta.dataset}, not {part.called}")
    if meta.backbone != part.architecture:
        found.append(f"it went through {meta.backbone}, not {part.architecture}")
    elif meta.weights not in weights:
        found.append(f"its weights are '{meta.weights}', not {' or '.join(weights)}")
    if part.rows is not None and meta.rows != part.rows:
        found.append(f"it has {meta.rows:,} rows, not {part.rows:,}")
    shape = meta.shapes.get("embedding", (0,))
    if part.width is not None and shape[0] != part.width:
        found.append(f"its embeddings have {shape[0]} numbers, not {part.width}")
    if part.tokens and "tokens" not in meta.levels:
        found.append("it has no tokens")
    names = [name for name, _ in meta.attributes]
    asked = (part.attribute,) if isinstance(part.attribute, str) else part.attribute or ()
    found += [f"it has no attribute '{name}'" for name in asked if name not in names]
    if part.backbone != IMPORTED and not found:  # the names of open_clip's take a second to read
        wanted = _templates(part)
        if meta.templates != wanted:
            found.append(f"it has {len(meta.templates)} templates, not the {len(wanted)} needed")
    return tuple(found)


def caveats(cache: FeatureCache) -> tuple[str, ...]:
    """What a reader should know of a cache that serves."""
    meta = cache.meta
    found = [f"{meta.path.name}: {warning}" for warning in meta.warnings]
    if meta.precision not in ("fp32", IMPORTED):
        found.append(f"{meta.path.name}: encoded in {meta.precision}")
    return tuple(found)


def command(part: Part) -> str:
    """What to type for a part's cache once its files are there."""
    if part.command:
        return part.command
    words = ["embedcal", "cache", part.source]
    if part.embedded:
        words += ["--rows", str(part.rows)] if part.rows is not None else []
        words += ["--seed", str(part.seed)] if part.seed is not None else []
    words += ["--backbone", part.backbone]
    words += [] if part.templates == "openai" else ["--templates", str(part.templates)]
    words += ["--keep", "tokens"] if part.tokens else []
    typed = shlex.join(words)
    # The root is not quoted, so that a shell reads its ~.
    return typed if part.embedded else f"{typed} --root {ROOT}"


def fetching(part: Part) -> tuple[str, ...]:
    """What to get for a part and where to put it, one sentence each."""
    found = list(part.fetch)
    if part.source in benchmark_names() and not part.embedded and not part.command:
        facts = benchmark(part.source)
        found.insert(0, f"get {facts.name} from {facts.source} and unpack it below {ROOT}")
        found.append(
            f"open_clip fetches OpenAI's weights of {part.backbone} when they are first used; "
            "without a network name their file with --pretrained"
        )
    return tuple(found)


def _given(part: Part, given: Sequence[FeatureCache]) -> Supplied:
    cache = next((one for one in given if not differences(part, one)), None)
    return Supplied(part=part, cache=cache, asked=cache is not None)


def _found(part: Part, root: str | Path | None, stack: ExitStack) -> Supplied:
    if part.embedded or (root is not None and not part.command):
        cache = stack.enter_context(open_cache(_made(part, root)))
        why = differences(part, cache)
        return Supplied(part=part, needed=(_unfit(cache, why),)) if why else _serve(part, cache)
    near = []
    for cache in _on_this_machine(stack):
        why = differences(part, cache)
        if not why:
            return _serve(part, cache)
        if cache.meta.dataset == part.called and cache.meta.backbone == part.architecture:
            near.append(_unfit(cache, why))
    return Supplied(part=part, needed=(*near[:1], *fetching(part), f"type: {command(part)}"))


def _serve(part: Part, cache: FeatureCache) -> Supplied:
    return Supplied(part=part, cache=cache)


def _unfit(cache: FeatureCache, why: Sequence[str]) -> str:
    return f"{cache.meta.path.name} does not serve: {', '.join(why)}"


def _made(part: Part, root: str | Path | None) -> Path:
    """The cache of a part, made where it is not there yet; an equal one is found at once."""
    from embedcal.cache import BuildOptions
    from embedcal.caching import cache
    from embedcal.datasets.options import ReadOptions

    return cache(
        part.source,
        backbone=part.backbone,
        root=None if part.embedded else root,
        templates=part.templates
        if isinstance(part.templates, str) and part.templates
        else "openai",
        read=ReadOptions(rows=part.rows, seed=part.seed) if part.embedded else None,
        build=BuildOptions(tokens=part.tokens),
    ).path


def _on_this_machine(stack: ExitStack) -> Iterator[FeatureCache]:
    """The cache used last, then the others in the user's data directory; what cannot be read is
    passed over."""
    last = last_cache()
    paths = [last] if last is not None else []
    for path in dict.fromkeys([*paths, *sorted((data_dir() / "caches").glob("*.h5"))]):
        try:
            cache = open_cache(path)
        except (EmbedcalError, OSError):
            continue
        yield stack.enter_context(cache)


def _templates(part: Part) -> tuple[str, ...]:
    if not isinstance(part.templates, str):
        return part.templates
    from embedcal.encoders.templates import templates

    return templates(part.templates)


def described(part: Part) -> str:
    """A part's cache in words."""
    through = "imported features" if part.backbone == IMPORTED else f"through {part.backbone}"
    rows = f", {part.rows:,} rows" if part.rows is not None else ""
    return f"{part.called}, {through}{rows}{', with tokens' if part.tokens else ''}"


def _told(recipe: Recipe, one: Supplied) -> str:
    what = f"a cache for {one.part.name} of {recipe.name} ({described(one.part)})"
    return f"{what}, found none: {'; '.join(one.needed)}"


def _none_fits(recipe: Recipe, given: Sequence[FeatureCache]) -> str:
    if not given:
        return f"expected at least one cache for {recipe.name}, found an empty list: give None"
    part = recipe.parts[0]
    why = "; ".join(_unfit(cache, differences(part, cache)) for cache in given)
    return (
        f"expected a cache for {recipe.name} ({described(part)}), found another: {why}: make one "
        f"with '{command(part)}'"
    )
