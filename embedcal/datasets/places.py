"""Where embedcal keeps its own things, which cache it used last, and what cannot be written."""

from __future__ import annotations

import errno
import json
import logging
import os
import tempfile
from pathlib import Path

from embedcal.errors import EmbedcalError

log = logging.getLogger(__name__)


def data_dir() -> Path:
    """The folder for rendered worlds, caches and runs; it may not exist yet.

    ``EMBEDCAL_HOME`` where set and not blank, else the platform's folder for user data.
    """
    home = os.environ.get("EMBEDCAL_HOME", "").strip()
    if home:
        return Path(home).expanduser().absolute()
    import platformdirs

    return Path(platformdirs.user_data_dir("embedcal", appauthor=False))


def obstacle(path: Path) -> str:
    """Why no file can be written at ``path``, in the system's words; "" where one can.

    It is tried, by a nameless file in the folder, or in the first one above it that is there:
    permissions alone tell little of an administrator, and nothing of /proc. Nothing is left.
    """
    try:
        if path.is_dir():
            return os.strerror(errno.EISDIR)
        near = next(folder for folder in path.absolute().parents if folder.exists())
        with tempfile.TemporaryFile(dir=near):
            return ""
    except OSError as error:
        return error.strerror or str(error)


def check_place(path: Path, *, option: str = "-o") -> None:
    """Before any work: EmbedcalError where what ``option`` names could not be written after it."""
    barred = obstacle(path)
    if barred:
        raise EmbedcalError(
            f"expected to write {path}, found: {barred}: choose another place with {option}"
        )


def remember(what: str, path: str | Path) -> None:
    """Remember ``path`` as the ``cache``, ``grid`` or ``run`` used last; whole or not at all.

    Where nothing can be written it is said and not remembered: what was made is there all the same.
    """
    folder = data_dir()
    name = f"last-{what}.json"
    text = json.dumps({what: str(Path(path).expanduser().absolute())})
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=name, suffix=".part", dir=folder)
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(text)
            Path(temporary).replace(folder / name)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
    except OSError as error:
        log.warning(
            "the last %s is not remembered, since %s cannot be written (%s): set EMBEDCAL_HOME to "
            "a folder that can be", what, folder, error.strerror,
        )  # fmt: skip


def remembered(what: str) -> Path | None:
    """The ``cache``, ``grid`` or ``run`` used last, or None where there is none or it is gone."""
    try:
        stored = json.loads((data_dir() / f"last-{what}.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    name = stored.get(what) if isinstance(stored, dict) else None
    if not isinstance(name, str) or not name:
        return None
    path = Path(name)
    return path if path.exists() else None


def remembered_at(what: str) -> int:
    """When it was remembered, in ns since 1970; 0 where nothing is."""
    path = data_dir() / f"last-{what}.json"
    return path.stat().st_mtime_ns if path.is_file() else 0


def remember_last_cache(path: str | Path) -> None:
    """Remember ``path`` as the cache used last."""
    remember("cache", path)


def last_cache() -> Path | None:
    """The cache used last, or None where none is remembered or it is no longer there."""
    path = remembered("cache")
    return path if path is not None and path.is_file() else None
