"""Where embedcal keeps its own things on this machine, and which cache it used last."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

from embedcal.types import EmbedcalError

_MEMORY = "last-cache.json"


def data_dir() -> Path:
    """The folder for rendered worlds, caches and runs; it may not exist yet.

    ``EMBEDCAL_HOME`` where set and not blank, else the platform's folder for user data.
    """
    home = os.environ.get("EMBEDCAL_HOME", "").strip()
    if home:
        return Path(home).expanduser().absolute()
    import platformdirs

    return Path(platformdirs.user_data_dir("embedcal", appauthor=False))


def remember_last_cache(path: str | Path) -> None:
    """Remember ``path`` as the cache used last. The memory is replaced whole or not at all."""
    folder = data_dir()
    text = json.dumps({"cache": str(Path(path).expanduser().absolute())})
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=_MEMORY, suffix=".part", dir=folder)
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(text)
            Path(temporary).replace(folder / _MEMORY)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise EmbedcalError(
            f"expected to write into {folder}, found: {error.strerror}: "
            "set EMBEDCAL_HOME to a folder that can be written"
        ) from None


def last_cache() -> Path | None:
    """The cache used last, or None where none is remembered or it is no longer there."""
    try:
        stored = json.loads((data_dir() / _MEMORY).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    name = stored.get("cache") if isinstance(stored, dict) else None
    if not isinstance(name, str) or not name:
        return None
    path = Path(name)
    return path if path.is_file() else None
