"""What the Tab key offers for values: runs, caches, data sets, methods, rules, devices, encoders.

A shell asks with every press, so nothing heavy is imported and no cache is opened. Whatever goes
wrong offers nothing, and the shell then offers files.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

LISTED = 500  # run ids offered at most, the latest


def _quietly(find: Callable[[], Iterable[str]]) -> Callable[[str], list[str]]:
    """What begins with the word so far; nothing where looking fails."""

    def offered(incomplete: str) -> list[str]:
        try:
            return [word for word in dict.fromkeys(find()) if word.startswith(incomplete)]
        except Exception:  # a traceback in the middle of a prompt helps nobody
            return []

    offered.__doc__ = find.__doc__
    return offered


@_quietly
def runs() -> Iterator[str]:
    """``last``, folders of runs below this one, and ids of runs, the latest first."""
    from embedcal.datasets.places import data_dir, remembered

    yield "last"
    yield from (str(found.parent) for found in sorted(Path().glob("*/results.jsonl")))
    places = [*(data_dir() / "runs").glob("*")]
    grid = remembered("grid")
    places += [grid] if grid is not None else []
    found = {path.parent for place in places for path in place.glob("*/run.json")}
    latest = sorted(found, key=lambda folder: folder.stat().st_mtime_ns, reverse=True)
    yield from (folder.name for folder in latest[:LISTED])


@_quietly
def caches() -> Iterator[str]:
    """Caches in this folder, and in embedcal's own."""
    from embedcal.datasets.places import data_dir

    yield from map(str, sorted(Path().glob("*.h5")))
    yield from map(str, sorted((data_dir() / "caches").glob("*.h5")))


@_quietly
def datasets() -> Iterable[str]:
    """Named data sets."""
    from embedcal.datasets.named.facts import benchmark_names

    return benchmark_names()


@_quietly
def methods() -> Iterable[str]:
    """Methods by name, as a grid takes them."""
    from embedcal.methods import names

    return names()


@_quietly
def rules() -> Iterable[str]:
    """Selection rules."""
    from embedcal.evaluate import RULES

    return [rule.name for rule in RULES]


@_quietly
def devices() -> Iterable[str]:
    """Kinds of devices; asking which are there would import torch."""
    return ("auto", "cpu", "cuda", "mps")


@_quietly
def backbones() -> Iterable[str]:
    """The tiny CLIP, OpenAI's names, and plug-ins."""
    from embedcal.encoders.load import backbones as known

    return known()


@_quietly
def trackers() -> Iterable[str]:
    """What runs can be mirrored into."""
    from embedcal.tracking import trackers as known

    return known()
