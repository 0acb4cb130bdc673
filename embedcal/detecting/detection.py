"""Which attributes a class's accuracy hangs on: the search for what is spurious."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from embedcal.cache import FeatureCache
from embedcal.datasets.printable import printable
from embedcal.detecting.effects import By, Effect, check_ranking, effects, leading, ranked
from embedcal.detecting.options import DetectOptions
from embedcal.detecting.outcomes import outcomes
from embedcal.detecting.owlvit import owlvit_presence
from embedcal.detecting.presence import (
    Agreement,
    Presence,
    agreements,
    clip_presence,
)
from embedcal.detecting.tables import table_presence
from embedcal.detecting.vocabulary import candidates, vocabulary
from embedcal.runs import Run
from embedcal.types import EmbedcalError, IntArray, Split

CLIP, OWLVIT = "clip", "owlvit"


@dataclass(frozen=True, kw_only=True)
class Detection:
    """What ``detect`` found. ``effects`` are ranked by ``by`` over all classes.

    ``presence`` is that of every candidate on the images of the split, ``y`` and ``predicted`` (n,)
    are their classes and the answers. ``agreements`` tell how well presence agrees with attributes
    that the cache has. ``classes`` are names; ``of`` names the run, or "zero-shot".
    """

    effects: tuple[Effect, ...]
    classes: tuple[str, ...]
    by: By
    split: Split
    detector: str
    of: str
    presence: Presence
    y: IntArray
    predicted: IntArray
    agreements: tuple[Agreement, ...]

    def of_class(self, label: int) -> tuple[Effect, ...]:
        """The effects of one class, in their order."""
        return tuple(effect for effect in self.effects if effect.label == label)

    def leading(self, per_class: int = 5) -> tuple[Effect, ...]:
        """The first few of each class, pooled, largest delta first."""
        return leading(self.effects, self.by, per_class)


def detect(
    cache: FeatureCache,
    run: Run | None = None,
    *,
    vocabulary: str | Path | Sequence[str] | None = None,
    detector: str | Path = CLIP,
    by: By = "delta",
    split: Split = "val",
    options: DetectOptions | None = None,
) -> Detection:
    """For every candidate attribute and class: how accuracy differs with it and without it.

    Args:
        cache: an open cache.
        run: whose errors are looked at; by default those of zero-shot CLIP.
        vocabulary: candidates: see ``embedcal.detecting.vocabulary``. A table brings its own, of
            which this keeps those that it names.
        detector: ``clip`` finds presence from the cache's features and its text tower alone,
            ``owlvit`` boxes in the images themselves; anything else is a file of attributes.
        by: the ranking: ``delta``, or ``mi`` for mutual information.
        split: of whose images. Errors on train are rare once a head was fitted on it.
        options: of the detectors.

    Raises:
        EmbedcalError: for anything that the user can mend.

    Example:
        >>> import embedcal
        >>> with embedcal.open("birds.h5") as cache:
        ...     found = embedcal.detect(cache, vocabulary=["water", "forest"])
        >>> found.split, found.of, found.effects[0].attribute
        ('val', 'zero-shot', 'water')
    """
    options = options or DetectOptions()
    check_ranking(by)
    answers = outcomes(cache, run, split, options.device)
    found = look_for(cache, answers.rows, vocabulary, detector, options)
    pairs = effects(
        answers.logits, answers.y, found.present, found.names, min_detect=options.min_detect
    )
    return Detection(
        effects=ranked(pairs, by),
        classes=cache.meta.classes,
        by=by,
        split=split,
        detector=str(detector),
        of=answers.by,
        presence=found,
        y=answers.y,
        predicted=answers.predicted,
        agreements=agreements(cache, found),
    )


def look_for(
    cache: FeatureCache,
    rows: IntArray,
    names: str | Path | Sequence[str] | None = None,
    detector: str | Path = CLIP,
    options: DetectOptions | None = None,
) -> Presence:
    """Presence of the candidates of a vocabulary on encoded rows of a cache, by any detector."""
    options = options or DetectOptions()
    if detector in (CLIP, OWLVIT):
        wanted = candidates(vocabulary(names), cache)
        find = clip_presence if detector == CLIP else owlvit_presence
        return find(cache, wanted, rows, options)
    path = Path(detector).expanduser()
    if not path.is_file():
        raise EmbedcalError(
            f"expected a detector among {CLIP}, {OWLVIT} or a file of attributes, found "
            f"'{printable(str(detector), longest=300)}', which is no file: take {CLIP}, or correct "
            "the path"
        )
    found = table_presence(cache, path, rows)
    wanted = candidates(found.names if names is None else vocabulary(names), cache)
    kept = [j for j, name in enumerate(found.names) if name in wanted]
    if not kept:
        raise EmbedcalError(
            f"expected columns of {path} in the vocabulary, found none of them: leave the "
            "vocabulary out"
        )
    return Presence(
        names=tuple(found.names[j] for j in kept), rows=rows, present=found.present[:, kept]
    )


def infer(
    cache: FeatureCache,
    attribute: str,
    detector: str | Path = CLIP,
    options: DetectOptions | None = None,
) -> npt.NDArray[np.int8]:
    """Labels (N,) of one attribute on every row of a cache: 1, 0, or -1 where it is not known.

    What ``annotate`` writes. Rows without features are not known.
    """
    rows = cache.encoded_rows()
    found = look_for(cache, rows, [attribute], detector, options)
    if attribute not in found.names:
        raise EmbedcalError(
            f"expected an attribute that the encoder can tell from its classes, found "
            f"'{printable(attribute)}': call it by a more common word, or bring a table of it with "
            "--detector"
        )
    labels = np.full(len(cache), -1, np.int8)
    labels[rows] = found.of(attribute)
    return labels
