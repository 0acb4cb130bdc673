"""Images in batches as the encoder sees them: threads decode ahead of whoever asks."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import numpy.typing as npt

from embedcal.cache.cropping import Prepare
from embedcal.cache.digests import read_regular
from embedcal.encoders.decode import UnreadableImageError, decode
from embedcal.predicting.images import Listed
from embedcal.types import EmbedcalError

AHEAD = 2  # batches being decoded besides the one in use: memory stays below four


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Some images in order: ``pixels`` (b, h, w, 3) uint8, None where no row has any.

    ``wanted`` is False for rows that the caller passed over, ``reasons`` says why a wanted one
    cannot be used; both have zero pixels, so that their neighbours are computed in a batch of the
    same size, and come out the same, whether a row was passed over or not.
    """

    images: tuple[Listed, ...]
    wanted: tuple[bool, ...]
    reasons: tuple[str, ...]
    pixels: npt.NDArray[np.uint8] | None


def batches(
    images: Iterator[Listed],
    prepare: Prepare,
    *,
    wanted: Callable[[Listed], bool],
    batch_size: int,
    workers: int,
) -> Generator[Batch, None, None]:
    """All images, ``batch_size`` at a time; those that are not ``wanted`` are not opened."""
    pool = ThreadPoolExecutor(workers, thread_name_prefix="decode")
    queue: deque[tuple[tuple[Listed, ...], list[Future[_Read] | None]]] = deque()

    def submit() -> None:
        some = tuple(islice(images, batch_size))
        if some:
            jobs = [
                pool.submit(_read, each.file, prepare) if wanted(each) else None for each in some
            ]
            queue.append((some, jobs))

    try:
        for _ in range(AHEAD):
            submit()
        while queue:
            some, jobs = queue.popleft()
            read = [None if job is None else job.result() for job in jobs]
            del jobs
            submit()
            yield _batch(some, read)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


@dataclass(frozen=True)
class _Read:
    pixels: npt.NDArray[np.uint8] | None
    reason: str


def _read(path: Path, prepare: Prepare) -> _Read:
    try:
        return _Read(decode(read_regular(path), prepare), "")
    except UnreadableImageError as error:
        return _Read(None, error.reason)
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or str(error)
        return _Read(None, why.lower() or "unreadable")


def _batch(images: tuple[Listed, ...], read: list[_Read | None]) -> Batch:
    shapes = {each.pixels.shape for each in read if each is not None and each.pixels is not None}
    if len(shapes) > 1:
        raise EmbedcalError(
            f"expected the encoder's prepare to give pictures of one size, found {sorted(shapes)}: "
            "resize and crop in prepare"
        )
    pixels = None
    if shapes:
        pixels = np.zeros((len(images), *shapes.pop()), np.uint8)
        for row, each in zip(pixels, read, strict=True):
            if each is not None and each.pixels is not None:
                row[...] = each.pixels
    return Batch(
        images=images,
        wanted=tuple(each is not None for each in read),
        reasons=tuple("" if each is None else each.reason for each in read),
        pixels=pixels,
    )
