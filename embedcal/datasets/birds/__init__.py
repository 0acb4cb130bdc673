"""The embedded world: 64-pixel scenes in the exact structure of Waterbirds, drawn on the spot.

`render` writes a world as a folder. It needs NumPy and Pillow, which are imported when it is
called; nothing here imports torch.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

__all__ = ["ROWS", "render"]

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
