"""Predict the classes of image files with a run's head: batch by batch, to be gone on with."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from embedcal.cache import FeatureCache, open_cache
from embedcal.cache.encoding import worker_count
from embedcal.caching import which_cache
from embedcal.datasets.printable import printable
from embedcal.datasets.spreadsheet import cell, path_cell
from embedcal.explaining.readout import head_of
from embedcal.predicting.calibration import FILE, stored_temperature
from embedcal.predicting.images import Images, Listed, listed
from embedcal.predicting.pixels import Batch, batches
from embedcal.predicting.scorer import Neighbour, Scorer
from embedcal.predicting.sheet import Sheet, Stamp, sheet
from embedcal.predicting.temperature import softmax
from embedcal.reencoding import Source
from embedcal.types import EmbedcalError, FloatArray

if TYPE_CHECKING:
    from embedcal.runs import Run

ZERO_SHOT = "zero-shot"
BATCH = 64  # what a cache is made with
NOT_FINITE = "the encoder gave NaN or infinity"

Progress = Callable[[int], None]  # images looked at so far


@dataclass(frozen=True, kw_only=True)
class PredictOptions:
    """How images are read and encoded.

    ``root`` is the folder that the paths of a table or a list begin at. ``batch_size`` images are
    encoded at once, and so many again decoded ahead, twice. ``backbone`` and ``pretrained`` say
    where the encoder is, for what the cache does not say. ``keep`` is how many predictions are
    returned where no CSV is written; None: all.
    """

    root: str | Path | None = None
    batch_size: int = BATCH
    workers: int | None = None
    device: str = "auto"
    backbone: str | None = None
    pretrained: str | None = None
    keep: int | None = None
    progress: Progress | None = None


@dataclass(frozen=True, kw_only=True)
class Predicted:
    """One image: its class, that class's probability, and how far the ``second`` class is behind.

    ``margin`` is the difference of the two probabilities. ``neighbours`` are the nearest training
    rows, the nearest first; empty where nobody asked.
    """

    name: str
    label: int
    class_name: str
    probability: float
    second: str
    margin: float
    neighbours: tuple[Neighbour, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Predictions:
    """What came of some images.

    ``rows`` are the predictions of this call, as many as were to be kept: none beside a ``csv``.
    ``counts`` are rows by class, of the whole CSV where there is one; ``reused`` of them were
    there before. ``unreadable`` are (name, reason). ``passed_over`` files of a folder are no
    images by name. ``calibration`` is the temperature that is stored beside the run, if any.
    """

    run: str
    method: str
    rule: str
    temperature: float
    calibration: float | None
    classes: tuple[str, ...]
    rows: tuple[Predicted, ...]
    counts: Mapping[str, int]
    predicted: int
    reused: int
    unreadable: tuple[tuple[str, str], ...]
    passed_over: int
    csv: Path | None

    @property
    def ok(self) -> bool:
        return not self.unreadable


def predict(
    run: Run | None,
    images: Images,
    *,
    cache: FeatureCache | str | Path | None = None,
    csv: str | Path | None = None,
    neighbours: int = 0,
    temperature: float | Literal["calibrated"] = 1.0,
    options: PredictOptions | None = None,
) -> Predictions:
    """Classes of image files by the head of a run, through the encoder that made its cache.

    Images are prepared and encoded as they were for the cache, by weights of the same SHA-256, so
    that files of the cache get the logits that the run stored, up to rounding. However many they
    are, a few batches are in memory.

    Args:
        run: a finished run, under its own rule; None for zero-shot.
        images: a folder (with all below it), a CSV file with a column ``path``, a ``.txt`` list,
            one image, or several paths.
        cache: the run's cache, open or its file; by default the file that the run notes.
        csv: write predictions here. A file of the same run, rule and temperature, whose paths
            begin at the same folder, is gone on with: images that are in it are not looked at
            again.
        neighbours: how many nearest training rows each image gets, by cosine of the head's own
            embedding. These embeddings, 4 bytes a number, are held in memory.
        temperature: divides the logits before the softmax; ``calibrated`` is what
            ``calibrate`` stored beside the run. Classes do not depend on it.
        options: folder of paths, batch size, device, where the encoder is.

    Returns:
        Predictions, and what could not be read, with reasons. That is no error here.

    Raises:
        EmbedcalError: for another cache, weights or preprocessing than the run's, a source that
            is not there, and a CSV file that is something else.

    Example:
        >>> import embedcal
        >>> from pathlib import Path
        >>> from embedcal.datasets.birds import render
        >>> pictures = render(Path("pictures"), rows=211, seed=9)
        >>> with embedcal.open("birds.h5") as cache:
        ...     run = embedcal.fit("erm", cache, epochs=2)
        ...     found = embedcal.predict(run, f"{pictures}/landbird/crow", cache=cache)
        >>> found.predicted == len(found.rows), sorted(found.counts)
        (True, ['landbird', 'waterbird'])
    """
    options = options or PredictOptions()
    _check(options, neighbours)
    files = listed(images, options.root)
    with _opened(run, cache) as opened:
        known = None if run is None else stored_temperature(run)
        stamp = Stamp(
            run=f"{ZERO_SHOT} {opened.fingerprint[:12]}" if run is None else run.id,
            rule="none" if run is None else str(run.record["selection"]),
            temperature=_temperature(run, known, temperature),
            root=os.path.realpath(files.root),
        )
        with _sheet(csv, stamp, neighbours) as out:
            reused = 0 if out is None else out.done.total()
            tally = _Tally(opened.meta.classes, out, options.keep)
            _all(_Job(run, opened, files.files, stamp.temperature, neighbours, options), tally)
        return Predictions(
            run=stamp.run,
            method="zeroshot" if run is None else str(run.record["method"]),
            rule=stamp.rule,
            temperature=stamp.temperature,
            calibration=known,
            classes=opened.meta.classes,
            rows=tuple(tally.rows),
            counts=tally.by_class(),
            predicted=tally.predicted,
            reused=reused,
            unreadable=tuple(tally.unreadable),
            passed_over=tally.passed_over,
            csv=None if csv is None else Path(csv),
        )


def _check(options: PredictOptions, neighbours: int) -> None:
    if options.batch_size < 1:
        raise EmbedcalError(
            f"expected --batch-size of 1 or more, found {options.batch_size}: leave it out"
        )
    if neighbours < 0:
        raise EmbedcalError(f"expected --neighbours of 0 or more, found {neighbours}: ask for 3")


def _temperature(
    run: Run | None, known: float | None, asked: float | Literal["calibrated"]
) -> float:
    if asked != "calibrated":
        if not isinstance(asked, int | float) or not (math.isfinite(asked) and asked > 0):
            raise EmbedcalError(
                f"expected a temperature above 0, or calibrated, found '{printable(str(asked))}': "
                "leave it out for 1"
            )
        return float(asked)
    if run is None:
        raise EmbedcalError(
            "expected a run for --temperature calibrated, found zero-shot, which has no folder: "
            "fit zeroshot, and calibrate that run"
        )
    if known is None:
        raise EmbedcalError(
            f"expected {FILE} of the rule {run.record['selection']} in {run.folder}, found none: "
            f"run 'embedcal calibrate {run.folder}' first"
        )
    return known


@contextmanager
def _opened(run: Run | None, cache: FeatureCache | str | Path | None) -> Iterator[FeatureCache]:
    """The cache of a run; one that was open already stays open."""
    if isinstance(cache, FeatureCache):
        yield cache
        return
    path = Path(cache) if cache is not None else None
    if path is None and run is not None:
        path = Path(str(run.record["cache"]["path"]))
        if not path.is_file():
            raise EmbedcalError(
                f"expected the cache of run {run.id}, which knows its encoder, found no "
                f"{printable(str(path), longest=300)}: name the file with --cache"
            )
    with open_cache(which_cache(path)) as opened:
        yield opened


@contextmanager
def _sheet(csv: str | Path | None, stamp: Stamp, neighbours: int) -> Iterator[Sheet | None]:
    with nullcontext() if csv is None else sheet(Path(csv), stamp, neighbours) as out:
        yield out


@dataclass(frozen=True)
class _Job:
    """Everything that decides predictions."""

    run: Run | None
    cache: FeatureCache
    files: Iterator[Listed]
    temperature: float
    neighbours: int
    options: PredictOptions


@dataclass
class _Tally:
    """What has come of the images so far."""

    classes: tuple[str, ...]
    out: Sheet | None
    keep: int | None
    rows: list[Predicted] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    predicted: int = 0
    unreadable: list[tuple[str, str]] = field(default_factory=list)
    passed_over: int = 0

    def images(self, files: Iterator[Listed]) -> Iterator[Listed]:
        """Those files that are images by name; the others are counted."""
        for each in files:
            if each.image:
                yield each
            else:
                self.passed_over += 1

    def wanted(self, each: Listed) -> bool:
        """Whether an image is still to be predicted; called once for each of them, in order."""
        if self.out is not None and self.out.done[path_cell(each.name)] > 0:
            self.out.done[path_cell(each.name)] -= 1  # a list may name a file twice
            return False
        return True

    def add(self, rows: list[Predicted]) -> None:
        self.predicted += len(rows)
        self.counts.update(each.class_name for each in rows)
        if self.out is not None:
            self.out.write(rows)
        elif self.keep is None or len(self.rows) < self.keep:
            self.rows += rows[: None if self.keep is None else self.keep - len(self.rows)]

    def by_class(self) -> dict[str, int]:
        before: Mapping[str, int] = {} if self.out is None else self.out.classes
        return {name: self.counts[name] + before.get(cell(name), 0) for name in self.classes}


def _all(job: _Job, tally: _Tally) -> None:
    from embedcal.heads import torch_device

    device = torch_device(job.options.device)
    source = Source(backbone=job.options.backbone, pretrained=job.options.pretrained, device=device)
    head = head_of(job.run, job.cache)
    scorer = Scorer(job.cache, head.to(device).eval(), source.encoder(job.cache.meta), device)
    looked_at = 0
    some = batches(
        tally.images(job.files),
        scorer.prepare,
        wanted=tally.wanted,
        batch_size=job.options.batch_size,
        workers=worker_count(job.options.workers),
    )
    with closing(some):
        for batch in some:
            rows, unreadable = _predicted(scorer, batch, job)
            tally.add(rows)
            tally.unreadable += unreadable
            looked_at += len(batch.images)
            if job.options.progress is not None:
                job.options.progress(looked_at)


def _predicted(
    scorer: Scorer, batch: Batch, job: _Job
) -> tuple[list[Predicted], list[tuple[str, str]]]:
    """Predictions of the wanted rows of a batch, and those that could not be read."""
    reasons = list(batch.reasons)
    rows: list[Predicted] = []
    if batch.pixels is not None:
        features = scorer.features(batch.pixels)
        finite = np.isfinite(features).reshape(len(features), -1).all(axis=1)
        features[~finite] = 0
        for at in np.flatnonzero(~finite):
            reasons[at] = reasons[at] or NOT_FINITE
        good = [i for i, want in enumerate(batch.wanted) if want and not reasons[i]]
        rows = _rows(scorer, batch, features, good, job)
    unreadable = [
        (each.name, reason)
        for each, want, reason in zip(batch.images, batch.wanted, reasons, strict=True)
        if want and reason
    ]
    return rows, unreadable


def _rows(
    scorer: Scorer, batch: Batch, features: FloatArray, good: list[int], job: _Job
) -> list[Predicted]:
    logits = scorer.logits(features)
    p = softmax(logits, job.temperature)
    # By logits: two probabilities may round to the same number.
    order = np.argsort(-logits, axis=1, kind="stable")
    # Of every row of the batch, so that a row gets the same answer whichever are wanted.
    near = scorer.nearest(features, job.neighbours) if job.neighbours else []
    classes = job.cache.meta.classes
    found = []
    for i in good:
        first, *rest = order[i, :2].tolist()  # a head of one class has no second
        found.append(
            Predicted(
                name=batch.images[i].name,
                label=first,
                class_name=classes[first],
                probability=float(p[i, first]),
                second=classes[rest[0]] if rest else "",
                margin=float(p[i, first] - p[i, rest].sum()),
                neighbours=near[i] if near else (),
            )
        )
    return found
