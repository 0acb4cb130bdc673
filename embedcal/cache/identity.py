"""Identity is content: what an encoding depends on, hashed; never a path, a time or a name of ours.

Two requests with equal ``Identity.digest`` have equal features. The fingerprint adds what is
learned from, labels, attributes and splits, and so names a training problem.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from embedcal.cache.format import canonical
from embedcal.types import IntArray, Pair

_ROWS = 1 << 14  # that are hashed together: their text is in memory


@dataclass(frozen=True, kw_only=True)
class Identity:
    """All that decides the features of a cache.

    ``levels`` maps each stored level to its stored type; ``prompts`` and ``templates`` are empty
    for an image-only encoder; ``rows`` (N, 32) holds the SHA-256 of each image's bytes in row
    order, zeros where no bytes could be read. A bank in ``descriptions`` has texts of its own, as
    many for each of its prompts, which took the place of prompt and template. ``pairs`` are rows of
    the bank of that name with their roles: they move no feature, but say what its prompts are, as
    the order of the others does. The library's version and the batch size are recorded beside it,
    not in it: they move features by rounding.
    """

    encoder: str
    weights_sha256: str
    preprocessing: Mapping[str, Any]
    precision: str
    levels: Mapping[str, str]
    templates: tuple[str, ...]
    prompts: Mapping[str, tuple[str, ...]]
    rows: npt.NDArray[np.uint8]
    descriptions: Mapping[str, tuple[tuple[str, ...], ...]] = field(default_factory=dict)
    pairs: tuple[Pair, ...] = ()

    def document(self) -> dict[str, Any]:
        """The identity as JSON-able values, the rows by their count and one digest of all."""
        document: dict[str, Any] = {
            "encoder": self.encoder,
            "weights_sha256": self.weights_sha256,
            "preprocessing": dict(self.preprocessing),
            "precision": self.precision,
            "levels": dict(self.levels),
            "templates": list(self.templates),
            "prompts": {bank: list(prompts) for bank, prompts in self.prompts.items()},
            "rows": {
                "count": len(self.rows),
                "sha256": hashlib.sha256(np.ascontiguousarray(self.rows)).hexdigest(),
            },
        }
        if self.descriptions:
            document["descriptions"] = {
                bank: [list(texts) for texts in each] for bank, each in self.descriptions.items()
            }
        if self.pairs:
            document["pairs"] = [list(pair) for pair in self.pairs]
        return document

    @property
    def digest(self) -> str:
        return hashlib.sha256(canonical(self.document()).encode()).hexdigest()


def text_list(texts: Sequence[str]) -> Iterator[bytes]:
    """``canonical`` of a list of texts, in parts that end to end are its bytes."""
    yield b"["
    for start in range(0, len(texts), _ROWS):
        part = canonical(list(texts[start : start + _ROWS])).encode()
        yield (b"," if start else b"") + part[1:-1]
    yield b"]"


def fingerprint(
    identity: str,
    *,
    ids: Sequence[str],
    y: IntArray,
    split: IntArray,
    classes: tuple[str, ...],
    attributes: Mapping[str, tuple[tuple[str, ...], IntArray]],
    box: npt.NDArray[Any] | None = None,
) -> str:
    """Identity, ids, labels, splits, class names and attributes (in order) as one hex digest."""
    state = hashlib.sha256()

    def add(name: str, value: bytes) -> None:
        state.update(f"{name}:{len(value)}:".encode())
        state.update(value)

    def add_rows(name: str, array: npt.NDArray[Any], kind: str) -> None:
        count = math.prod(np.shape(array)) * np.dtype(kind).itemsize
        state.update(f"{name}:{count}:".encode())
        for start in range(0, len(array), _ROWS):
            state.update(np.ascontiguousarray(array[start : start + _ROWS], kind).tobytes())

    add("identity", identity.encode())
    state.update(f"ids:{sum(map(len, text_list(ids)))}:".encode())
    for part in text_list(ids):
        state.update(part)
    add_rows("y", y, "<i8")
    add_rows("split", split, "<i8")
    add("classes", canonical(list(classes)).encode())
    for name, (values, labels) in attributes.items():
        add("attribute", canonical([name, list(values)]).encode())
        add_rows("labels", labels, "<i8")
    if box is not None:
        add_rows("box", box, "<f4")
    return state.hexdigest()


def with_unreadable(fingerprint: str, status: IntArray) -> str:
    """A fingerprint as it is where all rows are readable, else one of it and of who is not."""
    if not status.any():
        return fingerprint
    return hashlib.sha256(fingerprint.encode() + status.astype("|u1").tobytes()).hexdigest()


def file_name(dataset: str, encoder: str, identity: str) -> str:
    """``{dataset}-{encoder}-{identity[:10]}.h5`` with everything unsafe in a file name replaced."""

    def safe(name: str) -> str:
        return (
            re.sub(r"[^A-Za-z0-9_.@-]+", "-", Path(name).name if "/" not in name else name)[
                :60
            ].strip("-.")
            or "unnamed"
        )

    return f"{safe(dataset)}-{safe(encoder)}-{identity[:10]}.h5"


def explain_miss(wanted: Identity, found: Identity) -> list[str]:
    """What differs between two identities, one line each; empty when a cache would be reused."""
    lines = [
        f"{name}: wanted {mine!r}, found {theirs!r}"
        for name, mine, theirs in (
            ("encoder", wanted.encoder, found.encoder),
            ("weights_sha256", wanted.weights_sha256, found.weights_sha256),
            ("precision", wanted.precision, found.precision),
        )
        if mine != theirs
    ]
    lines += _differing_keys("preprocessing", wanted.preprocessing, found.preprocessing)
    lines += _differing_keys("stored type of", wanted.levels, found.levels)
    lines += _differing_list("templates", wanted.templates, found.templates)
    for bank in sorted({*wanted.prompts, *found.prompts}):
        mine, theirs = wanted.prompts.get(bank, ()), found.prompts.get(bank, ())
        lines += _differing_list(f"prompts of bank '{bank}'", mine, theirs)
    for bank in sorted({*wanted.descriptions, *found.descriptions}):
        mine, theirs = (
            tuple(chain.from_iterable(each.descriptions.get(bank, ()))) for each in (wanted, found)
        )
        lines += _differing_list(f"descriptions of bank '{bank}'", mine, theirs)
    lines += _differing_list("concept pairs", wanted.pairs, found.pairs)
    lines += _differing_rows(wanted.rows, found.rows)
    return lines


def _differing_keys(what: str, wanted: Mapping[str, Any], found: Mapping[str, Any]) -> list[str]:
    return [
        f"{what} {key}: wanted {wanted.get(key)!r}, found {found.get(key)!r}"
        for key in sorted({*wanted, *found})
        if canonical([wanted.get(key)]) != canonical([found.get(key)])
    ]


def _differing_list(what: str, wanted: Sequence[object], found: Sequence[object]) -> list[str]:
    if wanted == found:
        return []
    if len(wanted) != len(found):
        return [f"{what}: wanted {len(wanted)}, found {len(found)}"]
    at = next(i for i in range(len(wanted)) if wanted[i] != found[i])
    return [f"{what}: number {at} is wanted {wanted[at]!r}, found {found[at]!r}"]


def _differing_rows(wanted: npt.NDArray[np.uint8], found: npt.NDArray[np.uint8]) -> list[str]:
    if len(wanted) != len(found):
        return [f"rows: wanted {len(wanted)}, found {len(found)}"]
    changed = np.flatnonzero((wanted != found).any(axis=1))
    if not len(changed):
        return []
    if np.array_equal(wanted[np.lexsort(wanted.T)], found[np.lexsort(found.T)]):
        return [f"rows: the same images in another order, first at row {changed[0]}"]
    return [f"rows: the bytes of {len(changed)} images differ, first at row {changed[0]}"]
