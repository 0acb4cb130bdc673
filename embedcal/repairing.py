"""``embedcal repair``: what fails in a cache is encoded again, into a whole file beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from embedcal.cache import CacheWriter, FeatureCache, open_cache, verify
from embedcal.cache.contents import cut_reason, projection_arrays, text_arrays
from embedcal.cache.format import OK, UNREADABLE
from embedcal.cache.repairing import WorkCopy, failing_rows
from embedcal.cache.verification import follows
from embedcal.explaining.pictures import find
from embedcal.reencoding import BATCH, Encoded, Progress, Source, encode_rows
from embedcal.types import EmbedcalError, Level

if TYPE_CHECKING:
    from embedcal.encoders.base import Encoder

ASKED = "it was named"
READABLE = "its image can be read now"
NO_BYTES = "could not be read when it was cached"


@dataclass(frozen=True, kw_only=True)
class Repair:
    """What was done. ``path`` is the new file, or the cache itself where nothing failed.

    ``rows`` maps each row that was written anew to the reason. ``exact``: every byte is again as
    it was first written, which the seal proves. ``text``: text and projection were encoded anew
    too, since the rows alone did not account for the damage. ``unreadable`` lists (id, path,
    reason) of all rows without features.
    """

    source: Path
    path: Path
    rows: Mapping[int, str]
    exact: bool
    text: bool
    unreadable: tuple[tuple[str, str, str], ...]

    @property
    def written(self) -> bool:
        return self.path != self.source


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

    Raises EmbedcalError where nothing can mend the file: a damaged user block or structure, changed
    labels, a missing or changed image. The cache itself is never written to.

    Example:
        >>> import embedcal
        >>> found = embedcal.repair("birds.h5", rows=[3], out="again.h5")
        >>> embedcal.verify(found.path).ok
        True
    """
    path, source = Path(path), source or Source()
    found = verify(path)
    target = Path(out) if out is not None else path.with_name(f"{path.stem}-repaired{path.suffix}")
    if target.exists():
        raise EmbedcalError(
            f"expected no file at {target}, found one: remove it or name another with -o"
        )
    if found.ok:
        with open_cache(path) as cache:
            if not _wanted(cache, failing_rows(cache.stored), rows):
                return _report(path, path, cache, {}, exact=True, text=False)
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
                return _report(path, path, cache, {}, exact=True, text=False)
            exact, text = copy.seal(), False
            if not exact and not found.ok:
                text = _renew_text(copy, cache, encoder)
                exact = copy.seal()
        proof = verify(work)
        if not proof.ok:
            raise _beyond(path)
        with FeatureCache(work) as whole:
            report = _report(path, target, whole, done, exact=exact, text=text)
        copy.publish(target)
    return report


def _opened(copy: WorkCopy, path: Path) -> FeatureCache:
    """The copy as a cache under its source's name, its labels as they were sealed."""
    try:
        cache = FeatureCache(copy.work)
    except EmbedcalError:
        raise _beyond(path) from None
    cache.meta = replace(cache.meta, path=path)
    try:
        head = copy.file.head
        sealed = (cache.meta.identity, cache.meta.fingerprint) == (head.identity, head.fingerprint)
        if not (sealed and follows(cache)):
            raise _beyond(path)
    except BaseException:
        cache.close()
        raise
    return cache


def _beyond(path: Path) -> EmbedcalError:
    return EmbedcalError(
        f"expected damage in the features of {path} only, found it in labels, ids or facts, which "
        "no encoder can give again: restore the file or make the cache again"
    )


def _wanted(
    cache: FeatureCache, failing: Mapping[int, str], asked: Sequence[int]
) -> dict[int, str]:
    n = len(cache)
    for row in asked:
        if not 0 <= row < n:
            raise EmbedcalError(
                f"expected rows between 0 and {n - 1}, found {row}: name rows of this cache"
            )
    known = _known(cache)
    again = [row for row in np.flatnonzero(cache.samples.status != OK).tolist() if known[row]]
    wanted = {**dict.fromkeys(again, READABLE), **dict.fromkeys(asked, ASKED), **failing}
    return dict(sorted(wanted.items()))


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
    known = _known(cache)
    first = next((row for row in wanted if known[row]), None)
    pictures = None if first is None else find(cache, first, source.root)
    size, n = cache.meta.batch_size or BATCH, len(cache)
    done: dict[int, str] = {}
    for start in sorted({row - row % size for row in wanted}):
        mine = [row for row in wanted if start <= row < start + size]
        # The whole batch, since a batch of another size or other neighbours moves the last bits.
        batch = np.arange(start, min(start + size, n))
        encoded = None if pictures is None else encode_rows(encoder, pictures, batch)
        arrays = _arrays(copy, cache, mine, start, encoded)
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
    """Text and projection as the encoder gives them; whether there were any."""
    made = {
        **text_arrays(encoder, cache.meta.ingredients, lambda done, total: None),
        **projection_arrays(encoder.projection()),
    }
    there = [path for path in made if path in copy.file.arrays]
    for path in there:
        stored = copy.file.arrays[path]
        if (made[path].dtype, made[path].shape) != (stored.dtype, stored.shape):
            raise _beyond(cache.meta.path)
        copy.write_whole(path, made[path])
    return bool(there)


def _report(
    source: Path,
    path: Path,
    cache: FeatureCache,
    rows: Mapping[int, str],
    *,
    exact: bool,
    text: bool,
) -> Repair:
    samples = cache.samples
    return Repair(
        source=source,
        path=path,
        rows=rows,
        exact=exact,
        text=text,
        unreadable=tuple(
            (samples.ids[row], samples.paths[row], samples.reasons[row])
            for row in np.flatnonzero(samples.status != OK).tolist()
        ),
    )
