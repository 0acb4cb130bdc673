"""Ways to do harm: flipped bits, killed children, folders that cannot be written, new seals."""

from __future__ import annotations

import multiprocessing
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from multiprocessing.context import ForkProcess
from pathlib import Path
from typing import Any

import numpy as np
from encoders_for_tests import NumpyEncoder, make_manifest

from embedcal.cache import BuildOptions, BuildReport, build_cache
from embedcal.cache.checksums import digest
from embedcal.cache.format import USER_BLOCK, parse_head

BATCH = 8
PLUGIN = f"{Path(__file__).parents[1] / 'cache' / 'encoders_for_tests.py'}:NumpyEncoder"
FORK = multiprocessing.get_context("fork")  # nothing is imported again: children are light


class Stop(Exception):
    """Ends a build as Ctrl-C would."""


class StoppingEncoder(NumpyEncoder):
    """Encodes some batches and stops, after doing ``harm``."""

    def __init__(self, batches: int, harm: Callable[[], object] | None = None) -> None:
        super().__init__()
        self.left, self.harm = batches, harm

    def images(self, pixels: Any, levels: Any) -> Any:
        if self.left == 0:
            if self.harm is None:
                raise Stop
            self.harm()
        self.left -= 1
        return super().images(pixels, levels)


class CalmEncoder(NumpyEncoder):
    """Features that do not depend on the neighbours in a batch, as real ones hardly do."""

    def images(self, pixels: Any, levels: Any) -> Any:
        found = [super(CalmEncoder, self).images(one[None], levels) for one in pixels]
        return {level: np.concatenate([each[level] for each in found]) for level in levels}


CALM = f"{__file__}:CalmEncoder"


def images_below(root: Path) -> list[str]:
    return sorted(p.relative_to(root).as_posix() for p in root.rglob("*.png"))


def build(root: Path, out: Path | None, encoder: Any = None, **changes: Any) -> BuildReport:
    """One request for a cache of all images below a root."""
    manifest = make_manifest(root, images_below(root), **changes)
    options = BuildOptions(out=out, tokens=True, batch_size=BATCH, workers=2)
    return build_cache(manifest, encoder or NumpyEncoder(), options=options)


def flip(path: Path, byte: int, bit: int) -> None:
    with path.open("r+b") as file:
        file.seek(byte)
        old = file.read(1)[0]
        file.seek(byte)
        file.write(bytes([old ^ (1 << bit)]))


def seal(path: Path) -> None:
    """A user block that fits a changed file: malice can, so nothing may rest on it."""
    head = parse_head(path.read_bytes()[:USER_BLOCK], "test")
    length = path.stat().st_size - USER_BLOCK
    with path.open("r+b") as file:
        sealed = digest(file.fileno(), length, [])
        file.write(replace(head, length=length, sha256=sealed).render())


def child(target: Callable[..., object], *args: object) -> ForkProcess:
    """A started copy of this process that runs one function and nothing else."""
    process = FORK.Process(target=target, args=args, daemon=True)
    process.start()
    return process


@contextmanager
def powerless() -> Iterator[Path]:
    """A folder, and in it no power over files of others: root may write anywhere."""
    folder = Path(tempfile.mkdtemp(prefix="embedcal-fire-"))
    folder.chmod(0o755)
    root = os.geteuid() == 0
    try:
        if root:
            os.chown(folder, 65534, 65534)
            os.seteuid(65534)
        yield folder
    finally:
        if root:
            os.seteuid(0)
        for path in (folder, *folder.rglob("*")):
            if path.is_dir() and not path.is_symlink():
                path.chmod(0o755)
        import shutil

        shutil.rmtree(folder)
