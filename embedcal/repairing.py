"""``embedcal repair``: what fails in a cache is encoded again, into a whole file beside it.

A shard gets its own name back where the seal proves that every byte is as it was, since a virtual
cache knows its shards by name and seal. Nobody can tell such a file from the one that was damaged.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from embedcal.cache import CacheWriter, FeatureCache, join_shards, open_cache, verify
from embedcal.cache.checksums import CRC
from embedcal.cache.contents import cut_reason, projection_arrays, text_arrays
from embedcal.cache.format import OK, SHARD, UNREADABLE
from embedcal.cache.layout import StoredFile
from embedcal.cache.repairing import WorkCopy, failing_rows
from embedcal.cache.sharding import open_any, verify_any
from embedcal.cache.verification import follows
from embedcal.pictures import Pictures, find
from embedcal.reencoding import BATCH, Encoded, Progress, Source, encode_rows
from embedcal.types import EmbedcalError, Level

if TYPE_CHECKING:
    from embedcal.cache.virtual import Piece
    from embedcal.encoders.base import Encoder

ASKED = "it was named"
READABLE = "its image can be read now"
NO_BYTES = "could not be read when it was cached"


@dataclass(frozen=True, kw_only=True)
class Repair:
    """What was done. ``path`` is the whole file, ``written`` whether it is a new one.

    ``rows`` maps each row that was written anew to the reason. ``exact``: every byte is again as
    it was first written, which the seal proves. ``text``: text and projection were encoded anew
    too, since the rows alone did not account for the damage. ``unreadable`` lists (id, path,
    reason) of all rows without features; ``shards`` those of a virtual cache that were repaired.
    """

    source: Path
    path: Path
    written: bool
    rows: Mapping[int, str]
    exact: bool
    text: bool
    unreadable: tuple[tuple[str, str, str], ...]
    shards: tuple[Path, ...] = ()


def repair(
    path: str | Path,
    *,
    rows: Sequence[int] = (),
    out: str | Path | None = None,
    source: Source | None = None,
    progress: Progress | None = None,
) -> Repair:
    """Encode the rows of a cache that fail again and write a whole file beside it.

    Rows fail whose checksum does not hold or that have NaN or infinity; ``rows`` names others,
    such as those that ``reencode`` found to differ. Rows that could not be decoded are tried
    again too. Each is encoded in the batch that it was first in, so on one machine and version
    the bytes come out as they were, and the seal of the damaged file proves it. ``out`` is by
    default ``NAME-repaired.h5``; identity and fingerprint stay.

    A shard is repaired likewise, its rows counted from 0, but takes the place of the damaged file
    where the seal fits and no ``out`` is given. Of a virtual cache each shard that fails is
    repaired so, then the file that links them.

    Raises EmbedcalError where nothing can mend the file: a damaged user block or structure, changed
    labels, a missing or changed image; and for a virtual cache one of whose shards comes out
    otherwise than it was. No file is changed but by another taking its name.

    Example:
        >>> import embedcal
        >>> found = embedcal.repair("birds.h5", rows=[3], out="again.h5")
        >>> embedcal.verify(found.path).ok
        True
    """
    path, source = Path(path), source or Source()
    with StoredFile(path, linked="ignore") as stored:  # refuses here what cannot be mended
        pieces, is_part = stored.arrays[CRC].pieces, f"{SHARD}part" in stored.arrays
        if stored.head.state != "complete":
            raise EmbedcalError(
                f"expected a finished file, found one that is still being built in {path}: run the "
                "command that began it again; it resumes"
            )
    if pieces:
        if out is not None:
            raise EmbedcalError(
                f"expected no -o for {path}, whose shards keep their names, found {out}: leave it "
                "out, or join the repaired shards with 'embedcal merge'"
            )
        return _repair_shards(path, pieces, rows, source, progress)
    found = verify_any(path)
    target = Path(out) if out is not None else path.with_name(f"{path.stem}-repaired{path.suffix}")
    if target.exists():
        raise EmbedcalError(
            f"expected no file at {target}, found one: remove it or name another with -o"
        )
    if found.ok:
        with open_any(path) as cache:
            if not _wanted(cache, failing_rows(cache.stored), rows):
                return _untouched(cache)
    work = target.with_name(target.name + ".repairing")
    with CacheWriter(target), WorkCopy(path, work) as copy:
        failing = failing_rows(copy.file)
        if failing:
            copy.blank(list(failing))
        with _opened(copy, path) as cache:
            wanted = _wanted(cache, failing, rows)
            encoder = source.encoder(cache.meta)
            done = _renew(copy, cache, encoder, wanted, source, progress) if wanted else {}
            if not done and found.ok:
                return _untouched(cache)
            exact, text = copy.seal(), False
            if not exact and not found.ok:
                text = _renew_text(copy, cache, encoder)
                if not failing and not text:
                    raise _beyond(path, copy.file)
                exact = copy.seal()
        if not verify_any(work).ok:
            raise _beyond(path, copy.file)
        with open_any(work) as whole:
            unreadable = _unreadable(whole)
        if is_part and exact and out is None:
            target = path
        copy.publish(target)
    return Repair(
        source=path,
        path=target,
        written=True,
        rows=done,
        exact=exact,
        text=text,
        unreadable=unreadable,
    )


def _repair_shards(
    path: Path,
    pieces: Sequence[Piece],
    rows: Sequence[int],
    source: Source,
    progress: Progress | None,
) -> Repair:
    """Each shard that fails or has one of ``rows``, in its place; then the file that links them."""
    _check(rows, pieces[-1].stop)
    shards = [path.with_name(piece.name) for piece in pieces]
    done: dict[int, str] = {}
    repaired: list[Path] = []
    text = False
    for shard, piece in zip(shards, pieces, strict=True):
        mine = [row - piece.start for row in rows if piece.start <= row < piece.stop]
        if not mine and verify_any(shard).ok:
            continue
        found = repair(shard, rows=mine, source=source, progress=progress)
        if found.path != shard:
            those = [found.path if each == shard else each for each in shards]
            raise EmbedcalError(
                f"expected {shard} to come out as it was sealed, found other bytes, now in "
                f"{found.path}: link it with '{_joining(those, path.with_name('NEW.h5'))}'"
            )
        done |= {piece.start + row: reason for row, reason in found.rows.items()}
        repaired += [shard] if found.written else []
        text |= found.text
    with StoredFile(path, linked="ignore") as stored:
        sealed = stored.head.sha256
    own = verify(path)
    relinked = own.sha256 != sealed
    if relinked:
        own = verify(join_shards(shards, path, virtual=True).path)
    if not own.ok:
        raise EmbedcalError(own.reason)
    with open_cache(path) as cache:
        return replace(
            _untouched(cache),
            written=relinked or bool(repaired),
            rows=done,
            exact=own.sha256 == sealed,
            text=text,
            shards=tuple(repaired),
        )


def _joining(shards: Sequence[Path], out: Path) -> str:
    return f"embedcal merge {shlex.join(map(str, shards))} -o {shlex.quote(str(out))} --virtual"


def _opened(copy: WorkCopy, path: Path) -> FeatureCache:
    """The copy as a cache under its source's name, its labels as they were sealed."""
    try:
        cache = open_any(copy.work)
    except EmbedcalError:
        raise _beyond(path, copy.file) from None
    cache.meta = replace(cache.meta, path=path)
    try:
        head = copy.file.head
        sealed = (cache.meta.identity, cache.meta.fingerprint) == (head.identity, head.fingerprint)
        if not (sealed and follows(cache)):
            raise _beyond(path, copy.file)
    except BaseException:
        cache.close()
        raise
    return cache


