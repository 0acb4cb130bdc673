"""Which scenes a world of a given size and seed holds, before anything is drawn."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from embedcal.datasets.birds.scene import Scene, draw_scene
from embedcal.datasets.birds.species import CLASSES, PLACE_WORDS, SPECIES, Species
from embedcal.types import EmbedcalError

# Waterbirds' own counts by split, and by group in the order (y, place) = 00, 01, 10, 11.
WATERBIRDS_COUNTS = ((3498, 184, 56, 1057), (467, 466, 133, 133), (2255, 2255, 642, 642))
WATERBIRDS_ROWS = sum(map(sum, WATERBIRDS_COUNTS))
# Below this the rarest group (56 training images) would have no image.
FEWEST_ROWS = -(-WATERBIRDS_ROWS // min(map(min, WATERBIRDS_COUNTS)))
SEEDS = 2**32

# First words of the seeds. NumPy drops trailing zeros of a seed sequence, so that (7, 3) and
# (7, 3, 0) are one seed: every seed here has the same length, and differs in its first word.
_PLAN, _SCENE = 1, 2


@dataclass(frozen=True, kw_only=True)
class Row:
    """One scene to be drawn. `split` is 0, 1, 2 for train, val, test; `place` 0 land, 1 water."""

    img_id: int
    split: int
    place: int
    species: Species
    word: str
    seed: int

    @property
    def y(self) -> int:
        """The class: 0 landbird, 1 waterbird."""
        return self.species.label

    @property
    def filename(self) -> str:
        """Where the picture lies in the folder, and its mask in `segmentations/`."""
        name = self.species.name
        return f"{CLASSES[self.y]}/{name}/{name}_{self.img_id:06d}.png"

    @property
    def place_filename(self) -> str:
        """A name in the manner of Waterbirds; as there, no such file is in the folder."""
        return f"/{self.word[0]}/{self.word}/{self.img_id:08d}.jpg"

    def draw(self) -> Scene:
        """Draw the scene: a function of the world's seed and of `img_id` alone, given the row."""
        rng = np.random.default_rng((_SCENE, self.seed, self.img_id))
        return draw_scene(self.species, self.word, rng)


def group_counts(rows: int) -> list[list[int]]:
    """Images by split and group for a world of `rows`: Waterbirds' shares, largest remainders."""
    shares = [count * rows for split in WATERBIRDS_COUNTS for count in split]
    counts = [share // WATERBIRDS_ROWS for share in shares]
    by_remainder = sorted(range(len(shares)), key=lambda i: -(shares[i] % WATERBIRDS_ROWS))
    for i in by_remainder[: rows - sum(counts)]:
        counts[i] += 1
    return [counts[0:4], counts[4:8], counts[8:12]]


def plan(rows: int, seed: int) -> list[Row]:
    """The rows of a world, shuffled; species and place words are uniform within their group.

    Raises:
        EmbedcalError: `rows` is too small for every group to have an image, or `seed` is not a
            32-bit number.
    """
    if isinstance(rows, bool) or not isinstance(rows, int) or rows < FEWEST_ROWS:
        raise EmbedcalError(
            f"expected rows to be an integer of at least {FEWEST_ROWS}, so that the rarest group "
            f"has an image, found {rows!r}: ask for more (Waterbirds has {WATERBIRDS_ROWS})"
        )
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < SEEDS:
        raise EmbedcalError(
            f"expected seed to be an integer from 0 to {SEEDS - 1}, found {seed!r}: take, say, 0"
        )
    rng = np.random.default_rng((_PLAN, seed, rows))
    cells = [
        (split, *divmod(group, 2))
        for split, counts in enumerate(group_counts(rows))
        for group, count in enumerate(counts)
        for _ in range(count)
    ]
    planned = []
    for img_id, cell in enumerate(rng.permutation(len(cells)), start=1):
        split, y, place = cells[cell]
        candidates = [species for species in SPECIES if species.label == y]
        words = PLACE_WORDS[place]
        planned.append(
            Row(
                img_id=img_id,
                split=split,
                place=place,
                species=candidates[rng.integers(len(candidates))],
                word=words[rng.integers(len(words))],
                seed=seed,
            )
        )
    return planned
