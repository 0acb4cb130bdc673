"""A cache held against the images that it was made from, by the encoder that made it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import numpy.typing as npt

from embedcal.cache import CacheMeta, FeatureCache
from embedcal.cache.cropping import Prepare, cropping
from embedcal.cache.encoding import worker_count
from embedcal.cache.format import OK
from embedcal.cache.sharding import open_any
from embedcal.encoders.again import check_preprocessing, encoder_again
from embedcal.encoders.decode import UnreadableImageError, decode
from embedcal.pictures import Pictures, find
from embedcal.types import EmbedcalError, FloatArray, IntArray, Level

if TYPE_CHECKING:
    from embedcal.encoders.base import Encoder

Progress = Callable[[int, int], None]  # rows done, of how many
BATCH = 64  # images encoded together where a cache does not say
# Least cosine, and largest difference relative to the row's largest value. Rounding stays well
# within: another batch, machine or version of a library moves the last bits. Another image,
# crop or weight does not.
BOUNDS: Mapping[str, tuple[float, float]] = {"fp32": (0.99999, 0.01)}
COARSE = (0.999, 0.1)  # bf16 and fp16, of which each step rounds by up to 0.4 %


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where images and encoder are, for what the cache does not say; ``device`` is torch's."""

    root: str | Path | None = None
    backbone: str | None = None
    pretrained: str | None = None
    device: str = "cpu"

    def encoder(self, meta: CacheMeta) -> Encoder:
        """The cache's encoder again, in its precision, held to weights and preprocessing."""
        if meta.library == "imported":
            raise EmbedcalError(
                f"expected a cache made from images, found imported features in {meta.path}: "
                "nothing can encode them again; compare them with where they came from"
            )
        encoder = encoder_again(
            meta,
            backbone=self.backbone,
            pretrained=self.pretrained,
            device=_device(self.device),
        )
        check_preprocessing(encoder, meta)
        return encoder


@dataclass(frozen=True, kw_only=True)
class Difference:
    """How far a row lies from its image encoded again, at the level where that is farthest.

    ``largest`` is the largest difference relative to the row's largest value. Both are NaN where
    the cache holds NaN or infinity.
    """

    row: int
    id: str
    path: str
    level: str
    cosine: float
    largest: float


@dataclass(frozen=True, kw_only=True)
class Reencoding:
    """Rows that were encoded again, those that differ, and (id, path, why) of those that could
    not be, since their file is gone or has changed. ``cosine`` and ``largest`` are the worst."""

    path: Path
    rows: tuple[int, ...]
    differing: tuple[Difference, ...]
    missing: tuple[tuple[str, str, str], ...]
    cosine: float
    largest: float

    @property
    def ok(self) -> bool:
        return not self.differing and not self.missing


@dataclass(frozen=True)
class Encoded:
    """Features of some rows by level (n, ...) float32 and, where a row has none, the reason.

    ``absent`` tells rows whose very bytes are not to be had from those that cannot be decoded.
    """

    features: Mapping[Level, FloatArray]
    reasons: tuple[str, ...]
    absent: tuple[bool, ...]


