"""Images in batches: threads read, hash and decode the next batches while one is encoded."""

from __future__ import annotations

import hashlib
import time
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from embedcal.cache.digests import read_regular
from embedcal.encoders.decode import UnreadableImageError, decode
from embedcal.types import EmbedcalError

if TYPE_CHECKING:
    from PIL.Image import Image

_AHEAD = 2  # batches being decoded besides the one being encoded: memory stays below four


class ChangedFileError(EmbedcalError):
    """A file's bytes are no longer those that the identity was made from."""

    def __init__(self, path: Path) -> None:
        self.path = path
        super().__init__(
            f"expected the bytes that were hashed a moment ago, found others in {path}: let "
            "nothing write there and run the same command again"
        )


@dataclass(frozen=True, kw_only=True)
class PixelBatch:
    """Rows ``start`` to ``start + len(reasons)``.

    ``pixels`` (b, h, w, 3) uint8, zeros for unreadable rows, None when every row is unreadable;
    ``reasons`` is empty text for readable rows; ``seconds`` is the threads' time over their number.
    """

    start: int
    pixels: npt.NDArray[np.uint8] | None
    reasons: tuple[str, ...]
    seconds: float


@dataclass(frozen=True)
class _Image:
    pixels: npt.NDArray[np.uint8] | None
    reason: str
    seconds: float


def read_batches(
    paths: Sequence[Path],
    digests: npt.NDArray[np.uint8],
    prepare: Callable[[Image], npt.NDArray[np.uint8]],
    *,
    start: int,
    batch_size: int,
    workers: int,
) -> Generator[PixelBatch, None, None]:
    """Batches from row ``start`` on, in order, each cut at a multiple of ``batch_size``."""
    starts = iter(range(start, len(paths), batch_size))
    pool = ThreadPoolExecutor(workers, thread_name_prefix="decode")
    queue: deque[tuple[int, list[Future[_Image]]]] = deque()

    def submit() -> None:
        first = next(starts, None)
        if first is not None:
            rows = range(first, min(first + batch_size, len(paths)))
            futures = [
                pool.submit(_read_image, paths[i], digests[i].tobytes(), prepare) for i in rows
            ]
            queue.append((first, futures))

    try:
        for _ in range(_AHEAD):
            submit()
        while queue:
            first, futures = queue.popleft()
            images = [future.result() for future in futures]
            del futures
            submit()
            yield _stack(first, images, workers)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _read_image(
    path: Path, wanted: bytes, prepare: Callable[[Image], npt.NDArray[np.uint8]]
) -> _Image:
    began = time.perf_counter()
    try:
        data = read_regular(path)
    except (OSError, ValueError) as error:
        if wanted != bytes(32):
            raise ChangedFileError(path) from error
        return _Image(None, _reason(error), time.perf_counter() - began)
    if hashlib.sha256(data).digest() != wanted:
        raise ChangedFileError(path)
    try:
        pixels = decode(data, prepare)
    except UnreadableImageError as error:
        return _Image(None, error.reason, time.perf_counter() - began)
    return _Image(pixels, "", time.perf_counter() - began)


def _reason(error: OSError | ValueError) -> str:
    return (getattr(error, "strerror", None) or str(error)).lower() or "unreadable"


def _stack(start: int, images: list[_Image], workers: int) -> PixelBatch:
    shapes = {image.pixels.shape for image in images if image.pixels is not None}
    if len(shapes) > 1:
        raise EmbedcalError(
            f"expected the encoder's prepare to give pictures of one size, found {sorted(shapes)}: "
            "resize and crop in prepare"
        )
    pixels = None
    if shapes:
        pixels = np.zeros((len(images), *shapes.pop()), np.uint8)
        for row, image in zip(pixels, images, strict=True):
            if image.pixels is not None:
                row[...] = image.pixels
    return PixelBatch(
        start=start,
        pixels=pixels,
        reasons=tuple(image.reason for image in images),
        seconds=sum(image.seconds for image in images) / workers,
    )
