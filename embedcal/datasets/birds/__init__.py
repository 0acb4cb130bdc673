"""The embedded world: 64-pixel scenes in the exact structure of Waterbirds, drawn on the spot.

`render` writes a world as a folder. It needs NumPy and Pillow, which are imported when it is
called; nothing here imports torch.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

__all__ = ["ROWS", "make", "render"]

# Half of Waterbirds: at a quarter the rarest training group would have 14 images.
ROWS = 5894


def render(
    folder: Path,
    *,
    rows: int = ROWS,
    seed: int = 0,
    workers: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> Path:
    """Render a world of `rows` scenes into `folder`; see `embedcal.datasets.birds.folder`."""
    from embedcal.datasets.birds.folder import render as render_folder

    return render_folder(folder, rows=rows, seed=seed, workers=workers, progress=progress)


def make(
    home: Path,
    *,
    root: Path | None,
    form: str = "",
    rows: int | None = None,
    seed: int | None = None,
    workers: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> Path:
    """The folder of a world in `root`, or below `home`, drawn where it is not there yet."""
    del form
    if root is None:
        folder = home / f"rows-{ROWS if rows is None else rows}-seed-{seed or 0}"
    else:
        folder = root.expanduser().absolute()
        if rows is None and seed is None and (folder / "metadata.csv").is_file():
            return folder  # a world of any size, drawn earlier
    return render(
        folder,
        rows=ROWS if rows is None else rows,
        seed=seed or 0,
        workers=workers,
        progress=progress,
    )