def reencode(
    path: str | Path,
    count: int = 50,
    *,
    source: Source | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Reencoding:
    """Encode ``count`` random rows again from their images and compare every level.

    Rows that were unreadable are passed over. Raises EmbedcalError where the encoder or the folder
    of the images cannot be found, and for features that nobody encoded from images.
    """
    source = source or Source()
    if count < 1:
        raise EmbedcalError(f"expected at least 1 row to encode again, found {count}: ask for 50")
    with open_any(Path(path)) as cache:
        readable = np.flatnonzero(cache.samples.status == OK)
        if not len(readable):
            raise EmbedcalError(
                f"expected rows with features in {path}, found none: every image was unreadable"
            )
        drawn = np.random.default_rng(seed).choice(
            readable, min(count, len(readable)), replace=False
        )
        rows = np.sort(drawn)
        encoder = source.encoder(cache.meta)
        pictures = find(cache, int(rows[0]), source.root)
        bounds = BOUNDS.get(cache.meta.precision.partition("-")[0], COARSE)
        found: list[Difference] = []
        missing: list[tuple[str, str, str]] = []
        for start in range(0, len(rows), BATCH):
            batch = rows[start : start + BATCH]
            encoded = encode_rows(encoder, pictures, batch)
            for i, row in enumerate(batch.tolist()):
                if encoded.reasons[i]:
                    samples = cache.samples
                    missing.append((samples.ids[row], samples.paths[row], encoded.reasons[i]))
                else:
                    fresh = {level: array[i] for level, array in encoded.features.items()}
                    found.append(_farthest(cache, row, fresh, bounds))
            if progress is not None:
                progress(min(start + BATCH, len(rows)), len(rows))
        return Reencoding(
            path=cache.meta.path,
            rows=tuple(rows.tolist()),
            differing=tuple(each for each in found if not _within(each, bounds)),
            missing=tuple(missing),
            cosine=float(np.min([each.cosine for each in found])) if found else float("nan"),
            largest=float(np.max([each.largest for each in found])) if found else float("nan"),
        )


def _strain(cosine: float, largest: float, bounds: tuple[float, float]) -> float:
    """How far a difference goes towards its bounds, which are at 1; infinite where it is NaN."""
    strain = max((1 - cosine) / (1 - bounds[0]), largest / bounds[1])
    return math.inf if math.isnan(cosine) else strain


def _within(found: Difference, bounds: tuple[float, float]) -> bool:
    return _strain(found.cosine, found.largest, bounds) <= 1


def _farthest(
    cache: FeatureCache, row: int, fresh: Mapping[Level, FloatArray], bounds: tuple[float, float]
) -> Difference:
    """The difference at the level that is strained most."""
    # The stored rows as they are: ``tokens`` and ``read`` refuse what is to be found here.
    found = {
        level: compare(cache.stored.rows(f"/images/{level}", row, row + 1)[0], array)
        for level, array in fresh.items()
    }
    level = max(found, key=lambda level: _strain(*found[level], bounds))
    samples = cache.samples
    return Difference(
        row=row,
        id=samples.ids[row],
        path=samples.paths[row],
        level=level,
        cosine=found[level][0],
        largest=found[level][1],
    )


def compare(stored: npt.NDArray[Any], fresh: npt.NDArray[Any]) -> tuple[float, float]:
    """Cosine of two arrays of one shape, and their largest difference over the largest value.

    Both are NaN where either is not finite. Equal arrays give 1 and 0, zeros included.
    """
    a, b = (x.reshape(-1).astype(np.float64) for x in (stored, fresh))
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        return float("nan"), float("nan")
    if np.array_equal(a, b):
        return 1.0, 0.0
    norms = float(np.linalg.norm(a) * np.linalg.norm(b))
    cosine = float(a @ b) / norms if norms > 0 else 0.0
    return cosine, float(np.abs(a - b).max() / max(np.abs(a).max(), np.abs(b).max()))


def encode_rows(encoder: Encoder, pictures: Pictures, rows: IntArray) -> Encoded:
    """Some rows as one batch through the encoder, as ``cache`` would encode them.

    A row whose image cannot be had as it was cached has zeros, and the reason; so its neighbours
    are computed in a batch of the same size.
    """
    meta = pictures.cache.meta
    prepare = cropping(encoder.prepare, meta.preprocessing.get("center_crop"))
    with ThreadPoolExecutor(worker_count(None)) as pool:
        read = list(pool.map(lambda row: _pixels(pictures, int(row), prepare), rows))
    levels = cast(dict[Level, str], dict(meta.levels))
    shown = [pixels for pixels, _, _ in read if pixels is not None]
    features: dict[Level, FloatArray] = {
        level: np.zeros((len(rows), *meta.shapes[level]), np.float32) for level in levels
    }
    if shown:
        blank = np.array([pixels is None for pixels, _, _ in read])
        batch = np.zeros((len(rows), *shown[0].shape), np.uint8)
        for i, (pixels, _, _) in enumerate(read):
            if pixels is not None:
                batch[i] = pixels
        for level, array in encoder.images(batch, tuple(levels)).items():
            features[level] = np.array(array, np.float32)
            features[level][blank] = 0
    return Encoded(features, tuple(why for _, why, _ in read), tuple(gone for *_, gone in read))


def _pixels(
    pictures: Pictures, row: int, prepare: Prepare
) -> tuple[npt.NDArray[np.uint8] | None, str, bool]:
    """Pixels, or None with the reason and whether it is that the file is not as it was."""
    try:
        return decode(pictures.read(row), prepare), "", False
    except UnreadableImageError as error:
        return None, error.reason, False
    except EmbedcalError as error:
        return None, str(error), True


def _device(name: str) -> str:
    if name != "auto":
        return name
    from embedcal.heads import torch_device

    return torch_device(name)
