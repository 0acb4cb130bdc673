"""Whether every byte of a cache is what its writer wrote; hashed before HDF5 parses anything."""

from __future__ import annotations

import os
import shlex
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from embedcal.cache.checksums import CRC, digest, sound_rows
from embedcal.cache.format import USER_BLOCK, parse_head
from embedcal.cache.identity import fingerprint
from embedcal.cache.layout import StoredFile
from embedcal.cache.view import FeatureCache
from embedcal.types import EmbedcalError


@dataclass(frozen=True, kw_only=True)
class Verification:
    """``ok`` with the digest found, or what is wrong in one line.

    ``rows`` names the rows whose features fail their own checksum, where the damaged file can
    still be read well enough to tell.
    """

    path: Path
    ok: bool
    reason: str
    sha256: str = ""
    rows: tuple[int, ...] = ()


def verify(path: str | Path) -> Verification:
    """Check the user block, the length and the SHA-256 of everything behind it, then the contents.

    Never raises for a damaged file; an unreadable path is an ``EmbedcalError``.
    """
    path = Path(path)
    try:
        with path.open("rb", buffering=0) as file:
            try:
                head = parse_head(file.read(USER_BLOCK).ljust(USER_BLOCK, b"\0"), str(path))
            except EmbedcalError as error:
                return Verification(path=path, ok=False, reason=str(error))
            length = os.fstat(file.fileno()).st_size - USER_BLOCK
            if head.state != "complete" or length != head.length:
                found = f"{length} bytes" if head.state == "complete" else "an unfinished file"
                return Verification(
                    path=path,
                    ok=False,
                    reason=f"expected {head.length} bytes behind the user block, found {found}: "
                    "restore the file or make the cache again",
                )
            sealed = digest(file.fileno(), length, [])
    except OSError as error:
        raise EmbedcalError(
            f"expected a readable cache file, found {error.strerror} for {path}: check the path"
        ) from None
    if sealed != head.sha256:
        rows, remedy = _damage(path)
        where = f" (rows {', '.join(map(str, rows[:10]))})" if rows else ""
        return Verification(
            path=path,
            ok=False,
            reason=f"expected SHA-256 {head.sha256}, found {sealed} in {path}{where}: bytes have "
            f"changed; {remedy}",
            sha256=sealed,
            rows=rows,
        )
    return _verify_contents(path, sealed)


def _verify_contents(path: Path, sealed: str) -> Verification:
    """The bytes are the writer's own; what they say must agree with itself too."""
    try:
        with FeatureCache(path) as cache:
            if not follows(cache):
                raise EmbedcalError(
                    f"expected identity and fingerprint to follow from the contents, found others "
                    f"in {path}: this file was not written by embedcal; make the cache again"
                )
    except EmbedcalError as error:
        return Verification(path=path, ok=False, reason=str(error), sha256=sealed)
    return Verification(path=path, ok=True, reason="", sha256=sealed)


def follows(cache: FeatureCache) -> bool:
    """Whether identity and fingerprint, as noted, are those of the labels, prompts and digests."""
    meta, samples = cache.meta, cache.samples
    labels = fingerprint(
        meta.ingredients.digest,
        ids=samples.ids,
        y=samples.y,
        split=samples.split,
        classes=meta.classes,
        attributes={name: (values, samples.attributes[name]) for name, values in meta.attributes},
        box=samples.box,
    )
    head = cache.stored.head
    noted = {(meta.identity, meta.fingerprint), (head.identity, head.fingerprint)}
    return noted == {(meta.ingredients.digest, labels)}


def _damage(path: Path) -> tuple[tuple[int, ...], str]:
    """Which rows a damage has hit, as far as the file can be read, and what to do about it."""
    try:
        with StoredFile(path, linked="ignore") as file:
            rows: tuple[int, ...] = ()
            if not file.arrays[CRC].pieces:  # shards have seals of their own
                total = file.arrays[CRC].shape[0]
                rows = tuple(np.flatnonzero(~sound_rows(file, total)).tolist())
            return rows, f"run 'embedcal repair {shlex.quote(str(path))}', or restore the file"
    except EmbedcalError:
        return (), "restore the file or make the cache again"
