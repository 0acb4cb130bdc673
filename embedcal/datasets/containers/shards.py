"""Files that hold a data set between them, and the splits that their names tell."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from embedcal.datasets.labels import split_code
from embedcal.datasets.printable import printable
from embedcal.types import SPLITS, EmbedcalError


def shards_below(folder: Path, suffix: str) -> tuple[Path, ...]:
    """The files directly in ``folder`` with that suffix, by name, hidden ones left out."""
    try:
        found = [path for path in folder.iterdir() if path.suffix.lower() == suffix]
    except OSError:
        return ()
    return tuple(sorted(path for path in found if path.is_file() and path.name[0] != "."))


def split_in(name: str) -> str | None:
    """The split that a name such as ``birds-train-000012`` tells; None for none or for two."""
    words = re.findall(r"[^\W\d_]+", name)
    codes = {code for word in words if (code := split_code(word)) is not None}
    return SPLITS[codes.pop()] if len(codes) == 1 else None


def splits_by_name(files: Sequence[Path], *, base: Path) -> tuple[str, ...] | None:
    """The split of every file, by its name or else by its folder's below ``base``.

    None where no name tells one. Raises EmbedcalError where some do and some do not: rows would
    be lost in silence.
    """
    splits = []
    for file in files:
        folder = file.parent.name if file.parent != base else ""
        splits.append(split_in(file.stem) or split_in(folder))
    odd = [file for file, split in zip(files, splits, strict=True) if split is None]
    if len(odd) == len(files):
        return None
    if odd:
        raise EmbedcalError(
            f"expected every file of {printable(str(base), longest=300)} to name its split, or "
            f"none, found '{printable(str(odd[0].relative_to(base)))}' beside others that do: "
            "rename it, or move it elsewhere"
        )
    return tuple(split for split in splits if split is not None)
