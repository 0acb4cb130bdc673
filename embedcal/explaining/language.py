"""Which words a head's decision moved toward, and away from, compared to zero-shot.

The decision on an image of class c is its margin D = l_c - max of the other logits, above 0 where
the answer is right; the score of word j is s_j = <x / |x|, v_j>, with v_j the word's unit text
feature less the mean class prompt. The weight of word j for class c is the correlation

    a_cj = corr(D, s_j) over the images of class c,

by how many of its standard deviations the margin grows when the image shows one standard deviation
more of the word. For a margin that is linear in unit embeddings, D = <r, x / |x|> + b, as zero-shot
and a probe have it between two classes, this is r^T S v_j / sqrt(r^T S r  v_j^T S v_j) with S their
covariance in the class. For any other head on features that are normal in a class it is the mean
directional derivative of D along S v_j, scaled so (Stein's lemma: cov(D, s_j) = E[grad D]^T S v_j).
So it is TCAV's conceptual sensitivity (Kim et al. 2018, arXiv:1711.11279, eq. 1) with the text
feature for a concept vector, along the step that images take when they show more of the word.

Why not along v_j itself, as the cosine of grad D and v_j: a trained head has weights in
directions in which images hardly differ, and they shrink such a cosine whatever it goes by: on the
embedded birds it has a linear probe move away from `water` that goes by the water as much as
zero-shot does (a test holds both to that). And why within a class: over all images, whatever tells
the classes apart makes the words of both correlate.

It follows that scale and offset of the logits change nothing, so heads of any temperature compare;
that nothing has to be led back through a head, so heads on pooled vectors, on tokens (which share
no space with text), or on anything else are measured alike; and that a word has weight too where
the images that show it also show what the head goes by.

Letters in shapes: n images of one class, K words, d joint dimension.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from embedcal.cache import FeatureCache
from embedcal.explaining.explainer import checked_classes
from embedcal.explaining.readout import head_of
from embedcal.types import EmbedcalError, FloatArray, IntArray, Split

if TYPE_CHECKING:
    from embedcal.runs import Run

LEAST = 10  # images of a class: fewer have no correlation to speak of
MOST = 2000  # of a class so many are drawn
DRAWS = 1000
TAIL = 0.025
FLAT = 1e-12  # a variance below this share of the mean square is rounding


@dataclass(frozen=True, kw_only=True)
class Shift:
    """One word and one class: its weight in zero-shot's decision and in the head's.

    Of ``images`` of the class. ``interval`` is the 95 % bootstrap interval of the change over
    images; it does not tell what another training would have given.
    """

    word: str
    label: int
    zero_shot: float
    head: float
    interval: tuple[float, float]
    images: int

    @property
    def change(self) -> float:
        """Toward the word where positive, away from it where negative."""
        return self.head - self.zero_shot


@dataclass(frozen=True, kw_only=True)
class Language:
    """Every class asked for that has images enough, and every word, in their order."""

    shifts: tuple[Shift, ...]
    classes: tuple[str, ...]
    of: str
    split: Split

    def of_class(self, label: int) -> tuple[Shift, ...]:
        """The shifts of one class, largest change of either sign first."""
        own = [shift for shift in self.shifts if shift.label == label]
        return tuple(sorted(own, key=lambda shift: -abs(shift.change)))

    def at(self, word: str, label: int) -> Shift:
        """The shift of one word; EmbedcalError for one that is not there."""
        for shift in self.shifts:
            if (shift.word, shift.label) == (word, label):
                return shift
        raise EmbedcalError(
            f"expected a word and a class that were asked for, found '{word}' and {label}: ask "
            "for them too"
        )


def language(
    run: Run,
    cache: FeatureCache,
    words: Mapping[str, FloatArray],
    *,
    split: Split = "test",
    classes: Sequence[int] | None = None,
    device: str = "auto",
    seed: int = 0,
) -> Language:
    """How a run's head weighs words, compared to zero-shot over the same images.

    ``words`` are directions v_j (d,) by name: see ``embedcal.detecting.word_directions``.
    ``classes`` are all by default, and those with fewer than 10 images in the split are left out.
    ``seed`` decides the bootstrap, and which 2000 images of a larger class are taken.
    Raises EmbedcalError where the run, the cache or the split cannot be read so.
    """
    if cache.n_classes < 2 or not words:
        raise EmbedcalError(
            f"expected two classes and a word, or more, found {cache.n_classes} and {len(words)}: "
            "give words such as the places of the images, over a cache of two classes"
        )
    found = cache.split(split)
    asked = checked_classes(classes, cache)
    kept = [label for label in asked if (found.y == label).sum() >= LEAST]
    if not kept:
        raise EmbedcalError(
            f"expected {LEAST} images or more of a class in {split}, found fewer of each: name "
            "another split"
        )
    rng = np.random.default_rng(seed)
    towards = np.stack(list(words.values())).astype(np.float64)
    logits = [_logits(each, cache, split, device) for each in (None, run)]
    shifts: list[Shift] = []
    for label in kept:
        places = _drawn(np.flatnonzero(found.y == label), rng)
        x = found.x[places].astype(np.float64)
        scores = x / np.linalg.norm(x, axis=1, keepdims=True).clip(1e-30) @ towards.T
        before, after = (margins(each[places], label) for each in logits)
        shifts += _shifts(tuple(words), label, (before, after, scores), rng)
    return Language(shifts=tuple(shifts), classes=cache.meta.classes, of=run.id, split=split)


def margins(logits: FloatArray, label: int) -> FloatArray:
    """D (n,) of logits (n, C): the class's own less the largest of the others."""
    others = np.delete(logits, label, axis=1)
    found: FloatArray = logits[:, label].astype(np.float64) - others.max(1)
    return found


