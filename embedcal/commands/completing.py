"""What the Tab key offers for values: runs, caches, data sets, methods, attributes, words.

A shell asks with every press, so nothing heavy is imported, and of a cache its names alone are
read. Whatever goes wrong offers nothing, and the shell then offers files. Every argument and option
whose values can be known has one of these (``tests/test_completing.py`` walks all commands).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import typer

Offered = Callable[[str], list[str]]
OfferedBeside = Callable[[typer.Context, str], list[str]]

LISTED = 500  # run ids offered at most, the latest


def _quietly(find: Callable[[Path], Iterable[str]]) -> Offered:
    """What begins with the word so far; nothing where looking fails.

    ``find`` is given the folder that the word so far is in: the one of ``grids/ab`` is ``grids``.
    """

    def offered(incomplete: str) -> list[str]:
        return _beginning(incomplete, lambda: find(_folder(incomplete)))

    offered.__doc__ = find.__doc__
    return offered


def _beside(find: Callable[[typer.Context], Iterable[str]]) -> OfferedBeside:
    """The same where the answer hangs on what else is on the line."""

    def offered(ctx: typer.Context, incomplete: str) -> list[str]:
        return _beginning(incomplete, lambda: find(ctx))

    offered.__doc__ = find.__doc__
    return offered


def _beginning(incomplete: str, find: Callable[[], Iterable[str]]) -> list[str]:
    try:
        # A name with a line break would be two words to the shell, and neither of them.
        found = [word for word in dict.fromkeys(find()) if word.isprintable()]
    except Exception:  # a traceback in the middle of a prompt helps nobody
        return []
    return [word for word in found if word.startswith(incomplete)]


def _folder(incomplete: str) -> Path:
    return Path(incomplete.rpartition("/")[0] + "/") if "/" in incomplete else Path()


def words(*known: str) -> Offered:
    """These and no others."""
    return _quietly(lambda below: known)


def listed(one: Offered) -> Offered:
    """A list with commas: what may stand behind the last of them."""

    def offered(incomplete: str) -> list[str]:
        before, comma, last = incomplete.rpartition(",")
        taken = before.split(",")
        return [before + comma + word for word in one(last) if word not in taken]

    offered.__doc__ = one.__doc__
    return offered


@_quietly
def folders(below: Path) -> Iterator[str]:
    """Folders of runs, then single runs, in the folder that is typed, then the grid used last."""
    from embedcal.datasets.places import remembered

    for name in ("results.jsonl", "run.json"):
        yield from (str(found.parent) for found in sorted(below.glob(f"*/{name}")))
    grid = remembered("grid")
    if grid is not None:
        yield str(grid)


@_quietly
def run_names(below: Path) -> Iterator[str]:
    """``last``, single runs in the folder that is typed, and ids of runs, the latest first."""
    from embedcal.datasets.places import data_dir, remembered

    yield "last"
    yield from (str(found.parent) for found in sorted(below.glob("*/run.json")))
    grid, fitted = remembered("grid"), remembered("run")
    places = [*(data_dir() / "runs").glob("*"), grid, None if fitted is None else fitted.parent]
    found = {path.parent for place in places if place for path in place.glob("*/run.json")}
    latest = sorted(found, key=lambda folder: folder.stat().st_mtime_ns, reverse=True)
    yield from (folder.name for folder in latest[:LISTED])


def runs(incomplete: str) -> list[str]:
    """``last``, folders of runs, single runs, and ids."""
    return _together(incomplete, words("last"), folders, run_names)


def heads(incomplete: str) -> list[str]:
    """One run, or ``zero-shot``."""
    return _together(incomplete, run_names, words("zero-shot"))


def shards(incomplete: str) -> list[str]:
    """What is merged: folders of runs, or the shards of a cache."""
    return _together(incomplete, folders, caches)


def _together(incomplete: str, *several: Offered) -> list[str]:
    return list(dict.fromkeys(word for each in several for word in each(incomplete)))


@_quietly
def caches(below: Path) -> Iterator[str]:
    """Caches in the folder that is typed, and in embedcal's own."""
    from embedcal.datasets.places import data_dir

    yield from map(str, sorted(below.glob("*.h5")))
    yield from map(str, sorted((data_dir() / "caches").glob("*.h5")))


