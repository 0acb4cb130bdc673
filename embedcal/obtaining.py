"""A named data set onto this disk, where a stable public address exists."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from embedcal.datasets.downloads.downloading import obtain as download
from embedcal.datasets.named import benchmark
from embedcal.datasets.places import data_dir
from embedcal.datasets.printable import printable
from embedcal.types import EmbedcalError

Progress = Callable[[str, int, int], None]  # stage, done, total


@dataclass(frozen=True, kw_only=True)
class Obtained:
    """What was fetched, or was there already: ``root`` is what ``--root`` takes."""

    name: str
    root: Path
    files: tuple[Path, ...]


def obtain(
    name: str, root: str | Path | None = None, *, progress: Progress | None = None
) -> Obtained:
    """Download and unpack the data set of that name below ``root``.

    By default into a folder of its own in the user's data directory. What is there and right is
    not fetched again, and what was begun is gone on with. Raises EmbedcalError with the way by
    hand where it cannot be downloaded.

    Example:
        >>> import embedcal
        >>> try:
        ...     embedcal.obtain("birds")
        ... except embedcal.EmbedcalError as error:
        ...     print(error)
        expected a data set to download, found birds, which is made on this machine: ...
    """
    facts = benchmark(name)
    if facts.made and not facts.downloads:
        raise EmbedcalError(
            f"expected a data set to download, found {name}, which is made on this machine: "
            f"'embedcal cache {name}' does it"
        )
    if not facts.downloads:
        steps = " ".join(f"({i}) {step}" for i, step in enumerate(facts.obtain, 1))
        raise EmbedcalError(
            f"expected a data set with a stable public address, found {printable(name)}, which "
            f"has none: {steps}"
        )
    folder = Path(root).expanduser().absolute() if root else data_dir() / "downloads" / name
    files = download(name, facts.downloads, folder, facts.obtain, progress)
    return Obtained(name=name, root=folder, files=tuple(files))
