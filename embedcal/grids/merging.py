"""Grids from several machines as one folder: every run once, nothing done again."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from embedcal.grids.results import Results, ask, load
from embedcal.runs import append, claim
from embedcal.types import EmbedcalError


@dataclass(frozen=True, kw_only=True)
class Merged:
    """``copied`` runs are new in ``folder``, ``there`` were in it, ``failed`` have no result.

    ``lost`` are lines whose folder is gone: without predictions nothing can be compared.
    """

    folder: Path
    copied: int
    there: int
    failed: int
    lost: int


def merge(folders: Sequence[str | Path], out: str | Path) -> Merged:
    """Copy the runs of several folders into one, by hard links where the file system has them.

    Equal ids mean equal results, so a run that ``out`` has already is passed over; one that failed
    there and was done elsewhere is taken. ``out`` may hold runs before, and may be in use.
    Raises EmbedcalError where a folder has no results.

    Example:
        >>> import embedcal
        >>> with embedcal.open("birds.h5") as cache:
        ...     for seed in (0, 1):
        ...         run = embedcal.fit("erm", cache, seed=seed, epochs=2, out=f"runs{seed}")
        >>> embedcal.merge(["runs0", "runs1"], "both").copied
        2
    """
    out = Path(out).expanduser()
    sources = [load(folder) for folder in folders]
    if any(source.folder.resolve() == out.resolve() for source in sources):
        raise EmbedcalError(
            f"expected folders to merge into {out}, found it among them: name only the others"
        )
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise EmbedcalError(
            f"expected to write into {out}, found: {error.strerror}: choose another folder with "
            "--out"
        ) from None
    here = Results(out)
    copied = there = lost = 0
    for source in sources:
        ask(out, source.asked)
        here.refresh()
        for name, record in source.records.items():
            known = here.records.get(name)
            if known is not None and known["status"] == "done":
                there += 1
            elif record["status"] != "done":
                if known is None:
                    append(out, record)
            elif not (source.folder / name / "run.json").is_file():
                lost += 1
            else:
                with claim(out / name, wait=True):
                    _copy(source.folder / name, out / name)
                    append(out, record)
                copied += 1
    here.refresh()
    failed = sum(record["status"] != "done" for record in here.records.values())
    return Merged(folder=out, copied=copied, there=there, failed=failed, lost=lost)


def _copy(source: Path, to: Path) -> None:
    """A run's folder, whole or not at all."""
    part = Path(tempfile.mkdtemp(dir=to.parent, prefix=f".{to.name}-"))
    try:
        shutil.copytree(source, part, copy_function=_link, dirs_exist_ok=True)
        shutil.rmtree(to, ignore_errors=True)
        part.replace(to)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _link(source: str, to: str) -> None:
    try:
        os.link(source, to)
    except OSError:  # another file system, or one without hard links
        shutil.copy2(source, to)