def _beyond(path: Path, stored: StoredFile) -> EmbedcalError:
    again = "make the cache again"
    if f"{SHARD}part" in stored.arrays:
        part = "/".join(map(str, stored.read(f"{SHARD}part").tolist()))
        again = f"make it again with 'embedcal cache ... --shard {part} --out {path}'"
    return EmbedcalError(
        f"expected damage in the features of {path} only, found it in labels, ids or facts, which "
        f"no encoder can give again: restore the file or {again}"
    )


def _wanted(
    cache: FeatureCache, failing: Mapping[int, str], asked: Sequence[int]
) -> dict[int, str]:
    _check(asked, len(cache))
    known = _known(cache)
    again = [row for row in np.flatnonzero(cache.samples.status != OK).tolist() if known[row]]
    wanted = {**dict.fromkeys(again, READABLE), **dict.fromkeys(asked, ASKED), **failing}
    return dict(sorted(wanted.items()))


def _check(asked: Sequence[int], n: int) -> None:
    for row in asked:
        if not 0 <= row < n:
            raise EmbedcalError(
                f"expected rows between 0 and {n - 1}, found {row}: name rows of this cache"
            )


def _known(cache: FeatureCache) -> list[bool]:
    """Of each row whether its image's bytes could be read when it was cached."""
    return [bool(row.any()) for row in cache.meta.ingredients.rows]