@_quietly
def datasets(below: Path) -> Iterable[str]:
    """Named data sets."""
    from embedcal.datasets.named.facts import benchmark_names

    return benchmark_names()


@_quietly
def methods(below: Path) -> Iterable[str]:
    """Methods by name, as a grid takes them."""
    from embedcal.methods import names

    return names()


@_quietly
def rules(below: Path) -> Iterable[str]:
    """Selection rules."""
    from embedcal.evaluate import RULES

    return [rule.name for rule in RULES]


@_quietly
def backbones(below: Path) -> Iterable[str]:
    """The tiny CLIP, OpenAI's names, and plug-ins."""
    from embedcal.encoders.load import backbones as known

    return known()


@_quietly
def trackers(below: Path) -> Iterable[str]:
    """What runs can be mirrored into."""
    from embedcal.tracking import trackers as known

    return known()


@_quietly
def studies(below: Path) -> Iterable[str]:
    """Studies that come with the package; their own module would import every method."""
    return _stems("embedcal.studies", "presets/*.toml")


@_quietly
def recipes(below: Path) -> Iterable[str]:
    """Published tables that can be computed again."""
    return _stems("embedcal.reproducing", "recipes/*.toml")


@_quietly
def vocabulary(below: Path) -> Iterator[str]:
    """Names of what a picture may show, of the list that ships."""
    for line in (_package("embedcal.detecting") / "vocabulary.txt").read_text("utf-8").splitlines():
        name = line.partition("#")[0].strip()
        if name:
            yield name


@_quietly
def metrics(below: Path) -> Iterable[str]:
    """What methods are compared by."""
    from embedcal.evaluate.paired import COMPARABLE

    return COMPARABLE


@_beside
def attributes(ctx: typer.Context) -> Iterator[str]:
    """Attributes of the cache: its own, and those that a person has judged."""
    from embedcal.cache.format import unescape_name
    from embedcal.cache.layout import StoredFile

    with StoredFile(_cache(ctx)) as stored:
        yield from map(unescape_name, stored.below("/samples/attributes/"))
    yield from judged(ctx, "")


@_beside
def judged(ctx: typer.Context) -> Iterable[str]:
    """Attributes of the cache that a person has judged."""
    from embedcal.annotating import annotated
    from embedcal.cache import open_cache

    with open_cache(_cache(ctx)) as cache:
        return annotated(cache)


@_beside
def classes(ctx: typer.Context) -> Iterable[str]:
    """Classes of the cache."""
    from embedcal.cache.layout import StoredFile

    with StoredFile(_cache(ctx)) as stored:
        return stored.text("/classes")


@_beside
def splits(ctx: typer.Context) -> Iterable[str]:
    """The rules by which the data set on the line can be split."""
    from embedcal.datasets.named.facts import benchmark

    # An option without its value ends the reading of the line, before its arguments have names.
    named = [ctx.params.get("source"), ctx.params.get("name"), *ctx.args]
    return benchmark(next(name for name in named if name)).splits


def _cache(ctx: typer.Context) -> Path:
    """The cache that is on the line, else the one used last, else the only one there is."""
    from embedcal.caching import which_cache

    given: Any = ctx.params.get("cache")
    first = given[0] if isinstance(given, list | tuple) and given else given
    return which_cache(Path(first) if first else None)


# Written again here, since modules that know them are slow to import; a test compares.
devices = words("auto", "cpu", "cuda", "mps")
engines = words("auto", "sequential", "processes", "batched", "ray")
searches = words("random", "optuna")
precisions = words("auto", "fp32", "bf16", "fp16")
templates = words("openai", "simple", "photo2")
detectors = words("clip", "owlvit")
vocabularies = words("visual-genome")
forms = words("open_clip", "safetensors", "onnx")
keys = listed(words("method", "variant", "head", "dataset", "backbone"))  # or any option


def _package(name: str) -> Path:
    """The folder of a package that need not be imported for it."""
    from importlib.util import find_spec

    spec = find_spec(name)
    assert spec is not None
    assert spec.submodule_search_locations
    return Path(spec.submodule_search_locations[0])


def _stems(package: str, pattern: str) -> list[str]:
    return sorted(path.stem for path in _package(package).glob(pattern))
