"""A cache from features that somebody else computed: no images, no text, the same guarantees."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from embedcal.cache.build import cache_target
from embedcal.cache.contents import assemble, label_arrays, same_labels
from embedcal.cache.format import REASON_BYTES
from embedcal.cache.identity import Identity
from embedcal.cache.view import open_cache
from embedcal.cache.writer import CacheWriter
from embedcal.datasets.manifest import Attribute, Manifest
from embedcal.encoders.base import EncoderMeta
from embedcal.types import EmbedcalError, FloatArray, IntArray

_BATCH = 1024  # rows written at once


@dataclass(frozen=True, kw_only=True)
class Names:
    """What imported features are called. Empty ``classes`` or ``values``: the numbers themselves;
    empty ``ids``: row numbers."""

    dataset: str = "features"
    encoder: str = "imported"
    ids: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()
    values: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


def import_features(
    features: FloatArray,
    y: IntArray,
    split: IntArray,
    attributes: Mapping[str, IntArray] | None = None,
    *,
    names: Names | None = None,
    out: Path | None = None,
) -> Path:
    """Features (n, d), labels (n,), splits (n,) of 0, 1, 2 and attributes (n,) -> a cache file.

    float16 features are stored as they are, all others as float32. Row digests are of the stored
    bytes of each row, so equal features are the same cache. Non-finite features are refused.
    """
    names = names or Names()
    stored = _as_stored(features)
    manifest = _manifest(len(stored), y, split, attributes or {}, names)
    digests = [hashlib.sha256(row.tobytes()).digest() for row in stored]
    meta = EncoderMeta(
        name=names.encoder,
        weights="imported",
        weights_sha256="",
        library="imported",
        preprocessing={},
        precision="imported",
        shapes={"embedding": (stored.shape[1],)},
    )
    identity = Identity(
        encoder=meta.name,
        weights_sha256=meta.weights_sha256,
        preprocessing=meta.preprocessing,
        precision=meta.precision,
        levels={"embedding": stored.dtype.name},
        templates=(),
        prompts={},
        rows=np.frombuffer(b"".join(digests), np.uint8).reshape(-1, 32),
    )
    labels = label_arrays(manifest, identity)
    target, _ = cache_target(manifest, meta.name, identity, out)
    with CacheWriter(target) as writer:
        if target.exists():
            with open_cache(target) as cache:
                if same_labels(cache.stored, labels, manifest):
                    return target
        writer.create(assemble(manifest, meta, identity, labels, {"batch_size": 0}))
        for start in range(0, len(stored), _BATCH):
            block = stored[start : start + _BATCH]
            writer.write(
                {
                    "/samples/status": np.zeros(len(block), "|u1"),
                    "/samples/reason": np.zeros(len(block), f"S{REASON_BYTES}"),
                    "/images/embedding": block,
                }
            )
        return writer.finish()


def _as_stored(features: FloatArray) -> npt.NDArray[Any]:
    if features.ndim != 2 or features.dtype.kind != "f" or 0 in features.shape:
        raise EmbedcalError(
            f"expected features (n, d) of a floating type, found shape {features.shape} of "
            f"{features.dtype}: give one row of features for each sample"
        )
    with np.errstate(over="ignore"):
        stored = np.ascontiguousarray(features, "<f2" if features.dtype == np.float16 else "<f4")
    bad = np.flatnonzero(~np.isfinite(stored).all(axis=1))
    if len(bad):
        raise EmbedcalError(
            f"expected finite features, found NaN or infinity in {len(bad)} rows, first in row "
            f"{bad[0]}: mend or remove them"
        )
    return stored


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
        paths=ids,
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
    )
