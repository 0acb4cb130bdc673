"""A cache and the attribute that makes its groups: what a method may see, what a judge may see."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from embedcal.cache import FeatureCache
from embedcal.evaluate import Strata, strata
from embedcal.types import LEVELS, EmbedcalError, Examples, Level, Split, Task

if TYPE_CHECKING:
    from embedcal.features import Features
    from embedcal.methods.base import Method, Offer


@dataclass(frozen=True)
class Workbench:
    """One cache under one choice of attribute; every run over it is served from here.

    ``attribute`` names the attribute whose values, with the classes, make the groups; None takes
    the product of all that the cache has. Each split of a level is read once and kept, so that
    many runs share one copy of the features.
    """

    cache: FeatureCache
    attribute: str | None = None

    def __post_init__(self) -> None:
        known = [name for name, _ in self.cache.meta.attributes]
        if self.attribute is not None and self.attribute not in known:
            raise EmbedcalError(
                f"expected an attribute of {self.cache.meta.path.name}, found "
                f"'{self.attribute}': choose {', '.join(known) or 'none, it has none'}"
            )

    @property
    def attributes(self) -> tuple[str, ...]:
        """Names of the attributes that make the groups; empty where there are none."""
        if self.attribute is not None:
            return (self.attribute,)
        return tuple(name for name, _ in self.cache.meta.attributes)

    @property
    def n_attributes(self) -> int:
        return self.cache.n_attributes(self.attribute) if self.attributes else 0

    @cached_property
    def offer(self) -> Offer:
        """What the cache has to give, for options that are ``auto``."""
        from embedcal.methods.base import Offer

        projection = self.cache.projection()
        return Offer(
            levels=frozenset(self.cache.meta.levels),
            banks=frozenset(self.cache.banks),
            projection=projection is not None,
            attributes=bool(self.attributes),
            attnpool=bool(projection and projection.attnpool),
        )

    @cached_property
    def _splits(self) -> dict[tuple[Split, Level], Examples]:
        return {}

    def lend(self, splits: Mapping[tuple[Split, Level], Examples]) -> None:
        """Splits that are in memory already, so that they are not read from the cache."""
        self._splits.update(splits)

    def split(self, split: Split, level: Level) -> Examples:
        """One split with everything that the cache knows of it; tokens stay in the file."""
        if (split, level) not in self._splits:
            found = self._read(split, level)
            if len(found) == 0:
                raise EmbedcalError(
                    f"expected rows in {split}, found none in {self.cache.meta.path.name}: give "
                    f"the data set a {split} split"
                )
            self._splits[split, level] = found
        return self._splits[split, level]

    @cached_property
    def _on_device(self) -> dict[tuple[Split, Level, str], Features]:
        return {}

    def features(self, split: Split, level: Level, device: str) -> Features:
        """The features of a split on a device, moved there once."""
        from embedcal.features import features

        key = (split, level, device)
        if key not in self._on_device:
            self._on_device[key] = features(self.split(split, level).x, device)
        return self._on_device[key]

    def _read(self, split: Split, level: Level) -> Examples:
        if level != "tokens":
            return self.cache.split(split, level, attribute=self.attribute)
        from embedcal.features import StoredTokens

        labelled: Level = "embedding" if "embedding" in self.cache.meta.levels else "pooled"
        found = self.split(split, labelled)
        tokens: Any = StoredTokens(self.cache, found.rows)
        return Examples(split=split, arrays={**found.arrays, "x": tokens})

    def strata(self, split: Split, level: Level) -> Strata:
        """The labels of a split as its judge sees them, with the training counts of each group."""
        found, train = self.split(split, level), self.split("train", level)
        counts = None
        if "g" in train:
            n_groups = self.cache.n_classes * self.n_attributes
            counts = np.bincount(train.g[train.g >= 0], minlength=n_groups)
        a = found.a if "a" in found else None
        return strata(found.y, a, self.cache.n_classes, self.n_attributes, counts)

    def seen(self, method: Method) -> npt.NDArray[np.bool_]:
        """Which rows (n,) of train the method sees."""
        return _known(self.split("train", method.level), method.needs)

    def task(self, method: Method) -> Task:
        """The task as the method may see it: every array that it does not declare is withheld.

        Raises EmbedcalError that says which input is missing, and how to get it.
        """
        cache, needs = self.cache, method.needs
        if any(need.endswith((".g", ".a")) for need in needs) and not self.attributes:
            raise EmbedcalError(
                f"expected attribute labels for {method.name}, found none in "
                f"{cache.meta.path.name}: add an attribute column and cache again, or use a method "
                "that needs no groups, such as erm"
            )
        wanted = sorted(need.removeprefix("text.") for need in needs if need.startswith("text."))
        for bank in wanted:
            if bank not in cache.banks:
                mend = "cache with an encoder that has a text tower"
                if cache.banks:
                    mend = f"give '{bank}' in a file of prompts (--prompts) and cache again"
                raise EmbedcalError(
                    f"expected {bank} prompts for {method.name}, found none in "
                    f"{cache.meta.path.name}: {mend}"
                )
        return Task(
            train=self._withhold(self.split("train", method.level), needs),
            val=self._withhold(self.split("val", method.level), needs),
            text={bank: cache.text(bank).first(method.n_templates) for bank in wanted},
            projection=cache.projection() if "projection" in needs else None,
            n_classes=cache.n_classes,
            n_attributes=self.n_attributes or 1,
        )

    def _withhold(self, examples: Examples, needs: frozenset[str]) -> Examples:
        split, known = examples.split, _known(examples, needs)
        keep: Any = slice(None) if known.all() else known
        names = [name for name in ("x", "y", "a", "g") if f"{split}.{name}" in needs]
        arrays = {name: examples.arrays[name][keep] for name in names}
        for level in LEVELS:  # beside x, for those who ask by name
            if f"{split}.{level}" in needs:
                arrays[level] = self.split(split, level).x[keep]
        return Examples(split=split, arrays=arrays)


def _known(examples: Examples, needs: frozenset[str]) -> npt.NDArray[np.bool_]:
    """Which rows (n,) a method sees: all, or those in a group if it reads groups."""
    if not {f"{examples.split}.a", f"{examples.split}.g"} & needs:
        return np.ones(len(examples), bool)
    known = examples.g >= 0 if "g" in examples else np.zeros(len(examples), bool)
    if not known.any():
        raise EmbedcalError(
            f"expected rows of known attribute in {examples.split}, found none: label some, or "
            "use a method that needs no groups, such as erm"
        )
    return known
