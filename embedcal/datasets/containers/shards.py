"""Files that hold a data set between them, and the splits that their names tell."""

from __future__ import annotations

import math
import re
from bisect import bisect_right
from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path

from embedcal.datasets.labels import split_code
from embedcal.datasets.printable import printable
from embedcal.types import SPLITS, EmbedcalError

MOST = 1_000_000  # files that a pattern may stand for
_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"([0-9]+)\.\.([0-9]+)")


def is_pattern(path: Path) -> bool:
    """Whether a path has braces in which there is a choice."""
    return any(map(_is_choice, _BRACES.findall(str(path))))


def _is_choice(inner: str) -> bool:
    return "," in inner or _RANGE.fullmatch(inner) is not None


def expand(pattern: Path) -> tuple[Path, ...]:
    """The files of a pattern such as ``train-{000000..000099}.tar`` or ``{train,val}.tar``.

    As shells have it: the last braces run fastest, and a range is as wide as its wider end where
    one of them begins with 0; braces are not nested. Raises EmbedcalError for a range that
    runs backwards, for more than a million files, and where one of them is not there.
    """
    parts = _BRACES.split(str(pattern))
    inner = [_choices(part, pattern) for part in parts[1::2]]
    shown = printable(str(pattern), longest=300)
    if (count := math.prod(map(len, inner))) > MOST:
        raise EmbedcalError(
            f"expected at most {MOST:,} files, found {count:,} in the pattern {shown}: name fewer"
        )
    template = "{}".join(part.replace("{", "{{").replace("}", "}}") for part in parts[::2])
    files = tuple(Path(template.format(*chosen)) for chosen in product(*inner))
    missing = [file for file in files if not file.is_file()]
    if missing:
        raise EmbedcalError(
            f"expected the {count:,} files of {shown}, found {len(missing):,} of them missing, "
            f"first {printable(str(missing[0]), longest=300)}: get them, or narrow the braces"
        )
    return files


def base_of(path: Path) -> Path:
    """The folder that a source is, or lies in; of a pattern the one above its first braces."""
    if path.is_dir():
        return path
    if path.exists() or not is_pattern(path):
        return path.parent
    first = next(found.start() for found in _BRACES.finditer(str(path)) if _is_choice(found[1]))
    return Path(str(path)[:first] + "x").parent


def place_in(
    files: Sequence[Path], starts: Sequence[int], keys: Sequence[str] | None = None
) -> Callable[[int], str]:
    """How a message names a row of ``files``: its key, or else its number, in the file it is in.

    ``starts`` are the first rows of the files, ``keys`` one a row.
    """

    def place(row: int) -> str:
        at = bisect_right(starts, row) - 1
        inside = f"row {row - starts[at] + 1}" if keys is None else f"'{printable(keys[row])}'"
        return f"{inside} of {printable(files[at].name)}"

    return place


def _choices(inner: str, pattern: Path) -> Sequence[str]:
    found = _RANGE.fullmatch(inner)
    if found is None:
        return inner.split(",") if "," in inner else [f"{{{inner}}}"]
    first, last = found[1], found[2]
    padded = any(len(end) > 1 and end[0] == "0" for end in (first, last))
    width = max(len(first), len(last)) if padded else 0
    numbers = range(int(first), int(last) + 1)
    if not 0 < len(numbers) <= MOST:
        raise EmbedcalError(
            f"expected a range from low to high of at most {MOST:,} files, found "
            f"'{printable(inner)}' in {printable(str(pattern), longest=300)}: mend the braces"
        )
    return [f"{number:0{width}d}" for number in numbers]


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
