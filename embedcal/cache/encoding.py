"""The pass over the images: decode ahead, encode here, write behind, and know which one limits."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import numpy.typing as npt

from embedcal.cache.contents import cut_reason
from embedcal.cache.cropping import crop_for, cropping
from embedcal.cache.digests import digest_files, digest_table, forget
from embedcal.cache.format import OK, UNREADABLE
from embedcal.cache.reading import ChangedFileError, PixelBatch, read_batches
from embedcal.cache.writer import CacheWriter
from embedcal.cores import whole_cores
from embedcal.datasets.manifest import Manifest
from embedcal.datasets.scratch import scratch_array
from embedcal.encoders.base import Encoder
from embedcal.types import LEVELS, EmbedcalError, FloatArray, Level, Pairs

StoreType = Literal["float32", "float16"]
Progress = Callable[[str, int, int], None]  # stage, done, total
_HASHED = 4096  # images of which paths and times are in memory together


@dataclass(frozen=True, kw_only=True)
class BuildOptions:
    """How a cache is made.

    ``out`` is a file or an existing folder; None stands for the user's data folder. ``store`` is
    the type of pooled and embedding, ``store_tokens`` that of tokens. ``workers`` None: one thread
    a core. ``templates`` None: ``"a photo of a {}."`` alone, or the default of ``embedcal.cache``.
    ``pairs`` are concept pairs, which become a text bank of their own. ``rehash`` does not trust
    the table of known digests.

    Example:
        >>> import embedcal
        >>> half = embedcal.BuildOptions(store="float16", batch_size=32)
        >>> report = embedcal.cache("birds", read=embedcal.ReadOptions(rows=240), build=half)
        >>> with embedcal.open(report.path) as cache:
        ...     cache.meta.levels["embedding"], cache.read().dtype
        ('float16', dtype('float32'))
    """

    out: Path | None = None
    tokens: bool = False
    store: StoreType = "float32"
    store_tokens: StoreType = "float16"
    batch_size: int = 64
    workers: int | None = None
    on_error: Literal["skip", "raise"] = "skip"
    templates: tuple[str, ...] | None = None
    pairs: Pairs | None = None
    rehash: bool = False

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise EmbedcalError(
                f"expected a batch of 1 image or more, found {self.batch_size}: take 64"
            )


def levels_of(encoder: Encoder, options: BuildOptions) -> dict[str, str]:
    """Each level that is stored and its type; EmbedcalError where the encoder lacks one."""
    shapes = encoder.meta.shapes
    if "embedding" not in shapes or (options.tokens and "tokens" not in shapes):
        missing = "tokens" if "embedding" in shapes else "embedding"
        raise EmbedcalError(
            f"expected an encoder that gives {missing}, found {', '.join(shapes) or 'nothing'} "
            f"from {encoder.meta.name}: choose another encoder or leave {missing} out"
        )
    kept = [level for level in LEVELS if level in shapes and (level != "tokens" or options.tokens)]
    return {level: options.store_tokens if level == "tokens" else options.store for level in kept}


class Clock:
    """Seconds by stage, and what the encoding thread lost waiting for the other stages."""

    def __init__(self) -> None:
        self._began = time.perf_counter()
        self._seconds: dict[str, float] = {}
        self._waiting: dict[str, float] = {"decode": 0.0, "write": 0.0}

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        began = time.perf_counter()
        try:
            yield
        finally:
            self.add(stage, time.perf_counter() - began)

    @contextmanager
    def lost_to(self, stage: str) -> Iterator[None]:
        began = time.perf_counter()
        try:
            yield
        finally:
            self._waiting[stage] += time.perf_counter() - began

    def add(self, stage: str, seconds: float) -> None:
        self._seconds[stage] = self._seconds.get(stage, 0.0) + seconds

    def seconds(self) -> dict[str, float]:
        return {**self._seconds, "total": time.perf_counter() - self._began}

    def limiting(self) -> str:
        """The stage that the others waited for; empty when nothing was encoded."""
        if "encode" not in self._seconds:
            return ""
        busy = {"encode": self._seconds["encode"], **self._waiting}
        return max(busy, key=lambda stage: busy[stage])


def worker_count(asked: int | None) -> int:
    """Threads that decode: what was asked for, else one a core, eight at most."""
    return max(1, asked if asked is not None else min(8, whole_cores()))


def unreadable(name: str, path: str, reason: str) -> EmbedcalError:
    return EmbedcalError(
        f"expected every image to be readable, found {reason} for '{name}' ({path}): mend or "
        "remove it, or leave --on-error at skip"
    )


def hash_images(
    manifest: Manifest, options: BuildOptions, progress: Progress
) -> npt.NDArray[np.uint8]:
    """SHA-256 (n, 32) of the bytes of every image; zeros where none can be read.

    Block by block; where they are many they lie in pages of a file. See ``digest_files``.
    """
    files, total = manifest.files, len(manifest)
    rows = scratch_array((total, 32), np.uint8)
    for start in range(0, total, _HASHED):

        def told(done: int, start: int = start) -> None:
            progress("hash", start + done, total)

        block = files[start : start + _HASHED]
        rows[start : start + len(block)] = digest_files(
            block,
            workers=worker_count(options.workers),
            table=digest_table(),
            trust=not options.rehash,
            progress=told,
        )
    return rows


def encode_images(
    writer: CacheWriter,
    manifest: Manifest,
    encoder: Encoder,
    digests: npt.NDArray[np.uint8],
    *,
    options: BuildOptions,
    clock: Clock,
    progress: Progress,
) -> None:
    """Every row from ``writer.rows_done`` on, batch by batch."""
    batches = read_batches(
        manifest.files,
        digests,
        cropping(encoder.prepare, crop_for(manifest, encoder.meta)),
        start=writer.rows_done,
        batch_size=options.batch_size,
        workers=worker_count(options.workers),
    )
    store = _Store(writer, manifest, clock)
    total = len(manifest)
    progress("images", writer.rows_done, total)
    try:
        with closing(batches), ThreadPoolExecutor(1, thread_name_prefix="write") as behind:
            pending: Future[None] | None = None
            while True:
                with clock.lost_to("decode"):
                    batch = next(batches, None)
                if batch is None:
                    break
                clock.add("decode", batch.seconds)
                _stop_at_unreadable(batch, manifest, options)
                with clock("encode"):
                    features = _encode(encoder, batch, store.levels)
                if pending is not None:
                    with clock.lost_to("write"):
                        pending.result()
                pending = behind.submit(store, batch, features)
                progress("images", batch.start + len(batch.reasons), total)
            if pending is not None:
                with clock.lost_to("write"):
                    pending.result()
    except ChangedFileError as error:
        forget(digest_table(), error.path)
        raise


def _stop_at_unreadable(batch: PixelBatch, manifest: Manifest, options: BuildOptions) -> None:
    if options.on_error == "raise":
        for row, reason in enumerate(batch.reasons, batch.start):
            if reason:
                raise unreadable(manifest.ids[row], manifest.paths[row], reason)


def _encode(
    encoder: Encoder, batch: PixelBatch, shapes: Mapping[Level, tuple[int, ...]]
) -> dict[Level, FloatArray]:
    """Features of one batch, zeros for unreadable rows (which are zero pixels to the encoder)."""
    count = len(batch.reasons)
    if batch.pixels is None:
        return {level: np.zeros((count, *shape), np.float32) for level, shape in shapes.items()}
    found = encoder.images(batch.pixels, tuple(shapes))
    blank = np.array([bool(reason) for reason in batch.reasons])
    features: dict[Level, FloatArray] = {}
    for level, shape in shapes.items():
        array = np.array(found[level], np.float32)
        if array.shape != (count, *shape):
            raise EmbedcalError(
                f"expected features of shape {(count, *shape)} at level {level}, found "
                f"{array.shape}: the encoder's meta.shapes and images() must agree"
            )
        array[blank] = 0
        features[level] = array
    return features


class _Store:
    """Features of a batch into the file, as stored; runs in the writing thread."""

    def __init__(self, writer: CacheWriter, manifest: Manifest, clock: Clock) -> None:
        self._writer, self._manifest, self._clock = writer, manifest, clock
        rows = {
            cast(Level, path.removeprefix("/images/")): stored
            for path, stored in writer.row_arrays.items()
            if path.startswith("/images/")
        }
        self._types = {level: stored.dtype for level, stored in rows.items()}
        self.levels = {level: stored.shape[1:] for level, stored in rows.items()}
        self._reason = writer.row_arrays["/samples/reason"].dtype

    def __call__(self, batch: PixelBatch, features: Mapping[Level, FloatArray]) -> None:
        with self._clock("write"):
            status = [UNREADABLE if reason else OK for reason in batch.reasons]
            reasons = [cut_reason(reason) for reason in batch.reasons]
            arrays: dict[str, npt.NDArray[Any]] = {
                "/samples/status": np.array(status, "|u1"),
                "/samples/reason": np.array(reasons, self._reason),
            }
            for level, array in features.items():
                arrays[f"/images/{level}"] = self._as_stored(level, array, batch.start)
            self._writer.write(arrays)

    def _as_stored(self, level: Level, array: FloatArray, start: int) -> FloatArray:
        with np.errstate(over="ignore"):
            stored = array.astype(self._types[level])
        for kept, what in ((array, "NaN or infinity"), (stored, "values beyond float16")):
            bad = np.flatnonzero(~np.isfinite(kept).reshape(len(kept), -1).all(axis=1))
            if len(bad):
                names = ", ".join(repr(self._manifest.ids[start + row]) for row in bad[:5])
                raise EmbedcalError(
                    f"expected finite features, found {what} at level {level} for {names}"
                    f"{' and more' if len(bad) > 5 else ''}: encode in fp32 and store float32"
                )
        return stored
