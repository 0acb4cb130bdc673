"""Which digit gets which split and colour, before anything is drawn.

The colours of train agree with the class in nine of ten images, those of val and test in one of
five. At 90 % a rare training cell (a class in a colour that is not its own) has five or six of
the 1,078 images; at Colored MNIST's 99.5 % most would have none.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from embedcal.datasets.made import share_out
from embedcal.types import IntArray

CLASSES = 5  # pairs of digits, and colours
VAL, TEST = 0.15, 0.25
AGREEMENT = 0.9


@dataclass(frozen=True, kw_only=True)
class Row:
    """One picture: which image of load_digits, and what becomes of it.

    ``split`` is 0, 1, 2 for train, val, test; ``y`` is half the digit, rounded down.
    """

    image: int
    digit: int
    split: int
    color: int

    @property
    def y(self) -> int:
        return self.digit // 2


def group_counts(sizes: list[int]) -> list[list[list[int]]]:
    """Images by split, class and colour, of classes with ``sizes`` images; the same for any seed.

    Within a split and class, colours share what there is by largest remainders: in train the
    class's own colour has nine tenths, in val and test all have the same.
    """
    cells: list[list[list[int]]] = [[], [], []]
    for y, size in enumerate(sizes):
        val, test = round(VAL * size), round(TEST * size)
        for split, count in enumerate((size - val - test, val, test)):
            weights = [10] * CLASSES
            if split == 0:
                rare = round(1000 * (1 - AGREEMENT) / (CLASSES - 1))
                weights = [round(1000 * AGREEMENT) if a == y else rare for a in range(CLASSES)]
            shares = share_out(weights, count)
            # Whom a rest falls to turns with the class, so that no colour is the commoner one.
            cells[split].append(shares if split == 0 else shares[-y:] + shares[:-y])
    return cells


def plan(digits: IntArray, *, rows: int, seed: int) -> list[Row]:
    """The rows (at most as many as ``digits`` (n,)) in a drawn order; both digits of a class are
    dealt out alike."""
    sizes = np.bincount(digits // 2, minlength=CLASSES).tolist()
    flat = [count for split in group_counts(sizes) for cells in split for count in cells]
    counts = np.array(share_out(flat, rows)).reshape(3, CLASSES, CLASSES)
    draw = np.random.default_rng((seed, rows))
    planned = []
    for y in range(CLASSES):
        images = _interleaved(digits, y, draw)
        start = 0
        for split in range(3):
            for color in range(CLASSES):
                for image in images[start : start + counts[split, y, color]]:
                    digit = int(digits[image])
                    planned.append(Row(image=int(image), digit=digit, split=split, color=color))
                start += counts[split, y, color]
    return [planned[i] for i in draw.permutation(len(planned))]


def _interleaved(digits: IntArray, y: int, draw: np.random.Generator) -> IntArray:
    """The images of a class in a drawn order in which its two digits take turns."""
    images, place = [], []
    for digit in (2 * y, 2 * y + 1):
        found = draw.permutation(np.flatnonzero(digits == digit))
        images.append(found)
        place.append((np.arange(len(found)) + 0.5) / len(found))
    order = np.argsort(np.concatenate(place), kind="stable")
    return np.concatenate(images)[order]
