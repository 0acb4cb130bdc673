"""From a verdict on an attribute to an annotation: labels of every row, and the text of its values.

Labels are those that ``embedcal.detecting.infer`` finds. Everything is worked out before anything
is written, so that a list of verdicts is kept whole or not at all.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from embedcal.annotating import (
    Annotation,
    annotate,
    annotation,
    check_verdict,
    encode_prompts,
    values_of,
    write_prompts,
)
from embedcal.cache import FeatureCache
from embedcal.datasets.printable import printable
from embedcal.detecting import Agreement, DetectOptions, Presence, infer
from embedcal.detecting.presence import agreements
from embedcal.detecting.wording import quiet
from embedcal.types import SPLITS, EmbedcalError, Split, TextBank

CLIP = "clip"
KIND, FORMAT = "verdicts", 1


@dataclass(frozen=True, kw_only=True)
class Counts:
    """Encoded rows with an attribute, without it, and of which it is not known."""

    with_it: int
    without: int
    unknown: int


@dataclass(frozen=True, kw_only=True)
class Judged:
    """An annotation as it was written to ``path``.

    ``counts`` are by split and class name; ``agreements`` with values of the cache's own attributes
    that have the attribute's name; ``note`` says why it has no prompts, empty where it has some, or
    where the cache has no text at all.
    """

    annotation: Annotation
    path: Path
    counts: Mapping[Split, Mapping[str, Counts]]
    agreements: tuple[Agreement, ...]
    note: str


@dataclass(frozen=True, kw_only=True)
class Verdicts:
    """What the page of a report saves: attributes with their verdicts, and what found them."""

    detector: str
    verdicts: Mapping[str, str]


def judge(
    cache: FeatureCache,
    verdicts: Mapping[str, str],
    detector: str | Path = CLIP,
    options: DetectOptions | None = None,
) -> tuple[Judged, ...]:
    """Infer the labels of every attribute, healthy ones too, and keep them with their verdicts.

    ``verdicts`` maps names to ``healthy`` or ``spurious``; ``detector`` and ``options`` are as for
    ``embedcal.detecting.detect``. Where the cache has text but its encoder cannot be loaded, the
    attribute has no prompts, and a note says so. EmbedcalError before anything is written.
    """
    options = options or DetectOptions()
    names = {check_verdict(cache, name, verdict): verdict for name, verdict in verdicts.items()}
    if not names:
        raise EmbedcalError("expected a verdict on one attribute or more, found none: give some")
    labels = {name: infer(cache, name, detector, options) for name in names}
    banks, note = _prompts(cache, tuple(names), options)
    found = []
    for name, verdict in names.items():
        path = annotate(cache, name, verdict, labels[name], source=str(detector))
        if name in banks:
            write_prompts(cache, name, banks[name])
        found.append(_judged(cache, name, path, note))
    return tuple(found)


def read_verdicts(path: str | Path, cache: FeatureCache) -> Verdicts:
    """The verdicts in a file that the page of a report saved for this cache.

    EmbedcalError for another file, a newer form, and verdicts on another cache.
    """
    path = Path(path).expanduser()
    shown = printable(str(path), longest=300)
    try:
        found = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise EmbedcalError(
            f"expected verdicts at {shown}, found: {error.strerror}: save them in a report's page"
        ) from None
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict) or found.get("embedcal") != KIND:
        raise EmbedcalError(
            f"expected the verdicts that a report's page saves in {shown}, found another file: "
            "save them again, or use --attribute and --verdict"
        )
    if found.get("format") != FORMAT:
        raise EmbedcalError(
            f"expected verdicts of format {FORMAT} in {shown}, found "
            f"{printable(repr(found.get('format')))}: use the version of embedcal that made them"
        )
    verdicts: Any = found.get("verdicts")
    detector = found.get("detector", CLIP)
    given = verdicts.values() if isinstance(verdicts, dict) else [None]
    if not isinstance(detector, str) or not all(isinstance(verdict, str) for verdict in given):
        raise EmbedcalError(
            f'expected {{"verdicts": {{"water": "spurious"}}, ...}} in {shown}, found another '
            "form: save them again"
        )
    if found.get("fingerprint") != cache.fingerprint:
        raise EmbedcalError(
            f"expected verdicts on {cache.meta.path.name} in {shown}, found those on another "
            "cache: name that with --cache"
        )
    return Verdicts(detector=detector, verdicts=verdicts)


def counts(cache: FeatureCache, labels: Any) -> dict[Split, dict[str, Counts]]:
    """Encoded rows by split, class and label (N,) of 1, 0 or -1; splits without rows left out."""
    found = {}
    for split in SPLITS:
        rows = cache.encoded_rows(split)
        if not len(rows):
            continue
        own = [labels[rows[cache.labels.y[rows] == y]] for y in range(cache.n_classes)]
        found[split] = {
            name: Counts(
                with_it=int((each == 1).sum()),
                without=int((each == 0).sum()),
                unknown=int((each == -1).sum()),
            )
            for name, each in zip(cache.meta.classes, own, strict=True)
        }
    return found


def _prompts(
    cache: FeatureCache, names: tuple[str, ...], options: DetectOptions
) -> tuple[dict[str, TextBank], str]:
    """The text of the values of each attribute, or why there is none."""
    if not cache.banks:
        return {}, ""
    from embedcal.encoders.again import encoder_again
    from embedcal.heads import torch_device

    try:
        encoder = encoder_again(
            cache.meta,
            backbone=options.backbone,
            pretrained=options.pretrained,
            device=torch_device(options.device),
        )
        with quiet():  # the tiny CLIP has never met "no"
            return {name: encode_prompts(cache, values_of(name), encoder) for name in names}, ""
    except EmbedcalError as error:
        return {}, f"kept without prompts, which spurious reads: {error}"


def _judged(cache: FeatureCache, name: str, path: Path, note: str) -> Judged:
    written = annotation(cache, name)
    rows = cache.encoded_rows()
    present = Presence(names=(name,), rows=rows, present=written.labels[rows, None])
    return Judged(
        annotation=written,
        path=path,
        counts=counts(cache, np.asarray(written.labels)),
        agreements=agreements(cache, present),
        note=note,
    )
