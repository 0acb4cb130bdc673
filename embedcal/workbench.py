"""A cache and the attribute that makes its groups: what a method may see, what a judge may see."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from embedcal.annotating import labelled
from embedcal.cache import FeatureCache
from embedcal.evaluate import Strata, strata
from embedcal.streaming import size, whole
from embedcal.types import (
    LEVELS,
    SPLITS,
    EmbedcalError,
    Examples,
    IntArray,
    Level,
    Projection,
    Split,
    Task,
    TextBank,
)

if TYPE_CHECKING:
    from embedcal.features import Features
    from embedcal.methods.base import Method, Offer


@dataclass(frozen=True)
class Workbench:
    """One cache under one choice of attributes; every run over it is served from here.

    ``attribute`` names the one whose values, with the classes, make the groups, or several, for
    the product of their values; None takes all that the cache has. One that the cache lacks, but
    that was annotated beside it, joins the cache here: see ``embedcal.annotating.labelled``. Each
    split of a level is read once and kept, so that many runs share one copy of the features. A
    level whose features exceed ``memory`` bytes stays in the file: see ``embedcal.streaming``.
    """

    cache: FeatureCache
    attribute: str | Sequence[str] | None = None
    memory: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "cache", labelled(self.cache, self.attribute))
        _ = self.attributes  # a name that the cache lacks is an error at once

    @cached_property
    def attributes(self) -> tuple[str, ...]:
        """Names of the attributes that make the groups, in the cache's order; none: empty."""
        return self.cache.meta.chosen(self.attribute)

    @cached_property
    def inferred(self) -> dict[str, str]:
        """Those of the attributes whose labels were inferred, with the digest of the labels."""
        known = self.cache.inferred
        return {name: known[name] for name in self.attributes if name in known}

    @cached_property
    def banks(self) -> frozenset[str]:
        """Names of the text banks that methods may read under this choice of attributes.

        The cache's; but an inferred attribute has no context prompts, and attribute prompts of its
        own, if they could be made.
        """
        banks, own = set(self.cache.banks), set(self.attributes) - self.inferred.keys()
        if self.inferred:
            there = self.inferred.keys() <= self.cache.prompts.keys()
            whole = there and (not own or "attribute" in banks)
            banks = banks - {"attribute", "context"} | ({"attribute"} if whole else set())
        return frozenset(banks)

    @property
    def n_attributes(self) -> int:
        """Values of the chosen attribute, or of the product; 0 without any."""
        return self.cache.n_attributes(self.attributes)

    def has_groups(self, split: Split) -> bool:
        """Whether any row of a split is in a group."""
        return split in self._with_groups

    @cached_property
    def _with_groups(self) -> frozenset[Split]:
        return frozenset(split for split in SPLITS if self.cache.has_groups(split, self.attributes))

    @cached_property
    def projection(self) -> Projection | None:
        """The encoder's projection, read once for many runs; heads start from copies of it."""
        return self.cache.projection()

    @cached_property
    def offer(self) -> Offer:
        """What the cache has to give, for options that are ``auto``."""
        from embedcal.methods.base import Offer

        projection = self.projection
        return Offer(
            levels=frozenset(self.cache.meta.levels),
            banks=self.banks,
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

    def streams(self, level: Level) -> bool:
        """Whether a level stays in the file since all of its rows are more than memory may hold.

        Tokens always stay there, and no run depends on it.
        """
        if self.memory is None or level == "tokens" or level not in self.cache.meta.levels:
            return False
        meta = self.cache.meta
        return whole(meta.rows, meta.shapes[level]) > self.memory

    def _read(self, split: Split, level: Level) -> Examples:
        streams = self.streams(level)
        if level != "tokens" and not streams:
            return self.cache.split(split, level, attribute=self.attributes)
        from embedcal.features import StoredRows

        labels = self._labels(split)
        x: Any = StoredRows(self.cache, level, labels["rows"], by_blocks=streams)
        return Examples(split=split, arrays={**labels, "x": x})

    def _labels(self, split: Split) -> dict[str, IntArray]:
        """A split's labels and rows, of another level where that was lent."""
        for (name, _), found in self._splits.items():
            if name == split:
                return {key: array for key, array in found.arrays.items() if key != "x"}
        return self.cache.split_labels(split, self.attributes)

    @cached_property
    def _strata(self) -> dict[tuple[Split, Level], Strata]:
        return {}

    def strata(self, split: Split, level: Level) -> Strata:
        """The labels of a split as its judge sees them, with the training counts of each group."""
        if (split, level) not in self._strata:
            found, train = self.split(split, level), self.split("train", level)
            counts = None
            if "g" in train:
                n_groups = self.cache.n_classes * self.n_attributes
                counts = np.bincount(train.g[train.g >= 0], minlength=n_groups)
            a = found.a if "a" in found else None
            self._strata[split, level] = strata(
                found.y, a, self.cache.n_classes, self.n_attributes, counts
            )
        return self._strata[split, level]

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
            if bank not in self.banks:
                mend = "cache with an encoder that has a text tower"
                if cache.banks:
                    mend = f"give '{bank}' in a file of prompts (--prompts) and cache again"
                if cache.banks and self.inferred:
                    mend = self._mend(bank)
                raise EmbedcalError(
                    f"expected {bank} prompts for {method.name}, found none in "
                    f"{cache.meta.path.name}: {mend}"
                )
        seen = self._seen_splits(method)
        return Task(
            train=seen["train"],
            val=seen["val"],
            text={bank: self._bank(bank, method) for bank in wanted},
            projection=self.projection if "projection" in needs else None,
            logit_scale=cache.logit_scale if "projection" in needs else None,
            n_classes=cache.n_classes,
            n_attributes=self.n_attributes or 1,
        )

    def _seen_splits(self, method: Method) -> dict[Split, Examples]:
        """Train and val as the method may see them; a solver has their features as arrays."""
        from embedcal.features import StoredRows
        from embedcal.methods.base import Solver

        splits: tuple[Split, ...] = ("train", "val")
        found = {
            name: self._withhold(self.split(name, method.level), method.needs) for name in splits
        }
        if not isinstance(method, Solver):
            return found
        stored = {
            (name, key): array
            for name, examples in found.items()
            for key, array in examples.arrays.items()
            if isinstance(array, StoredRows) and array.by_blocks
        }
        room = sum(array.nbytes_whole for array in stored.values())
        if self.memory is not None and room > self.memory:
            read = ", ".join(f"{name}.{key}" for name, key in stored)
            raise EmbedcalError(
                f"expected {size(room)} of memory for {method.name}, which reads all of {read} at "
                f"once, found a limit of {size(self.memory)}: raise --memory (in a grid with "
                "--retry-failed), or take a method that reads batches, such as erm"
            )
        for (name, key), array in stored.items():
            arrays = {**found[name].arrays, key: array[np.arange(len(array))]}
            found[name] = replace(found[name], arrays=arrays)
        return found

    def _mend(self, bank: str) -> str:
        """What to do where an inferred attribute has no prompts of a bank."""
        names = ", ".join(self.inferred)
        if bank == "attribute":
            lacking = [name for name in self.inferred if name not in self.cache.prompts]
            return (
                f"annotate {', '.join(lacking) or names} again where the encoder of the cache can "
                "be loaded (--backbone, --pretrained)"
            )
        return f"{names} is inferred and has none; choose options that read no {bank} prompts"

    def _attribute_prompts(self) -> TextBank:
        """The values of the chosen attributes, where some of them are inferred."""
        parts, start = [], 0
        for name, values in self.cache.meta.attributes:
            inferred, chosen = name in self.cache.inferred, name in self.attributes
            if chosen and inferred:
                parts.append(self.cache.prompts[name])
            elif chosen:
                own = self.cache.text("attribute")
                parts.append(_part(own, slice(start, start + len(values))))
            start += len(values)  # the cache's own come first
        if len({(bool(part.descriptions), part.embedding.shape[1:]) for part in parts}) > 1:
            raise EmbedcalError(
                f"expected attribute prompts through the same templates, found others for "
                f"{', '.join(self.inferred)}: name one attribute with --attribute"
            )
        pooled = [part.pooled for part in parts if part.pooled is not None]
        return replace(
            parts[0],
            prompts=tuple(prompt for part in parts for prompt in part.prompts),
            embedding=np.concatenate([part.embedding for part in parts]),
            pooled=np.concatenate(pooled) if len(pooled) == len(parts) else None,
        )

    def _bank(self, name: str, method: Method) -> TextBank:
        """The prompts of a bank as far as the method sees them.

        A method that reads contexts beside groups takes value a for prompt a. So of the contexts of
        several attributes it gets those of the one that makes the groups; a product has none.
        Attribute prompts are those of all that the cache has, but of the chosen ones alone where
        one of these is inferred.
        """
        if name == "attribute" and self.inferred:
            return self._attribute_prompts().first(method.n_templates)
        bank, sizes = self.cache.text(name), dict(self.cache.meta.attributes)
        by_value = name == "context" and {"train.g", "val.g"} & method.needs
        if by_value and len(self.attributes) > 1:
            raise EmbedcalError(
                f"expected one attribute for the context prompts of {method.name}, found the "
                f"product of {', '.join(self.attributes)}: name one with --attribute"
            )
        if by_value and len(sizes) > 1:
            start = 0
            for attribute, values in sizes.items():
                if attribute in self.attributes:
                    bank = _part(bank, slice(start, start + len(values)))
                    break
                start += len(values)
        return bank.first(method.n_templates)

    def _withhold(self, examples: Examples, needs: frozenset[str]) -> Examples:
        split, known = examples.split, _known(examples, needs)
        keep: Any = slice(None) if known.all() else known
        names = [name for name in ("x", "y", "a", "g") if f"{split}.{name}" in needs]
        arrays = {name: _lent(name, examples.arrays[name][keep]) for name in names}
        for level in LEVELS:  # beside x, for those who ask by name
            if f"{split}.{level}" in needs:
                arrays[level] = _lent(level, self.split(split, level).x[keep])
        return Examples(split=split, arrays=arrays)


def _lent(name: str, array: Any) -> Any:
    """An array for one method: a copy of labels, but features that it may not write to.

    Other runs and the judge read the same features.
    """
    if name in ("y", "a", "g"):
        return array.copy()
    if isinstance(array, np.ndarray):
        array = array.view()
        array.flags.writeable = False
    return array


def _part(bank: TextBank, own: slice) -> TextBank:
    """Some of the prompts of a bank."""
    return replace(
        bank,
        prompts=bank.prompts[own],
        descriptions=bank.descriptions[own],
        embedding=bank.embedding[own],
        pooled=None if bank.pooled is None else bank.pooled[own],
    )


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
