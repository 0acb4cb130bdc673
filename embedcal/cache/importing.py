"""A cache from features that somebody else computed: no images, the same guarantees."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from embedcal.cache.contents import (
    Arrays,
    assemble,
    label_arrays,
    pair_arrays,
    same_labels,
    text_array,
)
from embedcal.cache.format import PAIRS, REASON_BYTES, escape_name
from embedcal.cache.identity import Identity
from embedcal.cache.target import cache_target
from embedcal.cache.view import open_cache
from embedcal.cache.writer import CacheWriter
from embedcal.datasets.manifest import Attribute, Manifest
from embedcal.encoders.base import EncoderMeta
from embedcal.types import EmbedcalError, FloatArray, IntArray, TextBank

_BATCH = 1024  # rows looked at, and written, at once

Features = FloatArray | Sequence[FloatArray]


@dataclass(frozen=True, kw_only=True)
class Names:
    """What imported features are called. Empty ``classes`` or ``values``: the numbers themselves;
    empty ``ids``: row numbers; empty ``paths``: the ids. ``warnings`` are kept in the cache."""

    dataset: str = "features"
    encoder: str = "imported"
    ids: tuple[str, ...] = ()
    paths: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()
    values: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Text:
    """Text features that belong to imported ones: banks (P, T, d) that share their templates,
    or have descriptions, and the natural logarithm of the multiplier of the logits."""

    banks: tuple[TextBank, ...] = ()
    logit_scale: float | None = None


def import_features(
    features: Features,
    y: IntArray,
    split: IntArray,
    attributes: Mapping[str, IntArray] | None = None,
    *,
    names: Names | None = None,
    text: Text | None = None,
    out: Path | None = None,
) -> Path:
    """Features (n, d), labels (n,), splits (n,) of 0, 1, 2 and attributes (n,) -> a cache file.

    Features may be several arrays, whose rows follow each other; arrays mapped from a file are
    taken through memory a block at a time, once to check and to hash them and once to write them.
    float16 features are stored as they are, all others as float32. Row digests are of the stored
    bytes of each row, so equal features are the same cache; with ``text`` its bytes count too.
    EmbedcalError for features that are not finite, and for labels that do not fit.

    Example:
        >>> import embedcal
        >>> import numpy as np
        >>> rng = np.random.default_rng(0)
        >>> y, place = rng.integers(0, 2, (2, 90))
        >>> split = np.repeat([0, 1, 2], 30)
        >>> path = embedcal.import_features(rng.normal(size=(90, 8)), y, split, {"place": place})
        >>> with embedcal.open(path) as cache:
        ...     cache.group_names()
        ('0 | 0', '0 | 1', '1 | 0', '1 | 1')
    """
    names, text = names or Names(), text or Text()
    parts = feature_parts(features)
    dtype = _stored_type(parts)
    manifest = _manifest(sum(map(len, parts)), y, split, attributes or {}, names)
    width = parts[0].shape[1]
    written = _text_arrays(text, width)
    meta = EncoderMeta(
        name=names.encoder,
        weights="imported",
        weights_sha256="",
        library="imported",
        preprocessing={"text_sha256": _digest(written)} if written else {},
        precision="imported",
        shapes={"embedding": (width,)},
    )
    identity = Identity(
        encoder=meta.name,
        weights_sha256=meta.weights_sha256,
        preprocessing=meta.preprocessing,
        precision=meta.precision,
        levels={"embedding": dtype.name},
        templates=_templates(text),
        prompts={bank.name: bank.prompts for bank in text.banks},
        descriptions={b.name: b.descriptions for b in text.banks if b.descriptions},
        pairs=next((bank.pairs for bank in text.banks if bank.name == PAIRS), ()),
        rows=_row_digests(parts, dtype),
    )
    labels = label_arrays(manifest, identity)
    target, _ = cache_target(manifest, meta.name, identity, out)

    def there() -> bool:
        if not target.exists():
            return False
        with open_cache(target) as cache:
            return same_labels(cache.stored, labels, manifest)

    if there():  # nothing is written, and nobody waited for
        return target
    with CacheWriter(target) as writer:
        if there():  # by another process meanwhile
            return target
        fixed = {**labels, **written}
        writer.create(assemble(manifest, meta, identity, fixed, {"batch_size": 0}))
        for block in _blocks(parts, dtype):
            writer.write(
                {
                    "/samples/status": np.zeros(len(block), "|u1"),
                    "/samples/reason": np.zeros(len(block), f"S{REASON_BYTES}"),
                    "/images/embedding": block,
                }
            )
        return writer.finish()


def feature_parts(features: Features) -> tuple[FloatArray, ...]:
    """Arrays (n_i, d) of a floating type and of one width; EmbedcalError for anything else."""
    parts = (features,) if isinstance(features, np.ndarray) else tuple(features)
    if not parts:
        raise EmbedcalError("expected features (n, d), found no array at all: give at least one")
    for part in parts:
        if part.ndim != 2 or part.dtype.kind != "f" or 0 in part.shape:
            raise EmbedcalError(
                f"expected features (n, d) of a floating type, found shape {part.shape} of "
                f"{part.dtype}: give one row of features for each sample"
            )
        if part.shape[1] != parts[0].shape[1]:
            raise EmbedcalError(
                f"expected features of one width, found {parts[0].shape[1]} and {part.shape[1]} "
                "in different parts: import what one encoder made"
            )
    return parts


def _stored_type(parts: Sequence[FloatArray]) -> np.dtype[Any]:
    halves = all(part.dtype == np.float16 for part in parts)
    return np.dtype("<f2" if halves else "<f4")


def _blocks(parts: Sequence[FloatArray], dtype: np.dtype[Any]) -> Iterator[npt.NDArray[Any]]:
    for part in parts:
        for start in range(0, len(part), _BATCH):
            with np.errstate(over="ignore"):  # what overflows is infinite, and refused as that
                yield np.ascontiguousarray(part[start : start + _BATCH], dtype)


def _row_digests(parts: Sequence[FloatArray], dtype: np.dtype[Any]) -> npt.NDArray[np.uint8]:
    """SHA-256 of each stored row, (n, 32); the pass that refuses features that are not finite."""
    digests = np.empty((sum(map(len, parts)), 32), np.uint8)
    row = bad = 0
    first = -1
    for block in _blocks(parts, dtype):
        wrong = np.flatnonzero(~np.isfinite(block).all(axis=1))
        if len(wrong) and not bad:
            first = row + int(wrong[0])
        bad += len(wrong)
        joined = b"".join(hashlib.sha256(each).digest() for each in block)
        digests[row : row + len(block)] = np.frombuffer(joined, np.uint8).reshape(-1, 32)
        row += len(block)
    if bad:
        raise EmbedcalError(
            f"expected finite features, found NaN or infinity in {bad} rows, first in row "
            f"{first}: mend or remove them"
        )
    return digests


def _text_arrays(text: Text, width: int) -> Arrays:
    """Banks and logit scale by the format's names, checked against the features."""
    arrays: Arrays = {}
    templates = _templates(text)
    for bank in text.banks:
        each = {len(texts) for texts in bank.descriptions} or {len(templates)}
        wanted = (len(bank.prompts), min(each), width)
        alike = len(each) == 1 and (
            len(bank.descriptions) == len(bank.prompts) or bank.templates == templates
        )
        if bank.embedding.shape != wanted or not alike:
            raise EmbedcalError(
                f"expected text features (prompts, templates, d) of shape {wanted} in bank "
                f"'{bank.name}', found {bank.embedding.shape}: one width, and one list of "
                "templates in every bank"
            )
        if not np.isfinite(bank.embedding).all():
            raise EmbedcalError(
                f"expected finite text features, found NaN or infinity in bank '{bank.name}': "
                "mend them, or leave the bank out"
            )
        path = f"/text/{escape_name(bank.name)}"
        arrays[f"{path}/prompt"] = text_array(bank.prompts, "prompts")
        arrays[f"{path}/embedding"] = np.asarray(bank.embedding, "<f4")
        if bank.descriptions:
            texts = text_array([each for own in bank.descriptions for each in own], "descriptions")
            arrays[f"{path}/text"] = texts.reshape(wanted[:2])
        if bank.name == PAIRS:
            arrays |= pair_arrays(bank.pairs)
    if templates:
        arrays["/templates"] = text_array(templates, "templates")
    if text.logit_scale is not None:
        arrays["/projection/logit_scale"] = np.array([text.logit_scale], "<f8")
    return arrays


