"""Groups of images on which a run fails, found without a vocabulary and named afterwards."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from embedcal.cache import FeatureCache
from embedcal.detecting.mixture import mixture
from embedcal.detecting.options import DetectOptions
from embedcal.detecting.outcomes import Outcomes, outcomes
from embedcal.detecting.presence import directions
from embedcal.detecting.vocabulary import candidates, vocabulary
from embedcal.detecting.wording import unit
from embedcal.runs import Run
from embedcal.types import EmbedcalError, FloatArray, IntArray, Split

COMPONENTS = 25  # as Eyuboglu et al. fit
EACH = 10  # images a component needs on average: a smaller split has fewer of them
NAMES = 5


@dataclass(frozen=True, kw_only=True)
class Slice:
    """Images, mostly of class ``label``, and what they share.

    ``rows`` (n,) are positions in the cache, those that belong most first. ``errors`` of them are
    wrong, most often by ``confused`` (None without errors); ``class_accuracy`` is that of all
    images of ``label`` in the split. ``names`` are the prompts that its mean lies towards, seen
    from the mean of its class, with cosines, nearest first; empty without a text tower.
    """

    rows: IntArray
    label: int
    errors: int
    accuracy: float
    class_accuracy: float
    confused: int | None
    names: tuple[tuple[str, float], ...]

    @property
    def excess(self) -> float:
        """Errors beyond those that its class's accuracy would give to as many images."""
        return self.errors - len(self.rows) * (1 - self.class_accuracy)


@dataclass(frozen=True, kw_only=True)
class Slices:
    """Slices of one split by their excess of errors, largest first; ``of`` names the run.

    A slice is found by its errors, so its accuracy is no estimate for other images.
    """

    slices: tuple[Slice, ...]
    classes: tuple[str, ...]
    split: Split
    of: str


def slices(
    cache: FeatureCache,
    run: Run | None = None,
    *,
    vocabulary: str | Path | Sequence[str] | None = None,
    split: Split = "val",
    components: int = COMPONENTS,
    seed: int = 0,
    options: DetectOptions | None = None,
) -> Slices:
    """Slices of a split by the answers of a run, or of zero-shot CLIP (see ``mixture``).

    Each image counts for the component that it belongs to most. Components are at most
    ``components``, and one for every ten images. The vocabulary only names them. Which images are
    in a slice does not depend on it. Equal seeds give equal slices.
    """
    options = options or DetectOptions()
    if components < 2:
        raise EmbedcalError(f"expected 2 components or more, found {components}: take {COMPONENTS}")
    answers = outcomes(cache, run, split, options.device)
    x = unit(cache.read("embedding")[answers.rows].astype(np.float64))
    k = min(components, max(2, len(x) // EACH))
    if len(x) < k:
        raise EmbedcalError(
            f"expected {k} images or more in {split}, found {len(x)}: take a larger split"
        )
    share = mixture(x, answers.y, softmax(answers.logits), k, seed).share
    named = _namer(cache, vocabulary, options)
    found = [_slice(answers, x, share, s, named) for s in range(k) if (share.argmax(1) == s).any()]
    return Slices(
        slices=tuple(sorted(found, key=lambda one: (-one.excess, one.rows[0]))),
        classes=cache.meta.classes,
        split=split,
        of=answers.by,
    )


def softmax(logits: FloatArray) -> FloatArray:
    """Probabilities (n, C), float64."""
    lifted = np.exp(logits.astype(np.float64) - logits.max(1, keepdims=True))
    found: FloatArray = lifted / lifted.sum(1, keepdims=True)
    return found


@dataclass(frozen=True)
class _Namer:
    names: tuple[str, ...]
    features: FloatArray  # (K, d), unit

    def __call__(self, direction: FloatArray) -> tuple[tuple[str, float], ...]:
        """The nearest names of a direction (d,)."""
        scores = self.features @ unit(direction)
        best = np.argsort(-scores, kind="stable")[:NAMES]
        return tuple((self.names[j], float(scores[j])) for j in best)


def _namer(
    cache: FeatureCache, source: str | Path | Sequence[str] | None, options: DetectOptions
) -> _Namer:
    """Names as directions from the class prompts, since slices are seen from their classes."""
    if not cache.banks:
        return _Namer((), np.zeros((0, *cache.meta.shapes["embedding"])))
    names, towards = directions(cache, candidates(vocabulary(source), cache), options)
    return _Namer(names, unit(towards))


def _slice(answers: Outcomes, x: FloatArray, share: FloatArray, s: int, named: _Namer) -> Slice:
    inside = np.flatnonzero(share.argmax(1) == s)
    inside = inside[np.argsort(-share[inside, s], kind="stable")]
    label = int(np.bincount(answers.y[inside]).argmax())
    of = answers.y == label
    correct = answers.predicted == answers.y
    wrong = inside[~correct[inside]]
    members = x[inside[answers.y[inside] == label]]
    return Slice(
        rows=answers.rows[inside],
        label=label,
        errors=len(wrong),
        accuracy=float(correct[inside].mean()),
        class_accuracy=float(correct[of].mean()),
        confused=int(np.bincount(answers.predicted[wrong]).argmax()) if len(wrong) else None,
        names=named(members.mean(0) - x[of].mean(0)),
    )
