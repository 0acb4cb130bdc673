"""The manifest: every sample of a data set as one validated, frozen value."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import overload

import numpy as np

from embedcal.datasets.labels import repeats
from embedcal.datasets.printable import printable
from embedcal.types import SPLITS, EmbedcalError, IntArray


@dataclass(frozen=True, kw_only=True)
class Attribute:
    """A named attribute with its value names and one value per row (-1: unknown)."""

    name: str
    values: tuple[str, ...]
    labels: IntArray  # (n,)


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """Validated rows. ``split`` holds 0, 1, 2 for train, val, test; paths are relative, POSIX.

    Columns of text are tuples; those of many rows that were in tar or Parquet files lie in a file
    (``StoredText``), so that what is in memory for each row is the numbers of its labels.
    ``prompts`` maps a bank to its prompts: ``class`` one a class, ``attribute`` one a value,
    ``context`` one a value ("bird on land"). ``warnings`` are recorded in the cache. Making one
    whose columns do not fit together raises ``EmbedcalError``. ``descriptions`` maps a bank to
    texts of its own for each of its prompts, as many for each, which are encoded as they are in
    place of prompt and templates. ``crop`` is the side in pixels of a centre crop of the decoded
    image, before the encoder's own preprocessing; ``image_only_crop`` that for encoders without a
    text tower where ``crop`` is None. ``box`` and masks are of the file, before any crop.
    """

    name: str
    root: Path
    ids: Sequence[str]
    paths: Sequence[str]
    y: IntArray  # (n,)
    split: IntArray  # (n,)
    classes: tuple[str, ...]
    attributes: tuple[Attribute, ...] = ()
    prompts: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    box: np.ndarray | None = None  # (n, 4) x, y, width, height in pixels of the file; NaN: none
    masks: Sequence[str] | None = None  # (n,) paths relative to the root; blank: none
    warnings: tuple[str, ...] = ()
    allow_outside_root: bool = False
    descriptions: Mapping[str, tuple[tuple[str, ...], ...]] = field(default_factory=dict)
    crop: int | None = None
    image_only_crop: int | None = None

    def __post_init__(self) -> None:
        n = len(self.ids)
        lengths = {"paths": len(self.paths), "y": len(self.y), "split": len(self.split)}
        lengths |= {a.name: len(a.labels) for a in self.attributes}
        lengths |= {} if self.box is None else {"box": len(self.box)}
        lengths |= {} if self.masks is None else {"masks": len(self.masks)}
        for name, length in lengths.items():
            if length != n:
                raise EmbedcalError(
                    f"expected {n} rows in {printable(name)}, one for each id, found {length}: "
                    "give every column the same length"
                )
        bounds = [("y", self.y, 0, len(self.classes)), ("split", self.split, 0, len(SPLITS))]
        bounds += [(a.name, a.labels, -1, len(a.values)) for a in self.attributes]
        for name, codes, low, end in bounds:
            codes = np.asarray(codes)
            if n and not low <= codes.min() <= codes.max() < end:
                raise EmbedcalError(
                    f"expected {printable(name)} in the range {low} to {end - 1}, found "
                    f"{codes.min()} to {codes.max()}: correct the codes or add names"
                )
        for bank, texts in self.descriptions.items():
            counts = sorted({len(each) for each in texts})
            if len(texts) != len(self.prompts.get(bank, ())) or len(counts) > 1 or 0 in counts:
                raise EmbedcalError(
                    f"expected as many descriptions of every prompt in bank {printable(bank)}, one "
                    f"at least, found {len(texts)} lists of {', '.join(map(str, counts))}: even "
                    "them out"
                )
        if repeats(self.ids)[0].size:
            raise EmbedcalError("expected distinct ids, found one twice: give each row its own")

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def files(self) -> Sequence[Path]:
        """Where the image of each row is."""
        return _Files(self.root, self.paths)

    def attribute(self, name: str | None = None) -> Attribute:
        """The attribute called ``name``, or the first one."""
        for attribute in self.attributes:
            if name is None or attribute.name == name:
                return attribute
        wanted = "" if name is None else f" '{printable(name)}'"
        found = ", ".join(printable(attribute.name) for attribute in self.attributes)
        raise EmbedcalError(
            f"expected an attribute{wanted} in {printable(self.name)}, found {found or 'none'}: "
            "add a column for it, or name another"
        )


class _Files(Sequence[Path]):
    """Paths below a root, each made when it is asked for."""

    def __init__(self, root: Path, paths: Sequence[str]) -> None:
        self._root, self._paths = root, paths

    def __len__(self) -> int:
        return len(self._paths)

    @overload
    def __getitem__(self, index: int) -> Path: ...
    @overload
    def __getitem__(self, index: slice) -> list[Path]: ...
    def __getitem__(self, index: int | slice) -> Path | list[Path]:
        if isinstance(index, slice):
            return [self._root / path for path in self._paths[index]]
        return self._root / self._paths[index]


def group_counts(manifest: Manifest, attribute: str | None = None) -> dict[str, list[int]]:
    """Rows of each split in each group, in the order of ``g = y * A + a``.

    The groups are those of ``attribute``, or of the first one. Rows whose attribute is unknown
    are in no group. Without any attribute the groups are the classes, which is A = 1.
    """
    if attribute is None and not manifest.attributes:
        groups, size = np.asarray(manifest.y), len(manifest.classes)
    else:
        chosen = manifest.attribute(attribute)
        n_values = len(chosen.values)
        groups = np.where(chosen.labels < 0, -1, manifest.y * n_values + chosen.labels)
        size = len(manifest.classes) * n_values
    return {
        split: np.bincount(
            groups[(manifest.split == code) & (groups >= 0)], minlength=size
        ).tolist()
        for code, split in enumerate(SPLITS)
    }
