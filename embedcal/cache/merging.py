"""Shards as one cache: checked against each other, then copied into one file, or linked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from embedcal.cache.checksums import BLOCK, COUNTER, CRC, digest, row_paths
from embedcal.cache.format import FORMAT, SHARD
from embedcal.cache.handles import Handles
from embedcal.cache.identity import explain_miss, fingerprint
from embedcal.cache.layout import StoredFile
from embedcal.cache.sharding import Shard, listed, verify_any
from embedcal.cache.skeleton import Contents
from embedcal.cache.view import FeatureCache
from embedcal.cache.virtual import is_bare
from embedcal.cache.writer import CacheWriter
from embedcal.types import EmbedcalError

LISTED = 5  # gaps named in one line


@dataclass(frozen=True, kw_only=True)
class Joined:
    """A cache of ``rows`` from ``shards`` files; ``resumed`` rows were there from another call.

    ``virtual``: its rows stay in the shards. ``reused``: it was there already, whole.
    """

    path: Path
    rows: int
    shards: int
    virtual: bool
    resumed: int = 0
    reused: bool = False
    notes: tuple[str, ...] = ()


def join_shards(
    paths: Sequence[str | Path],
    out: str | Path,
    *,
    virtual: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Joined:
    """All shards of one request as one cache, equal byte for byte to that of a single build.

    Only the time of creation, in the user block, may differ. A call that was killed goes on where
    it stopped. ``virtual`` writes a small file that links the rows of the shards, which must
    stay beside it. Raises EmbedcalError for shards that overlap, are missing, damaged or of
    another request, for a full disk, and where ``out`` holds something else. A damaged ``out`` of
    this request is made anew.
    """
    out = Path(out)
    with ExitStack() as opened:
        some = opened.enter_context(closing(Handles()))
        shards = [opened.enter_context(Shard(Path(path), handles=some)) for path in paths]
        shards = _in_order(shards)
        if virtual:
            _beside(shards, out)
        for shard in shards:
            if not (found := verify_any(shard.meta.path)).ok:
                raise EmbedcalError(
                    f"expected intact shards, found {found.path} damaged: {found.reason}"
                )
        contents = _contents(shards, virtual=virtual)
        notes = _notes(shards)
        facts: dict[str, Any] = {
            "rows": shards[0].span.total,
            "shards": len(shards),
            "virtual": virtual,
            "notes": notes,
        }
        with CacheWriter(out) as writer:
            if _is_there(out, contents):
                return Joined(path=out, reused=True, **facts)
            if virtual:
                return Joined(path=writer.publish(contents), **facts)
            part = writer.found()
            if part is not None and _same(opened.enter_context(part), contents):
                writer.resume(part)
            else:
                writer.create(contents)
            resumed = writer.rows_done
            for shard in shards:
                _copy(shard, writer, progress)
            return Joined(path=writer.finish(), resumed=resumed, **facts)


def _copy(shard: Shard, writer: CacheWriter, progress: Callable[[int, int], None] | None) -> None:
    """The rows of one shard that are not written yet."""
    stored, span = shard.stored, shard.span
    step = max(1, BLOCK // sum(array.row_bytes for array in writer.row_arrays.values()))
    while span.start <= writer.rows_done < span.stop:
        start = writer.rows_done - span.start
        stop = min(start + step, len(shard))
        writer.write({path: stored.rows(path, start, stop) for path in writer.row_arrays})
        if progress is not None:
            progress(writer.rows_done, span.total)


def _in_order(shards: Sequence[Shard]) -> list[Shard]:
    """Shards of one request by their rows, none missing, none twice; else one line that says so."""
    if not shards:
        raise EmbedcalError("expected shards to join, found none: name all of them")
    first = shards[0]
    for shard in shards[1:]:
        if shard.whole != first.whole:
            raise EmbedcalError(
                f"expected shards of one request, found {shard.meta.path} of another than "
                f"{first.meta.path} ({_difference(first, shard)}): leave it out, or make it again"
            )
    ordered = sorted(shards, key=lambda shard: (shard.span.start, shard.span.stop))
    for left, right in pairwise(ordered):
        if right.span.start < left.span.stop:
            last = min(left.span.stop, right.span.stop) - 1
            raise EmbedcalError(
                f"expected shards without common rows, found rows {right.span.start} to {last} in "
                f"{left.meta.path} and in {right.meta.path}: leave one of them out"
            )
    ends = [0, *(shard.span.stop for shard in ordered)]
    starts = [*(shard.span.start for shard in ordered), first.span.total]
    gaps = [f"{end} to {start - 1}" for end, start in zip(ends, starts, strict=True) if end < start]
    if gaps:
        more = " and more" if len(gaps) > LISTED else ""
        raise EmbedcalError(
            f"expected all {first.span.total} rows, found rows {', '.join(gaps[:LISTED])}{more} in "
            f"no shard{_numbers(ordered)}: make what is missing, and name it too"
        )
    return ordered


def _numbers(shards: Sequence[Shard]) -> str:
    """Which shards are missing, where all that are there were counted alike."""
    (count, *others) = {shard.part.count for shard in shards}
    missing = sorted({*range(1, count + 1)} - {shard.part.number for shard in shards})
    if others or not missing:
        return ""
    more = " and more" if len(missing) > LISTED else ""
    return f" ({', '.join(f'{i}/{count}' for i in missing[:LISTED])}{more})"


def _difference(mine: Shard, theirs: Shard) -> str:
    wanted, found = mine.meta.ingredients, theirs.meta.ingredients
    differences = explain_miss(wanted, replace(found, rows=wanted.rows))
    if mine.meta.dataset != theirs.meta.dataset:
        differences.append(f"data set: {mine.meta.dataset!r} and {theirs.meta.dataset!r}")
    if mine.span.total != theirs.span.total:
        differences.append(f"rows in all: {mine.span.total} and {theirs.span.total}")
    return "; ".join(differences) or "other ids, paths, labels or names"


def _beside(shards: Sequence[Shard], out: Path) -> None:
    """A virtual cache names its shards by bare names, so they lie in its own folder."""
    for shard in shards:
        path = shard.meta.path
        if path.resolve().parent != out.resolve().parent or not is_bare(path.name):
            raise EmbedcalError(
                f"expected shards beside {out} for --virtual, with no % or backslash in their "
                f"names, found {path}: move or rename it, or leave --virtual out"
            )


def _notes(shards: Sequence[Shard]) -> tuple[str, ...]:
    made = listed(*(shard.meta.library for shard in shards))
    sizes = sorted({shard.meta.batch_size for shard in shards})
    notes = []
    if made != shards[0].meta.library:
        notes.append(f"shards were made with different libraries, which moves last bits: {made}")
    if len(sizes) > 1:
        notes.append(f"shards were made in batches of {sizes}, which moves last bits")
    return tuple(notes)


def _contents(shards: Sequence[Shard], *, virtual: bool) -> Contents:
    """What a single build would have laid out: samples joined, all else as in the first shard."""
    stored, meta = shards[0].stored, shards[0].meta
    rows = row_paths(stored.arrays)
    fixed: dict[str, npt.NDArray[Any]] = {}
    for path in stored.arrays:
        if path in (COUNTER, CRC) or path in rows or path.startswith(SHARD):
            continue
        parts = shards if path.startswith("/samples/") else shards[:1]
        fixed[path] = np.concatenate([shard.stored.read(path) for shard in parts])
    if virtual:
        fixed["/shards/name"] = _names([shard.meta.path.name for shard in shards])
        fixed["/shards/sha256"] = _names([shard.meta.sha256 for shard in shards])
    identity = replace(meta.ingredients, rows=fixed["/samples/sha256"]).digest
    sizes = {shard.meta.batch_size for shard in shards}
    total = shards[0].span.total
    attributes = {
        **{n: v for n, v in stored.attributes.items() if n not in ("format", "format_version")},
        "library": listed(*(shard.meta.library for shard in shards)),
        "batch_size": sizes.pop() if len(sizes) == 1 else 0,
        "identity": identity,
        "fingerprint": _fingerprint(identity, shards),
    }
    return Contents(
        attributes=attributes,
        fixed=fixed,
        rows={p: (stored.arrays[p].dtype, (total, *stored.arrays[p].shape[1:])) for p in rows},
        sources=tuple((shard.meta.path.name, len(shard)) for shard in shards) if virtual else (),
    )


def _names(texts: Sequence[str]) -> npt.NDArray[np.bytes_]:
    return np.array([text.encode() for text in texts])


def _fingerprint(identity: str, shards: Sequence[FeatureCache]) -> str:
    samples = [shard.samples for shard in shards]
    boxes = [each.box for each in samples if each.box is not None]
    return fingerprint(
        identity,
        ids=tuple(name for each in samples for name in each.ids),
        y=np.concatenate([each.y for each in samples]),
        split=np.concatenate([each.split for each in samples]),
        classes=shards[0].meta.classes,
        attributes={
            name: (values, np.concatenate([each.attributes[name] for each in samples]))
            for name, values in shards[0].meta.attributes
        },
        box=np.concatenate(boxes) if boxes else None,
    )


def _is_there(out: Path, contents: Contents) -> bool:
    """Whether ``out`` is this cache, whole and of the same kind; EmbedcalError for another one."""
    if not out.exists():
        return False
    with StoredFile(out, linked="ignore") as found:
        same = found.head.fingerprint == contents.attributes["fingerprint"]
        if found.head.state != "complete" or not same or f"{SHARD}part" in found.arrays:
            raise EmbedcalError(
                f"expected no other {FORMAT.partition('-')[2]} in {out}, found one: remove it or "
                "name another file"
            )
        head = found.head
        return _same(found, contents) and digest(found.fileno(), head.length, []) == head.sha256


def _same(found: StoredFile, contents: Contents) -> bool:
    """Whether a file was laid out from equal contents."""
    rows = {*contents.rows, CRC, COUNTER}
    return (
        found.arrays.keys() == {*contents.fixed, *rows}
        and all(found.attributes[name] == value for name, value in contents.attributes.items())
        and all(found.arrays[p].dtype == dtype for p, (dtype, _) in contents.rows.items())
        and all(
            found.read(path).tobytes() == array.tobytes() for path, array in contents.fixed.items()
        )
    )