def _renew(
    copy: WorkCopy,
    cache: FeatureCache,
    encoder: Encoder,
    wanted: Mapping[int, str],
    source: Source,
    progress: Progress | None,
) -> dict[int, str]:
    """Encode rows again, batch by batch, and write them; those that have changed."""
    pictures = _pictures(cache, wanted, source.root)
    size, n = cache.meta.batch_size or BATCH, len(cache)
    done: dict[int, str] = {}
    for start in sorted({row - row % size for row in wanted}):
        mine = [row for row in wanted if start <= row < start + size]
        # The whole batch, since a batch of another size or other neighbours moves the last bits.
        batch = np.arange(start, min(start + size, n))
        encoded = None if pictures is None else encode_rows(encoder, pictures, batch)
        absent = () if encoded is None else np.flatnonzero(encoded.absent) + start
        mine = [row for row in mine if wanted[row] != READABLE or row not in absent]
        arrays = _arrays(copy, cache, mine, start, encoded) if mine else {}
        changed = [
            i for i, row in enumerate(mine) if wanted[row] != READABLE or _readable(arrays, i)
        ]
        if changed:
            copy.write_rows(
                [mine[i] for i in changed], {p: array[changed] for p, array in arrays.items()}
            )
        done |= {mine[i]: wanted[mine[i]] for i in changed}
        if progress is not None:
            progress(len([row for row in wanted if row < start + size]), len(wanted))
    return done


def _pictures(
    cache: FeatureCache, wanted: Mapping[int, str], root: str | Path | None
) -> Pictures | None:
    """Where the images lie. That one which was never decoded is gone now is no hindrance."""
    known = _known(cache)
    rows = [row for row in wanted if known[row]]
    needed = [row for row in rows if wanted[row] != READABLE]
    if needed:
        return find(cache, needed[0], root)
    for row in rows:
        with suppress(EmbedcalError):
            return find(cache, row, root)
    return None


def _readable(arrays: Mapping[str, npt.NDArray[Any]], i: int) -> bool:
    return int(arrays["/samples/status"][i]) == OK


def _arrays(
    copy: WorkCopy, cache: FeatureCache, rows: Sequence[int], start: int, encoded: Encoded | None
) -> dict[str, npt.NDArray[Any]]:
    """The per-row arrays of some rows of a batch, as they are stored."""
    stored, samples = copy.file.arrays, cache.samples
    known = _known(cache)
    reasons = []
    for row in rows:
        reason = encoded.reasons[row - start] if encoded is not None else NO_BYTES
        if not known[row]:
            reason = NO_BYTES
        elif encoded is not None and encoded.absent[row - start]:
            raise EmbedcalError(reason)
        reasons.append(reason)
    status = [UNREADABLE if reason else OK for reason in reasons]
    arrays: dict[str, npt.NDArray[Any]] = {
        "/samples/status": np.array(status, "|u1"),
        "/samples/reason": np.array(
            [cut_reason(reason) for reason in reasons], stored["/samples/reason"].dtype
        ),
    }
    places = np.array(rows) - start
    for level in cache.meta.levels:
        kept = stored[f"/images/{level}"]
        features = np.zeros((len(rows), *kept.shape[1:]), np.float32)
        if encoded is not None:
            features = np.array(encoded.features[_level(level)][places])
            features[np.array(status) != OK] = 0
        with np.errstate(over="ignore"):
            array = features.astype(kept.dtype)
        bad = np.flatnonzero(~np.isfinite(array).reshape(len(array), -1).all(axis=1))
        if len(bad):
            names = ", ".join(repr(samples.ids[rows[i]]) for i in bad[:5])
            raise EmbedcalError(
                f"expected finite features, found NaN or infinity at level {level} for {names} "
                "again: the encoder gives them; cache in fp32"
            )
        arrays[f"/images/{level}"] = array
    return arrays


def _level(name: str) -> Level:
    assert name in ("tokens", "pooled", "embedding")
    return name  # type: ignore[return-value]


def _renew_text(copy: WorkCopy, cache: FeatureCache, encoder: Encoder) -> bool:
    """Text and projection as the encoder gives them; whether any of it was otherwise."""
    made = {
        **text_arrays(encoder, cache.meta.ingredients, lambda done, total: None),
        **projection_arrays(encoder.projection()),
    }
    changed = False
    for path, array in made.items():
        stored = copy.file.arrays.get(path)
        if stored is None:  # in a shard that is not the first
            continue
        if (array.dtype, array.shape) != (stored.dtype, stored.shape):
            raise _beyond(cache.meta.path, copy.file)
        if array.tobytes() != copy.file.read(path).tobytes():
            copy.write_whole(path, array)
            changed = True
    return changed


def _untouched(cache: FeatureCache) -> Repair:
    path = cache.meta.path
    return Repair(
        source=path,
        path=path,
        written=False,
        rows={},
        exact=True,
        text=False,
        unreadable=_unreadable(cache),
    )


def _unreadable(cache: FeatureCache) -> tuple[tuple[str, str, str], ...]:
    samples = cache.samples
    return tuple(
        (samples.ids[row], samples.paths[row], samples.reasons[row])
        for row in np.flatnonzero(samples.status != OK).tolist()
    )
