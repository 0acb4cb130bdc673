"""Why a head decides as it does: maps of chosen rows, and how well they lie on the object."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from embedcal.cache import FeatureCache
from embedcal.evaluate import Overlap, Strata, iou, overlap
from embedcal.evaluate.overlap import adjusted
from embedcal.explaining.explainer import (
    check_encoder,
    checked_classes,
    checked_rows,
    explainer,
    explainer_of,
    from_tokens,
)
from embedcal.explaining.readout import head_of
from embedcal.explaining.regions import Kind, Regions, has_regions
from embedcal.pictures import find, preparation
from embedcal.types import EmbedcalError, FloatArray, IntArray, Split

if TYPE_CHECKING:
    from embedcal.heads import Head
    from embedcal.pictures import Pictures
    from embedcal.runs import Run
    from embedcal.workbench import Workbench


@dataclass(frozen=True, kw_only=True)
class Sources:
    """What maps are made from: files that a cache only names, the object in them, the layer.

    ``root`` is the folder of the images, found by their digests where None. ``pretrained`` is the
    file of the encoder's weights, for a cache that was made from a file. ``region`` is ``mask``,
    ``box``, or ``auto``, which takes the mask where there is one.

    ``layer`` is where in the trunk the maps are: ``layer1`` to ``layer4`` of a ResNet, the index of
    a ViT's block (or its ``transformer.resblocks.INDEX.ln_1``). None is the last, which a ResNet's
    cached tokens are; for any other the encoder runs again on the rows. An earlier layer has more
    cells and tells less of the class.
    """

    root: str | Path | None = None
    pretrained: str | None = None
    region: Kind = "auto"
    layer: str | None = None


@dataclass(frozen=True, kw_only=True)
class Explanation:
    """Maps of n rows and C classes under one head, in the frame of the encoder's input (H, W).

    ``logits`` (n, K), ``predicted`` (n,) and ``labels`` (n,) are of all the cache's classes;
    ``maps`` (n, C, H, W) in [0, 1] are of ``classes``. ``pixels`` (n, H, W, 3) is what the encoder
    saw, ``regions`` (n, H, W) the object, ``iou`` (n, C) and ``aiou`` (n,) eq. 8 and 9 of Yang et
    al. 2023, NaN without an object; ``aiou`` needs the maps of all classes. What the files do not
    give is None, and ``note`` says why in one line.
    """

    rows: IntArray
    classes: tuple[int, ...]
    maps: npt.NDArray[np.float32]
    logits: npt.NDArray[np.float32]
    labels: IntArray
    pixels: npt.NDArray[np.uint8] | None = None
    regions: npt.NDArray[np.bool_] | None = None
    iou: FloatArray | None = None
    aiou: FloatArray | None = None
    note: str = ""

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def predicted(self) -> IntArray:
        """The class of each row's largest logit, (n,)."""
        best: IntArray = self.logits.argmax(axis=1)
        return best

    def of(self, classes: IntArray) -> npt.NDArray[np.float32]:
        """The map (n, H, W) of one class a row; EmbedcalError for a class without maps."""
        at = {c: place for place, c in enumerate(self.classes)}
        try:
            places = [at[int(c)] for c in classes]
        except KeyError as error:
            raise EmbedcalError(
                f"expected a class among {', '.join(map(str, self.classes))}, found {error}: "
                "explain it too"
            ) from None
        maps: npt.NDArray[np.float32] = self.maps[np.arange(len(self)), places]
        return maps


