"""Coloured digits: real handwriting that comes with scikit-learn, five classes by five colours.

In the manner of Colored MNIST with 25 groups, small and without a download. Nothing here imports
torch; NumPy, Pillow and scikit-learn are imported when `make` is called.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

__all__ = ["ROWS", "make"]

ROWS = 1797  # images in scikit-learn's load_digits


def make(
    home: Path,
    *,
    root: Path | None = None,
    form: str = "",
    rows: int | None = None,
    seed: int | None = None,
    workers: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> Path:
    """The folder of the digits in ``root``, or below ``home``, made where it is not there yet.

    ``rows`` images (all 1,797 by default) with the draw of ``seed`` (0). The bytes depend on these
    two alone; one process is quick enough, so that ``workers`` changes nothing.
    """
    from embedcal.datasets.digits.folder import write
    from embedcal.datasets.made import MARK, SEEDS, checked

    del form
    checked(workers, what="workers", default=1, low=1, high=1024)
    wanted = checked(rows, what="rows", default=ROWS, low=100, high=ROWS)
    draw = checked(seed, what="seed", default=0, low=0, high=SEEDS - 1)
    if root is None:
        folder = home / f"rows-{wanted}-seed-{draw}"
    else:
        folder = root.expanduser().absolute()
        if rows is None and seed is None and (folder / MARK).is_file():
            return folder  # digits of any size, made earlier
    return write(folder, rows=wanted, seed=draw, progress=progress)
