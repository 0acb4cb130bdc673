"""Exported trunks, kept below embedcal's home, so that a second build does not export again.

A program is a folder named by all that decides what is in it. It gets that name when it is whole,
with the SHA-256 of its files; one whose bytes have changed is made anew. Any may be deleted.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from embedcal import __version__
from embedcal.datasets.places import data_dir

if TYPE_CHECKING:
    from torch import nn

FOLDER = "programs"  # below the home
FILE = "trunk.onnx"
SUMS = "sha256.json"
MADE_BY = ("torch", "open_clip_torch", "onnx", "onnxscript")  # another version may write another

Export = Callable[["nn.Module", tuple[int, int], Path], None]


@contextmanager
def program(trunk: nn.Module, size: tuple[int, int], export: Export) -> Iterator[Path]:
    """The ONNX file of a trunk for pictures of one (h, w); inside, nobody else changes it.

    ``export`` writes it, and files beside it, where none is kept. Where none can be kept, for
    want of room or rights, it lies in a folder that is gone afterwards.
    """
    with ExitStack() as stack:
        try:
            folder = _kept(trunk, size, export, stack)
        except (OSError, NotImplementedError):  # the latter from a file system without locks
            folder = Path(stack.enter_context(TemporaryDirectory(ignore_cleanup_errors=True)))
            export(trunk, size, folder / FILE)
        yield folder / FILE


def _kept(trunk: nn.Module, size: tuple[int, int], export: Export, stack: ExitStack) -> Path:
    from filelock import FileLock

    home = data_dir() / FOLDER
    home.mkdir(parents=True, exist_ok=True)
    folder = home / _name(trunk, size)
    stack.enter_context(FileLock(home / f".{folder.name}.lock"))
    if _whole(folder):
        return folder
    fresh = home / f".{folder.name}.part"
    for stale in (fresh, folder):  # of a process that was killed; damaged
        shutil.rmtree(stale, ignore_errors=True)
    try:
        fresh.mkdir()
        export(trunk, size, fresh / FILE)
        (fresh / SUMS).write_text(json.dumps(_sums(fresh)), encoding="utf-8")
        return fresh.rename(folder)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def _whole(folder: Path) -> bool:
    try:
        return bool(json.loads((folder / SUMS).read_text(encoding="utf-8")) == _sums(folder))
    except (OSError, ValueError):  # none there, or its list is damaged too
        return False


def _sums(folder: Path) -> dict[str, str]:
    found = {}
    for path in sorted(folder.iterdir()):
        if path.name != SUMS:
            with path.open("rb") as file:
                found[path.name] = hashlib.file_digest(file, "sha256").hexdigest()
    return found


def _name(trunk: nn.Module, size: tuple[int, int]) -> str:
    """Digest of weights, layers, picture size and what would write the program."""
    from embedcal.encoders.digest import state_sha256

    tensors = state_sha256({**dict(trunk.named_buffers()), **trunk.state_dict()})
    made_by = [__version__, *(f"{name} {version(name)}" for name in MADE_BY)]
    whole = json.dumps([tensors, repr(trunk), size, made_by])
    return hashlib.sha256(whole.encode()).hexdigest()[:32]
