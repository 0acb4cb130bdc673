"""A finished cache, read-only: facts, labels, features, text and projection, as arrays."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from embedcal.cache.format import OK, PAIRS, unescape_name
from embedcal.cache.gathering import CHUNK, check_finite, finite, gather
from embedcal.cache.identity import with_unreadable
from embedcal.cache.layout import StoredFile
from embedcal.cache.meta import check_labels, labels_path, read_meta
from embedcal.datasets.printable import printable
from embedcal.types import (
    SPLITS,
    EmbedcalError,
    Examples,
    FloatArray,
    IntArray,
    Level,
    Projection,
    Split,
    TextBank,
)


@dataclass(frozen=True, kw_only=True)
class Samples:
    """The table of rows, every row of the manifest in its place.

    ``status`` is 0 for encoded rows and 1 for unreadable ones, whose ``reasons`` say why.
    """

    ids: tuple[str, ...]
    paths: tuple[str, ...]
    y: IntArray  # (N,)
    split: IntArray  # (N,) 0, 1, 2
    status: IntArray  # (N,)
    reasons: tuple[str, ...]
    attributes: Mapping[str, IntArray]  # name -> (N,), -1 unknown
    box: FloatArray | None = None  # (N, 4) x, y, width, height; NaN: none
    masks: tuple[str, ...] | None = None  # (N,) paths below the root; empty: none


@dataclass(frozen=True, kw_only=True)
class Labels:
    """The numbers of the table: all that a fit reads of it, without a text for each row."""

    y: IntArray  # (N,)
    split: IntArray  # (N,)
    status: IntArray  # (N,)
    attributes: Mapping[str, IntArray]  # name -> (N,), -1 unknown


def open_cache(path: str | Path) -> FeatureCache:
    """Open a finished cache, checking user block, length, names, links, types and shapes.

    The bytes themselves are not hashed; ``verify`` does that. Raises ``EmbedcalError`` in one
    line for whatever the format does not allow.

    Example:
        >>> import embedcal
        >>> with embedcal.open("birds.h5") as cache:
        ...     len(cache), cache.meta.backbone, cache.read("embedding").shape
        (600, 'tiny', (600, 128))
    """
    if not (isinstance(path, str) or hasattr(path, "__fspath__")):
        raise EmbedcalError(f"expected the path of a cache, found {path!r:.60}: give its file")
    return FeatureCache(Path(path))


class FeatureCache:
    """A finished cache opened read-only; made by ``open_cache``. ``stored`` is the file itself.

    ``inferred`` maps attributes whose labels do not come from the file to the digest of these
    labels, and ``prompts`` to the text of their values, where there is one: both are empty unless
    ``with_attribute`` made the view.

    Example:
        >>> import embedcal
        >>> with embedcal.open("birds.h5") as cache:
        ...     train, groups = cache.split("train"), cache.group_names()
        >>> train.x.shape[1], len(train.x) == len(train.y) == len(train.g)
        (128, True)
        >>> groups[:2]
        ('landbird | land', 'landbird | water')
    """

    def __init__(self, path: Path) -> None:
        self.inferred: Mapping[str, str] = {}
        self.prompts: Mapping[str, TextBank] = {}
        self.stored = StoredFile(path)
        try:
            if self.stored.head.state != "complete":
                raise EmbedcalError(
                    f"expected a finished cache, found one that is still being built in {path}: "
                    "run the command that began it again; it resumes"
                )
            self.meta = read_meta(self.stored)
            check_labels(self.stored, self.meta)
        except BaseException:
            self.stored.close()
            raise

    def __enter__(self) -> FeatureCache:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        self.close()

    def __len__(self) -> int:
        return self.meta.rows

    def close(self) -> None:
        """Let go of the file; nothing can be read afterwards."""
        self.stored.close()

    # Facts and labels

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of images, labels, prompts, encoding and unreadable rows, as runs hold on to."""
        return with_unreadable(self.meta.fingerprint, self.labels.status)

    @property
    def n_classes(self) -> int:
        """Number C of classes."""
        return len(self.meta.classes)

    @cached_property
    def labels(self) -> Labels:
        """Labels of all rows as numbers, without ids and paths; read once."""
        stored = self.stored
        return Labels(
            y=stored.read("/samples/y").astype(np.int64),
            split=stored.read("/samples/split").astype(np.int64),
            status=stored.read("/samples/status").astype(np.int64),
            attributes={
                name: stored.read(labels_path(stored, name)).astype(np.int64)
                for name, _ in self.meta.attributes
            },
        )

    @cached_property
    def samples(self) -> Samples:
        """The table of rows, unreadable ones among them; read once."""
        stored, known = self.stored, self.labels
        return Samples(
            ids=stored.text("/samples/id"),
            paths=stored.text("/samples/path"),
            y=known.y,
            split=known.split,
            status=known.status,
            reasons=stored.text("/samples/reason"),
            attributes=known.attributes,
            box=stored.read("/samples/box") if "/samples/box" in stored.arrays else None,
            masks=stored.text("/samples/mask") if "/samples/mask" in stored.arrays else None,
        )

    def with_attribute(
        self,
        name: str,
        values: tuple[str, ...],
        labels: npt.NDArray[Any],
        digest: str,
        prompts: TextBank | None = None,
    ) -> FeatureCache:
        """A view of this cache with one more attribute, whose labels (N,) came from elsewhere.

        Labels are 0 <= a < A, -1 where unknown; ``digest`` stands for them, ``prompts`` are the
        text of the values. Such attributes follow the file's own, sorted by name, in whatever
        order they are added. The view reads the same file and is closed with this one.
        EmbedcalError for a name that is there already, and for labels of another number or range.
        """
        if name in dict(self.meta.attributes):
            raise EmbedcalError(f"expected a new attribute, found '{name}': the cache has it")
        given = np.asarray(labels).astype(np.int64)
        if given.shape != (len(self),) or given.min() < -1 or given.max() >= len(values):
            raise EmbedcalError(
                f"expected labels from -1 to {len(values) - 1} of {len(self)} rows for '{name}', "
                f"found shape {given.shape}: infer them again"
            )
        inferred = {**self.inferred, name: digest}
        pairs = {**dict(self.meta.attributes), name: values}
        order = [known for known in pairs if known not in inferred] + sorted(inferred)
        view = copy.copy(self)
        view.meta = replace(self.meta, attributes=tuple((each, pairs[each]) for each in order))
        view.labels = replace(self.labels, attributes={**self.labels.attributes, name: given})
        vars(view).pop("samples", None)  # made anew, from these labels
        view.inferred = {each: inferred[each] for each in sorted(inferred)}
        view.prompts = {**self.prompts, name: prompts} if prompts is not None else self.prompts
        return view

    def encoded_rows(self, split: str | Sequence[str] | None = None) -> IntArray:
        """Positions (n,) of the rows that have features: of a split, of several, or of all.

        EmbedcalError for a split that does not exist.
        """
        names = SPLITS if split is None else (split,) if isinstance(split, str) else split
        for name in names:
            if name not in SPLITS:
                raise EmbedcalError(
                    f"expected a split among {', '.join(SPLITS)}, found '{printable(str(name))}': "
                    "take val to decide by, test to report"
                )
        codes, known = [SPLITS.index(name) for name in names], self.labels
        return np.flatnonzero(np.isin(known.split, codes) & (known.status == OK))

    # ``attribute`` is one name, or several for the product of them, or None for that of all. The
    # last attribute of the cache's order runs fastest in a product, in whatever order it is named.

    def n_attributes(self, attribute: str | Sequence[str] | None = None) -> int:
        """Number A of values of the attribute, or of the product; 0 without any."""
        return len(self.attribute_values(attribute))

    def attribute_values(self, attribute: str | Sequence[str] | None = None) -> tuple[str, ...]:
        """Value names; those of a product are joined: ``"water, male"``. Empty without any."""
        names: list[tuple[str, ...]] = []
        for _, values in self._selected(attribute):
            names = [(*left, right) for left in (names or [()]) for right in values]
        return tuple(", ".join(parts) for parts in names)

    def group_names(self, attribute: str | Sequence[str] | None = None) -> tuple[str, ...]:
        """``"class | value"`` for every group, in the order of ``g = y * A + a``."""
        values = self.attribute_values(attribute)
        return tuple(f"{name} | {value}" for name in self.meta.classes for value in values)

    def has_groups(self, name: Split, attribute: str | Sequence[str] | None = None) -> bool:
        """Whether any encoded row of a split is in a group: all of its attributes are known."""
        labels = self._attribute_labels(attribute)
        return labels is not None and bool((labels[self.encoded_rows(name)] >= 0).any())

    def _selected(
        self, attribute: str | Sequence[str] | None
    ) -> tuple[tuple[str, tuple[str, ...]], ...]:
        chosen = self.meta.chosen(attribute)
        return tuple(pair for pair in self.meta.attributes if pair[0] in chosen)

    def _attribute_labels(self, attribute: str | Sequence[str] | None) -> IntArray | None:
        """(N,) values of one attribute or of a product; -1 where any of them is unknown."""
        labels: IntArray | None = None
        for name, values in self._selected(attribute):
            part = self.labels.attributes[name]
            if labels is None:
                labels = part
            else:
                known = (labels >= 0) & (part >= 0)
                labels = np.where(known, labels * len(values) + part, -1)
        return labels

    # Features

    def read(self, level: Level = "embedding") -> npt.NDArray[np.float32]:
        """Features of all rows at one level, float32, un-normalised; zeros where unreadable.

        Where float32 is what is stored, these are pages of the file, private to the caller: they
        may be written to, the file stays as it is, and memory is taken only by pages that are.
        Non-finite features are refused with their row numbers.
        """
        path = self._level_path(level)
        pages = self.stored.map(path)
        out = pages if pages.dtype == np.float32 else np.empty(pages.shape, np.float32)
        flat = out.reshape(len(pages), -1)
        step = max(1, CHUNK // max(1, self.stored.arrays[path].row_bytes))
        for start in range(0, len(flat), step):
            block = flat[start : start + step]
            if out is not pages:
                block[...] = pages[start : start + step].reshape(block.shape)
            check_finite(block, np.arange(start, start + len(block)), level)
        return out

    def tokens(self, rows: IntArray) -> npt.NDArray[np.float32]:
        """Tokens (n, L, M) of some rows in the order asked for, float32."""
        return self.take("tokens", rows)

    def take(self, level: Level, rows: IntArray) -> npt.NDArray[np.float32]:
        """Features (n, ...) of some rows at one level, in the order asked for, float32."""
        self._level_path(level)
        rows = np.asarray(rows)
        if rows.size and not (rows.min() >= 0 and rows.max() < self.meta.rows):
            raise EmbedcalError(
                f"expected rows between 0 and {self.meta.rows - 1}, found {rows.min()} to "
                f"{rows.max()}: ask for rows of this cache"
            )
        return gather(self.stored, level, rows)

    def split(
        self,
        name: Split,
        level: Level = "embedding",
        attribute: str | Sequence[str] | None = None,
    ) -> Examples:
        """One split's encoded rows: ``x`` float32, ``y``, ``rows``, and ``a`` and ``g`` if known.

        ``a`` and ``g`` are there when the split has an attribute label at all; rows without one
        have -1 in both. Several attributes make groups by their product: those that ``attribute``
        names, or all.
        """
        arrays = self.split_labels(name, attribute)
        return Examples(split=name, arrays={"x": self.take(level, arrays["rows"]), **arrays})

    def split_labels(
        self, name: Split, attribute: str | Sequence[str] | None = None
    ) -> dict[str, IntArray]:
        """All of :meth:`split` but the features, which are not read."""
        rows = self.encoded_rows(name)
        arrays: dict[str, IntArray] = {"y": self.labels.y[rows], "rows": rows}
        labels = self._attribute_labels(attribute)
        if labels is not None and (labels[rows] >= 0).any():
            a = labels[rows]
            arrays["a"] = a
            arrays["g"] = np.where(a >= 0, arrays["y"] * self.n_attributes(attribute) + a, -1)
        return arrays

    def _level_path(self, level: str) -> str:
        if level not in self.meta.levels:
            kept = ", ".join(self.meta.levels)
            raise EmbedcalError(
                f"expected level '{level}' in the cache, found {kept} in {self.meta.path}: make a "
                "cache that keeps it" + (" with --keep tokens" if level == "tokens" else "")
            )
        return f"/images/{level}"

    # Text and projection

    @property
    def banks(self) -> tuple[str, ...]:
        """Names of the text banks; empty for an image-only encoder."""
        return tuple(unescape_name(name) for name in self.stored.below("/text/"))

    def text(self, bank: str) -> TextBank:
        """One bank's text features: through every template, or of the texts that describe it."""
        links = {unescape_name(link): link for link in self.stored.below("/text/")}
        if bank not in links:
            raise EmbedcalError(
                f"expected a text bank '{bank}', found {', '.join(self.banks) or 'none'} in "
                f"{self.meta.path}: give its prompts (for classes --classes, for attribute values "
                "--attributes) and use an encoder that has a text tower"
            )
        path = f"/text/{links[bank]}"
        descriptions = self.stored.texts(f"{path}/text")
        return TextBank(
            name=bank,
            prompts=self.stored.text(f"{path}/prompt"),
            templates=() if descriptions else self.meta.templates,
            descriptions=descriptions,
            embedding=finite(self.stored.read(f"{path}/embedding"), f"text bank {bank}"),
            pooled=finite(self.stored.read(f"{path}/pooled"), f"text bank {bank}")
            if f"{path}/pooled" in self.stored.arrays
            else None,
            pairs=self.meta.ingredients.pairs if bank == PAIRS else (),
        )

    @property
    def logit_scale(self) -> float | None:
        """The natural logarithm of the multiplier of logits, also without a projection."""
        path = "/projection/logit_scale"
        return float(self.stored.read(path)[0]) if path in self.stored.arrays else None

    def projection(self) -> Projection | None:
        """The weights between pooled and embedding, or None where the encoder has none."""
        found = {
            path.removeprefix("/projection/"): self.stored.read(path)
            for path in self.stored.arrays
            if path.startswith("/projection/")
        }
        if "image_weight" not in found:
            return None
        return Projection(
            image_weight=found["image_weight"],
            image_bias=found.get("image_bias"),
            text_weight=found.get("text_weight"),
            logit_scale=self.logit_scale,
            attnpool={
                unescape_name(name.removeprefix("attnpool/")): array
                for name, array in found.items()
                if name.startswith("attnpool/")
            },
            attnpool_heads=int(found["attnpool_heads"][0]) if "attnpool_heads" in found else 0,
        )
