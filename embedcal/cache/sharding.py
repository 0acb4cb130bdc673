"""A part of a cache made on its own: which rows it has, what it says of the whole, how it opens.

The rule of partition. A build of N rows encodes them in batches of b, so shard i of n takes the
batches from (i - 1) * B // n up to i * B // n, where B = ceil(N / b). Shards are runs of whole
batches that differ by at most one, and each encodes the very batches of a single build: joined
features equal that build's byte for byte.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from embedcal.cache.checksums import digest
from embedcal.cache.contents import Arrays, label_arrays, text_array
from embedcal.cache.format import SHARD, canonical
from embedcal.cache.handles import Handles
from embedcal.cache.identity import Identity, file_name, fingerprint, text_list
from embedcal.cache.layout import StoredFile
from embedcal.cache.meta import check_labels, read_facts
from embedcal.cache.verification import Verification, follows, verify
from embedcal.cache.view import FeatureCache, open_cache
from embedcal.datasets.manifest import Manifest
from embedcal.datasets.places import data_dir
from embedcal.datasets.stored_text import picked
from embedcal.types import EmbedcalError, IntArray


@dataclass(frozen=True)
class Part:
    """Shard ``number`` of ``count``, from 1."""

    number: int
    count: int

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"


@dataclass(frozen=True)
class Span:
    """Rows ``start`` to ``stop`` of ``total``."""

    start: int
    stop: int
    total: int


def part_of(text: str) -> Part:
    """``2/5`` as a part; EmbedcalError for anything else."""
    number, slash, count = text.partition("/")
    if slash and number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count):
        return Part(int(number), int(count))
    raise EmbedcalError(
        f"expected --shard I/N with I from 1 to N, such as 2/5, found '{text}': say which part of "
        "how many"
    )


def span_of(part: Part, rows: int, batch_size: int) -> Span:
    """The rows of a part by the rule above; EmbedcalError where there are more parts than batches.

    >>> [span_of(Part(i, 3), 37, 8).start for i in (1, 2, 3)]
    [0, 8, 24]
    """
    batches = math.ceil(rows / batch_size)
    if part.count > batches:
        raise EmbedcalError(
            f"expected at most {batches} shards of {rows} rows in batches of {batch_size}, found "
            f"{part}: make fewer, or smaller batches"
        )
    first, last = ((i * batches // part.count) * batch_size for i in (part.number - 1, part.number))
    return Span(first, min(last, rows), rows)


def rows_of(manifest: Manifest, rows: Span | IntArray) -> Manifest:
    """The manifest of some rows; names, prompts and warnings stay those of the whole."""
    if isinstance(rows, Span):
        rows = np.arange(rows.start, rows.stop)
    masks = manifest.masks
    return replace(
        manifest,
        ids=picked(manifest.ids, rows),
        paths=picked(manifest.paths, rows),
        y=np.asarray(manifest.y)[rows],
        split=np.asarray(manifest.split)[rows],
        attributes=tuple(replace(a, labels=a.labels[rows]) for a in manifest.attributes),
        box=None if manifest.box is None else manifest.box[rows],
        masks=None if masks is None else picked(masks, rows),
    )


def listed(*facts: str) -> str:
    """What several makers recorded, each once: one word where they agree."""
    return "; ".join(dict.fromkeys(part for fact in facts for part in fact.split("; ")))


def whole_digest(manifest: Manifest, identity: Identity) -> str:
    """What all shards of one request share: the encoding and every row's labels, but no image.

    So a machine reads only its own images, and what they were is in each shard by row.
    """
    encoding = replace(identity, rows=np.zeros((0, 32), np.uint8)).digest
    labels = fingerprint(
        encoding,
        ids=manifest.ids,
        y=manifest.y,
        split=manifest.split,
        classes=manifest.classes,
        attributes={a.name: (a.values, a.labels) for a in manifest.attributes},
        box=manifest.box,
    )
    masks, warnings = manifest.masks, list(manifest.warnings)
    state = hashlib.sha256(canonical([labels, manifest.name]).encode()[:-1])
    for texts in (manifest.paths, masks):
        state.update(b",")
        for part in [b"null"] if texts is None else text_list(texts):
            state.update(part)
    state.update(f",{canonical(warnings)}]".encode())
    return state.hexdigest()


def shard_labels(manifest: Manifest, identity: Identity, part: Part, span: Span) -> Arrays:
    """Rows ``span`` of the table of the whole, as wide as there, and what they are a part of."""
    rows = slice(span.start, span.stop)
    arrays = {
        path: array[rows] if path.startswith("/samples/") else array
        for path, array in label_arrays(manifest, identity).items()
    }
    return {
        **arrays,
        "/samples/sha256": identity.rows,  # of these rows already
        f"{SHARD}part": np.array([part.number, part.count], "<i8"),
        f"{SHARD}rows": np.array([span.start, span.stop, span.total], "<i8"),
        f"{SHARD}whole": text_array([whole_digest(manifest, identity)], "digests"),
    }


def shard_target(
    manifest: Manifest, identity: Identity, part: Part, span: Span, out: Path | None
) -> Path:
    """The file to write a shard into: the one named, else one that the request and part name.

    EmbedcalError where something else is there already: a shard is never replaced by another.
    """
    whole = whole_digest(manifest, identity)
    path = out
    if path is None or path.is_dir():
        stem = Path(file_name(manifest.name, identity.encoder, whole)).stem
        path = (path or data_dir() / "shards") / f"{stem}-{part.number}of{part.count}.h5"
    if path.exists():
        with Shard(path) as shard:
            if (shard.whole, shard.span, shard.meta.identity) != (whole, span, identity.digest):
                raise EmbedcalError(
                    f"expected shard {part} of this request in {path}, found shard {shard.part} of "
                    "another, or of images that have changed: remove it or name another file "
                    "with --out"
                )
    return path


class Shard(FeatureCache):
    """A finished shard, for whoever joins, checks or lists it; ``open_cache`` refuses it.

    Its facts, labels and features are those of its own rows; text features are in the first only.
    """

    def __init__(self, path: Path, *, handles: Handles | None = None) -> None:
        self.inferred, self.prompts = {}, {}
        self.stored = StoredFile(path, handles=handles)
        try:
            if self.stored.head.state != "complete":
                raise EmbedcalError(
                    f"expected a finished shard, found one that is still being built in {path}: "
                    "run the command that began it again; it resumes"
                )
            if not {f"{SHARD}{name}" for name in ("part", "rows", "whole")} <= {
                *self.stored.arrays
            }:
                raise EmbedcalError(
                    f"expected a shard, found a whole cache in {path}: name files that 'embedcal "
                    "cache --shard' wrote"
                )
            self.meta = read_facts(self.stored)
            check_labels(self.stored, self.meta)
            self.part = Part(*self.stored.read(f"{SHARD}part").tolist())
            self.span = Span(*self.stored.read(f"{SHARD}rows").tolist())
            (self.whole,) = self.stored.text(f"{SHARD}whole")
            span = self.span
            if not 0 <= span.start < span.stop <= span.total or span.stop - span.start != len(self):
                raise EmbedcalError(
                    f"expected a shard of {len(self)} rows to say which, found rows {span.start} "
                    f"to {span.stop} of {span.total} in {path}: make it again"
                )
        except BaseException:
            self.stored.close()
            raise

    def __enter__(self) -> Shard:
        return self


def is_shard(path: Path) -> bool:
    """Whether a file is a part of a cache, finished or not."""
    with StoredFile(path) as stored:
        return f"{SHARD}part" in stored.arrays


def open_any(path: Path) -> FeatureCache:
    """A whole cache or a shard, to look at."""
    return Shard(path) if is_shard(path) else open_cache(path)


def verify_any(path: str | Path) -> Verification:
    """Whether a cache, a shard, or a virtual cache with its shards, is whole to the last byte.

    Everything behind the user block is hashed and held against the SHA-256 of the file; nothing
    is written. Damage is no error but what ``Verification`` says; that of a shard names its file
    and counts its rows from 0. EmbedcalError for a path that cannot be read.

    Example:
        >>> import embedcal
        >>> embedcal.verify("birds.h5").ok
        True
    """
    path = Path(path)
    found = verify(path)
    if found.ok:
        with open_cache(path) as cache:
            below = [shard.path for shard in cache.stored.shards]
        for bad in map(verify_any, below):
            if not bad.ok:
                reason = f"expected intact shards of {path}, found one damaged: {bad.reason}"
                return replace(bad, reason=reason)
        return found
    try:
        with Shard(path) as shard:
            head = shard.stored.head
            if digest(shard.stored.fileno(), head.length, []) != head.sha256:
                return found
            if follows(shard):  # so it was refused for being no cache, and for nothing else
                return Verification(path=path, ok=True, reason="", sha256=head.sha256)
            reason = (
                f"expected identity and fingerprint to follow from the contents, found others in "
                f"{path}: this file was not written by embedcal; make the shard again"
            )
            return replace(found, reason=reason)
    except EmbedcalError:
        return found
