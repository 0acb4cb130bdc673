"""Folders: where caches, runs and weights lie, what room is there, and whether locks hold."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

REMOTE = ("nfs", "cifs", "smb", "lustre", "gpfs", "ceph", "beegfs", "fuse.sshfs", "9p", "afs")
HUB = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_ENDPOINT", "HTTPS_PROXY", "https_proxy")


@dataclass(frozen=True, kw_only=True)
class Place:
    """A folder, which need not be there yet: then all else is said of the nearest one above it.

    ``writable``, ``locks`` (two writers are kept apart) and ``links`` (hard links) are None where
    nothing was tried, since embedcal does not write there.
    """

    what: str
    path: str
    exists: bool
    free: int | None
    filesystem: str
    writable: bool | None = None
    locks: bool | None = None
    links: bool | None = None
    note: str = ""

    @property
    def remote(self) -> bool:
        return self.filesystem.startswith(REMOTE)


def places() -> tuple[Place, ...]:
    """embedcal's own folders, then those of weights and of temporary files."""
    from embedcal.datasets.places import data_dir

    home = data_dir()
    named = {"caches": home / "caches", "runs": home / "runs", "data": home}
    found = [place(what, path, tried=what == "data") for what, path in named.items()]
    return (
        *found,
        place("weights", _hub(), tried=False),
        place("temporary", Path(tempfile.gettempdir()), tried=False),
    )


def hub() -> dict[str, str]:
    """What is set about the network of the Hugging Face hub, without passwords of a proxy."""
    return {name: _safe(os.environ[name]) for name in HUB if os.environ.get(name)}


def _safe(text: str) -> str:
    scheme, at, rest = text.rpartition("@")
    return f"{scheme.partition('//')[0]}//...@{rest}" if at else rest


def _hub(environment: Mapping[str, str] | None = None) -> Path:
    """Where open_clip's weights are kept: huggingface_hub's folder, found without importing it."""
    given = os.environ if environment is None else environment
    if given.get("HF_HUB_CACHE"):
        return Path(given["HF_HUB_CACHE"]).expanduser()
    cache = Path(given.get("XDG_CACHE_HOME") or "~/.cache") / "huggingface"
    return (Path(given.get("HF_HOME") or cache) / "hub").expanduser()


def place(what: str, path: Path, *, tried: bool) -> Place:
    """What is known of a folder; where ``tried``, a file is written, locked, linked and removed."""
    near = nearest(path)
    free = None
    with suppress(OSError):
        free = shutil.disk_usage(near).free
    writable = locks = links = None
    note = ""
    if tried:
        try:
            with scratch(near) as folder:
                writable = True
                locks, links = _locks(folder), _links(folder)
        except OSError as error:
            writable, note = False, error.strerror or str(error)
    return Place(
        what=what,
        path=str(path),
        exists=path.is_dir(),
        free=free,
        filesystem=filesystem(near),
        writable=writable,
        locks=locks,
        links=links,
        note=note,
    )


@contextmanager
def scratch(folder: Path) -> Iterator[Path]:
    """A folder inside, gone afterwards. OSError where none can be made."""
    with tempfile.TemporaryDirectory(dir=folder, prefix=".embedcal-doctor-") as name:
        yield Path(name)


def nearest(path: Path) -> Path:
    """The folder itself, or the first one above it that is there."""
    return next((each for each in (path, *path.parents) if each.is_dir()), Path())


def filesystem(path: Path, mounts: Path = Path("/proc/mounts")) -> str:
    """The type of the file system that a path lies on; empty where the system does not tell."""
    best, kind = -1, ""
    with suppress(OSError):
        whole = path.resolve()
        for line in mounts.read_text().splitlines():
            _, where, of = line.split()[:3]
            mount = Path(where.encode().decode("unicode_escape"))  # spaces are \040
            if (mount == whole or mount in whole.parents) and len(mount.parts) > best:
                best, kind = len(mount.parts), of
    return kind


def _locks(folder: Path) -> bool:
    """Whether a second lock on one file has to wait, as two writers of a cache rely on."""
    from filelock import FileLock, Timeout

    try:
        with FileLock(folder / "lock", timeout=2):
            try:
                with FileLock(folder / "lock", timeout=0):
                    return False
            except Timeout:
                return True
    except (OSError, NotImplementedError, Timeout):  # some network file systems have no locks
        return False


def _links(folder: Path) -> bool:
    (folder / "one").write_bytes(b"1")
    try:
        (folder / "two").hardlink_to(folder / "one")
    except OSError:
        return False
    return True
