"""The two published forms: who gets which split, class and colour, and how it is painted.

Over whole MNIST, and with the default seed, the random numbers are drawn in the order of the
official code, so that splits, labels and colours are those of the papers' runs to the row.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from embedcal.datasets.colored_mnist.mnist import Mnist, Part
from embedcal.datasets.made import Pixels
from embedcal.datasets.printable import printable
from embedcal.types import EmbedcalError, IntArray

# matplotlib's colour map hsv at 0, 1/5, ..., 4/5.
HSV = ((255, 0, 0), (208, 255, 0), (0, 255, 92), (0, 116, 255), (184, 0, 255))
BRIGHT = 120
OWN_COLOR = 0.995

LABEL_NOISE, COLOR_NOISE = 0.25, 0.2


@dataclass(frozen=True, kw_only=True)
class Planned:
    """Rows (n,) over one part after another: which image, and what becomes of it."""

    parts: tuple[Part, ...]
    part: IntArray  # which of ``parts``
    image: IntArray  # place in it
    split: IntArray  # 0, 1, 2: train, val, test
    y: IntArray
    color: IntArray
    notes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.image)

    def kept(self, rows: IntArray) -> Planned:
        """These rows only."""
        return Planned(
            parts=self.parts,
            part=self.part[rows],
            image=self.image[rows],
            split=self.split[rows],
            y=self.y[rows],
            color=self.color[rows],
            notes=self.notes,
        )


@dataclass(frozen=True, kw_only=True)
class Form:
    """How a form is planned, how an image (28, 28) of a colour is painted, its default seed."""

    plan: Callable[[Mnist, int], Planned]
    paint: Callable[[Pixels, int], Pixels]
    seed: int


def plan_5x5(mnist: Mnist, seed: int) -> Planned:
    """25 groups, after Zhang et al., 2022 (arXiv:2203.01517), and its official code.

    The class of a digit is half of it, rounded down. A fifth of MNIST's training images, drawn,
    is val; test is MNIST's. In train an image has its class's colour with probability 0.995, else
    one of the four others; in val and test any of the five. As in the official code, NumPy's
    legacy generator is seeded anew for the cut and for the colours of each split, which are drawn
    class by class in the order of the cut.

    Of t10k alone three fifths are train, a fifth is val and a fifth is test, drawn likewise.
    """
    if mnist.train is None:
        part = _only(mnist.t10k)
        order = _shuffled(len(part), seed)
        fifth = round(len(part) / 5)
        cuts = (order[2 * fifth :], order[:fifth], order[fifth : 2 * fifth])
        return _coloured_5x5((part, part, part), cuts, seed, (_from_t10k(part, cuts),))
    if mnist.t10k is None:
        raise EmbedcalError(
            "expected t10k-images-idx3-ubyte and t10k-labels-idx1-ubyte beside MNIST's training "
            "files, found neither: the test split of this form is made of them; put them there"
        )
    order = _shuffled(len(mnist.train), seed)
    fifth = round(len(mnist.train) / 5)
    cuts = (order[fifth:], order[:fifth], np.arange(len(mnist.t10k)))
    return _coloured_5x5((mnist.train, mnist.train, mnist.t10k), cuts, seed, ())


def plan_2x2(mnist: Mnist, seed: int) -> Planned:
    """4 groups, as in SubpopBench (Yang et al., 2023, arXiv:2302.12254), after Arjovsky et al.,
    2019 (arXiv:1907.02893).

    MNIST's training images only: the first 30,000 are train, the next 10,000 val, the last 20,000
    test. The class is whether the digit is 5 or more, flipped with probability 0.25; the colour is
    the class, flipped with probability 0.2, at the same rate in every split. As in the official
    code the generator is seeded anew for each split and draws all flips of the class first. So no
    rule that looks at digits alone is right on more than 75 % of images, and colour alone is right
    on 80 %.

    Of t10k alone the first half is train, the next sixth val and the last third test.
    """
    part = mnist.train or _only(mnist.t10k)
    n = len(part)
    ends = (0, round(n / 2), round(n * 2 / 3), n)
    cuts = tuple(np.arange(start, end) for start, end in pairwise(ends))
    y, color = [], []
    for rows in cuts:
        draw = np.random.default_rng(seed)
        label = (part.digits[rows] >= 5) ^ (draw.random(len(rows)) < LABEL_NOISE)
        y.append(label)
        color.append(label ^ (draw.random(len(rows)) < COLOR_NOISE))
    return Planned(
        parts=(part,),
        part=np.zeros(n, np.int64),
        image=np.concatenate(cuts),
        split=np.repeat(np.arange(3), [len(rows) for rows in cuts]),
        y=np.concatenate(y).astype(np.int64),
        color=np.concatenate(color).astype(np.int64),
        notes=() if mnist.train else (_from_t10k(part, cuts),),
    )


def paint_5x5(image: Pixels, color: int) -> Pixels:
    """Pixels of 120 and above in the colour, the others grey: (28, 28) -> (28, 28, 3)."""
    paint = np.array(HSV[color], np.uint8)
    return np.where(image[..., None] >= BRIGHT, paint, image[..., None])


def paint_2x2(image: Pixels, color: int) -> Pixels:
    """The image in the red channel (0) or in the green one (1): (28, 28) -> (28, 28, 3)."""
    painted = np.zeros((*image.shape, 3), np.uint8)
    painted[..., color] = image
    return painted


FORMS = {
    "5x5": Form(plan=plan_5x5, paint=paint_5x5, seed=42),
    "2x2": Form(plan=plan_2x2, paint=paint_2x2, seed=666),
}


def form_named(name: str) -> Form:
    try:
        return FORMS[name]
    except KeyError:
        raise EmbedcalError(
            f"expected the form of Colored MNIST to be one of {', '.join(FORMS)}, found "
            f"'{printable(name)}': mend the facts"
        ) from None


def _coloured_5x5(
    sources: tuple[Part, Part, Part],
    cuts: tuple[IntArray, IntArray, IntArray],
    seed: int,
    notes: tuple[str, ...],
) -> Planned:
    parts = tuple({part.name: part for part in sources}.values())
    classes = [part.digits[rows] // 2 for part, rows in zip(sources, cuts, strict=True)]
    colors = [_colors(y, seed, train=split == 0) for split, y in enumerate(classes)]
    which = [parts.index(part) for part in sources]
    sizes = [len(rows) for rows in cuts]
    return Planned(
        parts=parts,
        part=np.repeat(which, sizes),
        image=np.concatenate(cuts),
        split=np.repeat(np.arange(3), sizes),
        y=np.concatenate(classes),
        color=np.concatenate(colors),
        notes=notes,
    )


def _colors(y: IntArray, seed: int, *, train: bool) -> IntArray:
    """A colour for each of the classes (n,), drawn class by class as the official code does."""
    draw = np.random.RandomState(seed)  # legacy: the published colours were drawn so
    colors = np.zeros(len(y), np.int64)
    for label in range(len(HSV)):
        rows = np.flatnonzero(y == label)
        others = [color for color in range(len(HSV)) if color != label]
        own = draw.binomial(1, OWN_COLOR, size=len(rows))  # drawn in val and test too, and unused
        for row, is_own in zip(rows.tolist(), own.tolist(), strict=True):
            if not train:
                colors[row] = draw.randint(len(HSV))
            else:
                colors[row] = label if is_own else draw.choice(others)
    return colors


def _shuffled(n: int, seed: int) -> IntArray:
    order = np.arange(n)
    np.random.RandomState(seed).shuffle(order)  # legacy: the published cut was drawn so
    return order


def _only(part: Part | None) -> Part:
    assert part is not None, "reading MNIST gives one part at least"
    return part


def _from_t10k(part: Part, cuts: tuple[IntArray, ...]) -> str:
    sizes = "/".join(f"{len(rows):,}" for rows in cuts)
    return (
        f"made of the {len(part):,} images of MNIST's t10k files alone, cut into {sizes} rows of "
        "train/val/test: smaller than the published data set, and not comparable with its figures"
    )
