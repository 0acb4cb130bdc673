"""Which file a cache goes into, and what becomes of a damaged one that stands there."""

from __future__ import annotations

from itertools import count
from pathlib import Path
from typing import TypeGuard

from embedcal.cache.contents import manifest_fingerprint
from embedcal.cache.identity import Identity, explain_miss, file_name
from embedcal.cache.view import open_cache
from embedcal.datasets.manifest import Manifest
from embedcal.datasets.places import data_dir
from embedcal.errors import UnjudgedError
from embedcal.types import EmbedcalError


def cache_target(
    manifest: Manifest, encoder: str, identity: Identity, out: Path | None
) -> tuple[Path, tuple[str, ...]]:
    """The file to write, and a note where something there had to be moved aside.

    In a folder of caches each set of labels has a file of its own, so that runs keep the cache
    that they were made from. A file that was named is replaced, but only by its own encoding.
    """
    if is_named(out):
        if out.exists():
            with open_cache(out) as cache:
                differences = explain_miss(identity, cache.meta.ingredients)
            if differences:
                raise EmbedcalError(
                    f"expected the same encoding in {out}, found another "
                    f"({'; '.join(differences)}): remove it or name another file with --out"
                )
        return out, ()
    path = (out or data_dir() / "caches") / file_name(manifest.name, encoder, identity.digest)
    labels = manifest_fingerprint(manifest, identity)
    for candidate in (path, path.with_name(f"{path.stem}-{labels[:10]}.h5")):
        if not candidate.exists():
            return candidate, ()
        try:
            with open_cache(candidate) as cache:
                if cache.meta.fingerprint == labels:
                    return candidate, ()
        except UnjudgedError:
            raise
        except EmbedcalError as error:
            return candidate, (f"moved aside to {_aside(candidate)}: {error}",)
    raise AssertionError("two fingerprints that agree in ten digits")


def _aside(path: Path) -> Path:
    """Give a damaged file a name that nothing has yet."""
    names = (path.with_name(f"{path.name}.damaged{n or ''}") for n in count())
    free = next(name for name in names if not name.exists())
    try:
        path.replace(free)
    except OSError as error:
        raise EmbedcalError(
            f"expected to move the damaged {path} aside, found: {error.strerror}: make its folder "
            "writable, or name another place with --out"
        ) from None
    return free


def is_named(out: Path | None) -> TypeGuard[Path]:
    """Whether ``out`` is a file rather than a folder of caches."""
    return out is not None and not out.is_dir()
