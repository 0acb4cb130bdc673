"""Which images show an attribute: from features and words alone, and how far to trust it.

The score of attribute j on an image is how much more the image is like it than like the classes,

    s_j = <x, w_j> - mean_c <x, w_c>,

with x the image's unit embedding, w_j the unit text feature of the attribute over several
templates, and w_c the cache's own class prompts. Contrast takes out what every prompt answers to
(that it is a photo, of such a thing). Where "present" begins is found without labels, in each class
by itself: see ``thresholds``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from embedcal.cache import FeatureCache
from embedcal.datasets.printable import printable
from embedcal.detecting.effects import Presences
from embedcal.detecting.options import DetectOptions
from embedcal.detecting.thresholds import cuts
from embedcal.detecting.wording import meaningless, unit, wording
from embedcal.types import EmbedcalError, FloatArray, IntArray

SAMPLE, OF_CLASS = 5_000, 20  # images that thresholds are fitted to, at most, and of each class
MOST = 8  # names that a message lists
ALIKE = 1e-5  # squared distance of unit text features below which two names are one


@dataclass(frozen=True, kw_only=True)
class Presence:
    """``present`` (n, K): 1, 0, or -1 for unknown, of K attributes on n ``rows`` of a cache.

    ``margin`` (n, K), where there is one, says how far a score lies above its threshold, and
    ``separation`` (K,) how well the scores fall in two: the gap between the means of those with and
    without in standard deviations. ``left_out`` are names that the detector cannot tell apart.
    """

    names: tuple[str, ...]
    rows: IntArray
    present: Presences
    margin: FloatArray | None = None
    separation: FloatArray | None = None
    left_out: tuple[str, ...] = ()

    def of(self, name: str) -> Presences:
        """Presence (n,) of one attribute."""
        if name not in self.names:
            known = ", ".join(self.names[:MOST]) + ", ..." * (len(self.names) > MOST)
            raise EmbedcalError(
                f"expected an attribute that was looked for, found '{printable(name)}': ask for "
                f"{printable(known, longest=200)}, or put it into the vocabulary"
            )
        found: Presences = self.present[:, self.names.index(name)]
        return found


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """How well the presence of ``name`` agrees with a value of an attribute that the cache has.

    Over ``n`` images whose value is known: ``agreement`` is the share of equal answers;
    ``auroc`` that of the margin, None where there is none or all images have one value.
    """

    name: str
    attribute: str
    value: str
    n: int
    agreement: float
    auroc: float | None


def clip_presence(
    cache: FeatureCache, names: Sequence[str], rows: IntArray, options: DetectOptions
) -> Presence:
    """Presence of names on encoded rows of a cache, by its own features and text tower.

    Thresholds are fitted on train and val, never on test. They are set in each class by itself,
    so the class labels of ``rows`` are read. Names that the encoder cannot tell are left out: see
    ``directions``.
    """
    told, towards = directions(cache, names, options)
    y = cache.samples.y
    fitted = calibration_rows(cache)
    x = cache.read("embedding")
    found = cuts(_scores(x, fitted, towards), y[fitted], cache.n_classes)
    margin = found.margin(_scores(x, rows, towards), y[rows])
    return Presence(
        names=told,
        rows=rows,
        present=(margin > 0).astype(np.int8),
        margin=margin.astype(np.float32),
        separation=found.separation,
        left_out=tuple(name for name in names if name not in told),
    )


def directions(
    cache: FeatureCache, names: Sequence[str], options: DetectOptions
) -> tuple[tuple[str, ...], FloatArray]:
    """The names that can be told, K of them, and w_j - mean_c w_c of each, (K, d).

    Names whose text features coincide, with each other or with the mean of the classes, cannot be.
    """
    empty = meaningless(cache, names)
    names = [name for name in names if name not in empty]
    if not names:
        raise EmbedcalError(
            f"expected names that {cache.meta.backbone} has words for, found none: give others in "
            "a vocabulary"
        )
    features = wording(cache, names, options)
    bank = cache.text("class").embedding.astype(np.float64)
    null = unit(unit(bank).mean(1)).mean(0)
    told = distinct(features, unit(null))
    return (
        tuple(name for name, kept in zip(names, told, strict=True) if kept),
        features[told] - null,
    )


def calibration_rows(cache: FeatureCache) -> IntArray:
    """Rows of train and val to fit thresholds to: all, or 5000 (20 of each class) by chance."""
    rows = np.concatenate([cache.encoded_rows("train"), cache.encoded_rows("val")])
    if not len(rows):
        raise EmbedcalError(
            f"expected rows in train or val to find thresholds from, found none in "
            f"{cache.meta.path.name}: give the data set such a split"
        )
    most = max(SAMPLE, OF_CLASS * cache.n_classes)
    if len(rows) > most:
        rows = np.random.default_rng(0).choice(rows, most, replace=False)
    return np.sort(rows)


def _scores(x: FloatArray, rows: IntArray, towards: FloatArray) -> FloatArray:
    """Scores (n, K), float32: a block of rows at a time, since x may be pages of a file."""
    scores = np.empty((len(rows), len(towards)), np.float32)
    for start in range(0, len(rows), 4096):
        block = rows[start : start + 4096]
        scores[start : start + len(block)] = unit(x[block]) @ towards.T.astype(np.float32)
    return scores


def distinct(features: FloatArray, null: FloatArray) -> np.ndarray:
    """Which names (K,) have text features (K, d) of their own, other than every other and null."""
    together = np.concatenate([features, null[None]]).astype(np.float64)
    squared = 2 - 2 * together @ together.T
    np.fill_diagonal(squared, np.inf)
    found: np.ndarray = squared[:-1].min(1) > ALIKE
    return found


def agreements(cache: FeatureCache, found: Presence) -> tuple[Agreement, ...]:
    """For every name that is a value of one of the cache's attributes, how well both agree."""
    agreed = []
    for attribute, values in cache.meta.attributes:
        labels = cache.samples.attributes[attribute][found.rows]
        for code, value in enumerate(values):
            for j, name in enumerate(found.names):
                if plain(name) == plain(value):
                    margin = None if found.margin is None else found.margin[:, j]
                    present = found.present[:, j]
                    known = (labels >= 0) & (present >= 0)
                    truth = labels[known] == code
                    if known.any():
                        agreed.append(
                            Agreement(
                                name=name,
                                attribute=attribute,
                                value=value,
                                n=int(known.sum()),
                                agreement=float((present[known].astype(bool) == truth).mean()),
                                auroc=None if margin is None else auroc(margin[known], truth),
                            )
                        )
    return tuple(agreed)


def auroc(scores: FloatArray, truth: np.ndarray) -> float | None:
    """The chance that an image with the attribute scores above one without; ties count half."""
    from scipy.stats import rankdata

    with_it, n = int(truth.sum()), len(truth)
    if with_it in (0, n):
        return None
    above = rankdata(scores)[truth].sum() - with_it * (with_it + 1) / 2
    return float(above / (with_it * (n - with_it)))


def plain(name: str) -> str:
    """A name without case, underscores, and blanks around it."""
    return " ".join(name.replace("_", " ").casefold().split())
