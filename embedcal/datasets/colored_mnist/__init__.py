"""Colored MNIST from the standard files of MNIST, in two published forms.

Nothing here imports torch; NumPy is imported when `make` is called.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

__all__ = ["make"]


def make(
    home: Path,
    *,
    root: Path | None,
    form: str,
    rows: int | None = None,
    seed: int | None = None,
    workers: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> Path:
    """The folder of a Colored MNIST below ``home``, made where it is not there yet.

    ``root`` is where MNIST's files are, or a folder that was made earlier, which is returned.
    ``form`` is ``5x5`` or ``2x2`` (see ``forms``). ``rows`` keeps a random part of every split;
    ``seed`` is the published code's by default. The bytes depend on MNIST, form, rows and seed
    alone; one process is quick enough, so that ``workers`` changes nothing.
    """
    from embedcal.datasets.colored_mnist.folder import write
    from embedcal.datasets.colored_mnist.mnist import read_mnist
    from embedcal.datasets.made import MARK, checked
    from embedcal.types import EmbedcalError

    checked(workers, what="workers", default=1, low=1, high=1024)
    if root is None:
        raise EmbedcalError(
            f"expected a root with MNIST's files for {home.name}, found none: name the folder of "
            "train-images-idx3-ubyte.gz and the three others with --root"
        )
    base = root.expanduser().absolute()
    if rows is None and seed is None and (base / MARK).is_file():
        return base
    return write(home, read_mnist(base), form=form, rows=rows, seed=seed, progress=progress)
