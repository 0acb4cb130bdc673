"""Paint a planned Colored MNIST and write it as a folder."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from embedcal.datasets.colored_mnist.forms import Form, Planned, form_named
from embedcal.datasets.colored_mnist.mnist import Mnist
from embedcal.datasets.made import SEEDS, Picture, checked, share_out, write_folder

# Raise it whenever the same (MNIST, form, rows, seed) gives other pictures.
REVISION = 1
FEWEST = 100


def write(
    home: Path,
    mnist: Mnist,
    *,
    form: str,
    rows: int | None = None,
    seed: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> Path:
    """Write a form of Colored MNIST into a folder below ``home`` that is named after what it is.

    ``metadata.csv`` has the columns ``id`` (MNIST's file and the place in it), ``filename``,
    ``y``, ``split``, ``digit``, ``color``; the pictures lie in ``digit/``.
    """
    chosen = form_named(form)
    draw = checked(seed, what="seed", default=chosen.seed, low=0, high=SEEDS - 1)
    planned = chosen.plan(mnist, draw)
    whole = len(planned)
    wanted = checked(rows, what="rows", default=whole, low=FEWEST, high=whole)
    if wanted < whole:
        planned = _some(planned, wanted, draw)
    digests = [part.digest for part in planned.parts]
    identity = {
        "made": "colored_mnist",
        "revision": REVISION,
        "form": form,
        "mnist": digests,
        "rows": wanted,
        "seed": draw,
    }
    names = "-".join(part.name for part in planned.parts)
    of = hashlib.sha256("".join(digests).encode()).hexdigest()[:8]
    return write_folder(
        home / f"{names}-{of}-rows-{wanted}-seed-{draw}",
        identity,
        _pictures(planned, chosen),
        count=wanted,
        notes=planned.notes,
        progress=progress,
    )


def _some(planned: Planned, rows: int, seed: int) -> Planned:
    """``rows`` drawn rows, each split keeping its share; labels and colours stay what they were."""
    draw = np.random.default_rng((seed, rows))
    splits = [np.flatnonzero(planned.split == split) for split in range(3)]
    shares = share_out([len(split) for split in splits], rows)
    kept = [
        np.sort(draw.choice(split, size=share, replace=False))
        for split, share in zip(splits, shares, strict=True)
    ]
    return planned.kept(np.concatenate(kept))


def _pictures(planned: Planned, form: Form) -> Iterator[Picture]:
    columns = (planned.part, planned.image, planned.split, planned.y, planned.color)
    for which, image, split, y, color in zip(*(c.tolist() for c in columns), strict=True):
        part = planned.parts[which]
        digit = int(part.digits[image])
        name = f"{part.name}-{image:05d}"
        cells = {
            "id": name,
            "filename": f"{digit}/{name}.png",
            "y": y,
            "split": split,
            "digit": digit,
            "color": color,
        }
        yield cells, form.paint(part.images[image], color)
