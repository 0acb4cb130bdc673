"""Which studies there are."""

from __future__ import annotations

from dataclasses import dataclass

from embedcal.studies.needs import NEEDS
from embedcal.studies.preset import names, preset


@dataclass(frozen=True, kw_only=True)
class Listed:
    """One study: its question, what it needs of a cache in words, and its runs over one cache.

    A study with the groups of each attribute has as many runs again for each attribute.
    """

    name: str
    title: str
    question: str
    needs: tuple[str, ...]
    runs: int


def studies() -> tuple[Listed, ...]:
    """Every study of the package, by name; ``runs`` with the study's own number of seeds."""
    return tuple(_listed(name) for name in names())


def _listed(name: str) -> Listed:
    from embedcal.fitting import configure

    found = preset(name)
    methods = {each.label: configure(each.method, each.options) for each in found.settings}
    runs = sum(found.seeds if method.random else 1 for method in methods.values())
    return Listed(
        name=found.name,
        title=found.title,
        question=found.question,
        needs=tuple(NEEDS[need].what for need in found.needs),
        runs=runs,
    )