def correlations(margin: FloatArray, scores: FloatArray, shares: FloatArray) -> FloatArray:
    """corr(D, s_j) (b, K) of margins (n,) and scores (n, K) under b weightings (b, n) of images.

    Weights of a row add up to 1. 0 where either does not vary.
    """
    # Centred once before: the differences of squares below would lose a small spread otherwise.
    d, s = margin - margin.mean(), scores - scores.mean(0)
    d_mean, s_mean = shares @ d, shares @ s
    covariance = shares @ (d[:, None] * s) - d_mean[:, None] * s_mean
    d_square, s_square = shares @ d**2, shares @ s**2
    d_variance, s_variance = d_square - d_mean**2, s_square - s_mean**2
    flat = (d_variance <= FLAT * (margin**2).mean())[:, None] | (
        s_variance <= FLAT * (scores**2).mean(0)
    )
    spread = np.sqrt(d_variance.clip(0)[:, None] * s_variance.clip(0))
    found = np.divide(covariance, spread, out=np.zeros_like(covariance), where=~flat)
    clipped: FloatArray = found.clip(-1, 1)  # rounding
    return clipped


def _shifts(
    words: Sequence[str],
    label: int,
    measured: tuple[FloatArray, FloatArray, FloatArray],
    rng: np.random.Generator,
) -> Iterator[Shift]:
    """The shifts of one class from margins before and after (n,), and scores (n, K)."""
    before, after, scores = measured
    n = len(scores)
    once = np.full((1, n), 1 / n)
    zero_shot, head = (correlations(each, scores, once)[0] for each in (before, after))
    shares = rng.multinomial(n, once[0], DRAWS) / n
    change = correlations(after, scores, shares) - correlations(before, scores, shares)
    low, high = np.quantile(change, [TAIL, 1 - TAIL], axis=0)
    for j, word in enumerate(words):
        yield Shift(
            word=word,
            label=label,
            zero_shot=float(zero_shot[j]),
            head=float(head[j]),
            interval=(float(low[j]), float(high[j])),
            images=n,
        )


def _logits(run: Run | None, cache: FeatureCache, split: Split, device: str) -> FloatArray:
    """Logits (n, C) of a run's head, or of zero-shot's, on a split."""
    from embedcal.heads import predict, torch_device
    from embedcal.workbench import Workbench

    place, head = torch_device(device), head_of(run, cache)
    rows = Workbench(cache).features(split, head.level, place)
    found: FloatArray = predict(head.to(place), rows).cpu().numpy()
    return found


def _drawn(places: IntArray, rng: np.random.Generator) -> IntArray:
    if len(places) <= MOST:
        return places
    return np.sort(rng.choice(places, MOST, replace=False))
