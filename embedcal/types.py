"""Nouns that every part shares: levels, splits, examples, text banks, the projection's weights.

All of them are frozen values over NumPy arrays. Nothing here imports torch, and nothing here
reads a file. Letters in shapes: n rows, d joint dimension, w width before the projection,
C classes, A attribute values, G groups (C * A), P prompts, T templates.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from embedcal.errors import EmbedcalError as EmbedcalError
from embedcal.errors import WithheldError as WithheldError

Level = Literal["tokens", "pooled", "embedding"]
LEVELS: tuple[Level, ...] = ("tokens", "pooled", "embedding")

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")

Role = Literal["reject", "accept", "equal"]
ROLES: tuple[Role, ...] = ("reject", "accept", "equal")
Pair = tuple[int, int, Role]  # two rows of the bank of pairs, and what they are for

FloatArray = npt.NDArray[np.floating[Any]]
IntArray = npt.NDArray[np.integer[Any]]


@dataclass(frozen=True, kw_only=True)
class Examples:
    """One split, as much of it as the reader is allowed to see.

    ``arrays`` holds what was handed over, by name: ``x`` (n, d) features at one level, ``y`` (n,)
    class labels, ``a`` (n,) attribute values, ``g`` (n,) groups ``y * A + a``, ``rows`` (n,)
    positions in the cache. Everything else is withheld, and reading it is an error that names it.
    """

    split: Split
    arrays: Mapping[str, npt.NDArray[Any]]

    def __len__(self) -> int:
        return len(next(iter(self.arrays.values()))) if self.arrays else 0

    def __contains__(self, name: str) -> bool:
        return name in self.arrays

    def _get(self, name: str) -> npt.NDArray[Any]:
        try:
            return self.arrays[name]
        except KeyError:
            raise WithheldError(
                f"expected {self.split}.{name} to be among the needs of whoever reads it, found "
                f"only {', '.join(sorted(self.arrays)) or 'nothing'}: declare '{self.split}.{name}'"
            ) from None

    @property
    def x(self) -> FloatArray:
        """Features (n, d) at the level that was asked for, float32.

        Tokens may stay in the file: then ``x[positions]`` reads those rows.
        """
        return self._get("x")

    def at(self, level: Level) -> FloatArray:
        """Features of one level beside ``x``: for a method that declares ``train.pooled``."""
        return self._get(level)

    @property
    def y(self) -> IntArray:
        """Class labels (n,), int64, 0 <= y < C."""
        return self._get("y")

    @property
    def a(self) -> IntArray:
        """Attribute values (n,), int64, 0 <= a < A."""
        return self._get("a")

    @property
    def g(self) -> IntArray:
        """Groups (n,), int64, ``y * A + a``."""
        return self._get("g")

    @property
    def rows(self) -> IntArray:
        """Positions (n,) in the cache."""
        return self._get("rows")


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """Concept pairs: prompts (P), each once, and pairs of them, each with its role.

    The two of a ``reject`` pair differ in what a classifier should not see, those of an ``accept``
    pair in what it should, and those of an ``equal`` pair should be one to it.
    """

    prompts: tuple[str, ...]
    pairs: tuple[Pair, ...]


@dataclass(frozen=True, kw_only=True)
class TextBank:
    """Text features of every prompt of one bank through every template, none averaged.

    Where ``descriptions`` hold texts of their own for each prompt, T is their number for each, and
    there are no templates. ``pooled`` (P, T, wt) is what the text projection eats (the EOT state
    after the last layer norm), ``embedding`` (P, T, d) what it gives, un-normalised. ``pairs`` are
    those of the bank ``pairs``, whose prompts are encoded as they are, so that its T is 1.
    """

    name: str
    prompts: tuple[str, ...]
    templates: tuple[str, ...]
    embedding: FloatArray
    pooled: FloatArray | None = None
    descriptions: tuple[tuple[str, ...], ...] = ()
    pairs: tuple[Pair, ...] = ()

    def first(self, templates: int) -> TextBank:
        """The bank with its first so many templates or descriptions; 0, or too many: all."""
        if templates == 0 or templates >= self.embedding.shape[1]:
            return self
        return TextBank(
            name=self.name,
            prompts=self.prompts,
            templates=self.templates[:templates],
            embedding=self.embedding[:, :templates],
            pooled=None if self.pooled is None else self.pooled[:, :templates],
            descriptions=tuple(texts[:templates] for texts in self.descriptions),
            pairs=self.pairs,
        )


@dataclass(frozen=True, kw_only=True)
class Projection:
    """The last, trainable matrices of a two-tower model, with what they start from.

    ``embedding = pooled @ image_weight.T + image_bias``; for the text tower likewise, without a
    bias. ``logit_scale`` is stored as CLIP stores it: the natural logarithm of the multiplier.
    ``attnpool`` holds the whole attention pool by open_clip's parameter names, where there is one.
    """

    image_weight: FloatArray  # (d, w)
    image_bias: FloatArray | None = None  # (d,)
    text_weight: FloatArray | None = None  # (d, wt)
    logit_scale: float | None = None
    attnpool: Mapping[str, FloatArray] = field(default_factory=dict)
    attnpool_heads: int = 0


@dataclass(frozen=True, kw_only=True)
class Task:
    """All that a method may see. There is no test split in it.

    ``train`` and ``val`` carry only what the method declares in ``needs``; so does ``text``.
    ``logit_scale`` is there without a projection too, where features came with their text.
    ``stage`` is what its stage run found, for a method that has one (``embedcal.methods.base``).
    """

    train: Examples
    val: Examples
    text: Mapping[str, TextBank]
    projection: Projection | None
    n_classes: int
    n_attributes: int
    logit_scale: float | None = None
    stage: Any = None

    @property
    def n_groups(self) -> int:
        return self.n_classes * self.n_attributes

    def bank(self, name: str) -> TextBank:
        """The text bank ``name``; an error that says which input is missing otherwise."""
        try:
            return self.text[name]
        except KeyError:
            raise EmbedcalError(
                f"expected a text bank '{name}', found {', '.join(self.text) or 'none'}: the "
                "encoder has no text tower, or the method does not declare "
                f"'text.{name}' in its needs"
            ) from None