def _templates(text: Text) -> tuple[str, ...]:
    """The templates that all banks share but those that have descriptions instead."""
    return next((bank.templates for bank in text.banks if not bank.descriptions), ())


def _digest(arrays: Arrays) -> str:
    state = hashlib.sha256()
    for path in sorted(arrays):
        state.update(f"{path}:{arrays[path].shape}:".encode())
        state.update(np.ascontiguousarray(arrays[path]).tobytes())
    return state.hexdigest()


def _manifest(
    n: int, y: IntArray, split: IntArray, attributes: Mapping[str, IntArray], names: Names
) -> Manifest:
    ids = names.ids or tuple(str(i) for i in range(n))

    def named(labels: IntArray, given: tuple[str, ...]) -> tuple[str, ...]:
        top = int(np.max(labels, initial=-1)) + 1
        return given or tuple(str(i) for i in range(max(1, top)))

    return Manifest(
        name=names.dataset,
        root=Path(),
        ids=ids,
        paths=names.paths or ids,
        y=np.asarray(y, np.int64),
        split=np.asarray(split, np.int64),
        classes=named(y, names.classes),
        attributes=tuple(
            Attribute(
                name=name,
                values=named(labels, names.values.get(name, ())),
                labels=np.asarray(labels, np.int64),
            )
            for name, labels in attributes.items()
        ),
        warnings=names.warnings,
    )