def explain(
    run: Run | None,
    cache: FeatureCache,
    rows: Sequence[int] | IntArray,
    *,
    classes: Sequence[int] | None = None,
    sources: Sources | None = None,
    device: str = "auto",
) -> Explanation:
    """Grad-CAM of some rows under a run's head, or under zero-shot for None.

    A ResNet with cached tokens needs neither images nor backbone, though overlap needs the files
    of the images, and of masks where there are any. Any other encoder runs again on the rows, from
    images whose SHA-256 must be that of the cache, and so does any for another ``layer`` of
    ``sources``. ``classes``: those to make maps of; all by default.
    Raises EmbedcalError for what cannot be explained, and for files that are absent or changed.

    Example:
        >>> import embedcal
        >>> with embedcal.open("birds.h5") as cache:
        ...     found = embedcal.explain(None, cache, [0, 1])
        >>> found.maps.shape[:2]  # a map for each row and class
        (2, 2)
    """
    sources = sources or Sources()
    check_encoder(cache, sources.layer)
    asked, wanted = checked_rows(rows, cache), checked_classes(classes, cache)
    pictures, note = _pictures(cache, int(asked[0]), sources)
    explains = explainer(
        run,
        cache,
        pictures=pictures,
        pretrained=sources.pretrained,
        device=device,
        layer=sources.layer,
    )
    maps = np.empty((len(asked), len(wanted), *explains.size), np.float32)
    logits = np.empty((len(asked), cache.n_classes), np.float32)
    for places, part, outputs in explains.batches(asked, wanted):
        maps[places], logits[places] = part.cpu().numpy(), outputs.cpu().numpy()
    explanation = Explanation(
        rows=asked,
        classes=wanted,
        maps=maps,
        logits=logits,
        labels=cache.samples.y[asked],
        pixels=None if pictures is None else pictures.pixels(asked, preparation(cache)),
        note=note,
    )
    if pictures is None or not has_regions(cache):
        return explanation
    try:
        regions = Regions(pictures, sources.region)(asked)
    except EmbedcalError as error:
        if sources.region != "auto":
            raise
        return replace(explanation, note=str(error))
    scores = _known(iou(maps, regions[:, None]), regions)
    every = len(wanted) > 1 and wanted == tuple(range(cache.n_classes))
    return replace(
        explanation,
        regions=regions,
        iou=scores,
        aiou=adjusted(scores, explanation.labels) if every else None,
    )


def aiou(
    run: Run | None,
    cache: FeatureCache,
    split: Split = "test",
    *,
    attribute: str | Sequence[str] | None = None,
    sources: Sources | None = None,
    device: str = "auto",
) -> Overlap:
    """AIOU over a whole split: on average, in each group and in the worst, with 95 % intervals.

    Groups are those that the run was judged by; for zero-shot (None), those of ``attribute``, all
    of the cache's by default. Images whose object is unknown, or not in the encoder's frame, are
    left out; ``Overlap.images`` is how many were not. The maps of a batch are let go once they
    have been compared. Raises EmbedcalError where there are no masks or boxes, or no files of them.

    Example:
        >>> import embedcal
        >>> with embedcal.open("birds.h5") as cache:
        ...     found = embedcal.aiou(None, cache, "val")
        >>> 0 < found.worst_group <= found.mean < 1
        True
    """
    from embedcal.workbench import Workbench

    chosen = attribute if run is None else (run.record["attributes"] or None)
    on = Workbench(cache, chosen)
    values, cells = each_aiou(head_of(run, cache), on, split, sources=sources, device=device)
    return overlap(values, cells)


def each_aiou(
    head: Head,
    on: Workbench,
    split: Split = "test",
    *,
    sources: Sources | None = None,
    device: str = "auto",
) -> tuple[FloatArray, Strata]:
    """AIOU of each row of a split under a head, (n,), and the cells that the rows fall into.

    NaN where the object is unknown or not in the frame. Raises as ``aiou`` does.
    """
    cache, sources = on.cache, sources or Sources()
    check_encoder(cache, sources.layer)
    if cache.n_classes < 2:
        raise EmbedcalError(
            "expected two classes or more for AIOU, found 1: compare a cache of several, since the "
            "map of a class is held against its rivals'"
        )
    rows, cells = on.split(split, "embedding").rows, on.strata(split, "embedding")
    pictures = find(cache, int(rows[0]), sources.root)
    regions = Regions(pictures, sources.region)
    explains = explainer_of(
        head,
        cache,
        pictures=pictures,
        pretrained=sources.pretrained,
        device=device,
        layer=sources.layer,
    )
    values = np.empty(len(rows))
    for places, maps, _ in explains.batches(rows, range(cache.n_classes)):
        there = regions(rows[places])
        scores = iou(maps.cpu().numpy(), there[:, None])
        values[places] = adjusted(_known(scores, there), cells.y[places])
    return values, cells


def _pictures(cache: FeatureCache, row: int, sources: Sources) -> tuple[Pictures | None, str]:
    """The files, or why there are none where cached tokens make them optional."""
    try:
        return find(cache, row, sources.root), ""
    except EmbedcalError as error:
        if not from_tokens(cache, sources.layer) or sources.root is not None:
            raise
        return None, str(error)


def _known(scores: FloatArray, regions: npt.NDArray[np.bool_]) -> FloatArray:
    """IOU (n, C), NaN in rows without an object in the frame."""
    return np.where(regions.reshape(len(regions), 1, -1).any(axis=2), scores, np.nan)
