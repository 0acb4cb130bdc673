"""How fast this machine is at what embedcal does all day, in ten seconds at most."""

from __future__ import annotations

import io
import os
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from embedcal.doctor.places import nearest, scratch

if TYPE_CHECKING:
    from embedcal.encoders.base import Encoder

SECONDS = 10.0  # for all of it, loading the encoder included
EACH = 1.0
SIDE = 768  # of the matrices
CHUNK = 2**24  # bytes
ROOM = 2**30  # bytes that have to be free before anything is written to try the disk
PICTURE = (500, 375)  # pixels: a photograph of Waterbirds is about that
BATCH = 64

Step = Callable[[int, int], None]  # done, of how many


@dataclass(frozen=True, kw_only=True)
class Speed:
    """Rates; None for what was not measured, with the reason in ``left_out`` by name.

    ``product`` (all of torch's threads), ``product_alone`` (one) and ``product_bf16`` in GFLOP/s,
    multiplication and addition counted as two. ``write`` (with fsync) and ``read`` in MB/s, in the
    folder of embedcal's data; ``read`` may come from memory where the system does not let go of it.
    ``decode`` photographs of 500 x 375 pixels a second by one thread; ``encode`` pictures of 64
    pixels a second through the tiny CLIP.
    """

    product: float | None = None
    product_alone: float | None = None
    product_bf16: float | None = None
    write: float | None = None
    read: float | None = None
    decode: float | None = None
    encode: float | None = None
    seconds: float = 0.0
    left_out: Mapping[str, str] = field(default_factory=dict)


class _Budget:
    """What is left of the ten seconds, and how long one measurement may take of them."""

    def __init__(self, seconds: float) -> None:
        self._began = time.perf_counter()
        self._end = self._began + seconds

    def each(self) -> float:
        left = self._end - time.perf_counter()
        if left <= 0:
            raise TimeoutError("no time left")
        return min(EACH, left)

    @property
    def used(self) -> float:
        return time.perf_counter() - self._began


def measure(home: Path, *, seconds: float = SECONDS, step: Step = lambda done, of: None) -> Speed:
    """Every rate, each for a second or less; what fails is left out and says why.

    ``home`` need not be there; then the disk is tried in the nearest folder above.
    """
    budget = _Budget(seconds)
    parts: tuple[Callable[[_Budget, Path], Mapping[str, float]], ...] = (
        _products,
        _pictures,
        _disk,
    )
    found: dict[str, float] = {}
    left_out: dict[str, str] = {}
    for done, part in enumerate(parts):
        step(done, len(parts))
        try:
            found |= part(budget, home)
        except Exception as error:  # a machine in trouble is what this is for
            said = " ".join(f"{type(error).__name__}: {error}".split())
            left_out[part.__name__.strip("_")] = said[:200]
    step(len(parts), len(parts))
    return Speed(**found, seconds=budget.used, left_out=left_out)


def rate(work: Callable[[], Any], amount: float, seconds: float) -> float:
    """``amount`` a second that ``work`` does, over so many seconds after a first go."""
    work()
    count, began = 0, time.perf_counter()
    while (spent := time.perf_counter() - began) < seconds or not count:
        work()
        count += 1
    return amount * count / spent


def _products(budget: _Budget, home: Path) -> dict[str, float]:
    import torch

    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(SIDE, SIDE, generator=generator) for _ in range(2))
    billions = 2 * SIDE**3 / 1e9
    found = {"product": rate(lambda: a @ b, billions, budget.each())}
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        found["product_alone"] = rate(lambda: a @ b, billions, budget.each())
    finally:
        torch.set_num_threads(threads)
    c, d = a.bfloat16(), b.bfloat16()
    found["product_bf16"] = rate(lambda: c @ d, billions, budget.each() / 2)
    return found


def _pictures(budget: _Budget, home: Path) -> dict[str, float]:
    from embedcal.encoders.decode import decode
    from embedcal.encoders.load import load_encoder

    encoder: Encoder = load_encoder("tiny")
    data = photograph()
    pixels = np.stack([decode(data, encoder.prepare)] * BATCH)
    return {
        "decode": rate(lambda: decode(data, encoder.prepare), 1, budget.each()),
        "encode": rate(lambda: encoder.images(pixels, ("embedding",)), BATCH, budget.each()),
    }


def photograph() -> bytes:
    """A JPEG about as large as a photograph of that size: soft shapes under a little noise."""
    from PIL import Image

    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (12, 16, 3), dtype=np.uint8)
    soft = Image.fromarray(coarse).resize(PICTURE, Image.Resampling.BICUBIC)
    noisy = np.asarray(soft) + rng.normal(0, 8, (PICTURE[1], PICTURE[0], 3))
    out = io.BytesIO()
    Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(out, "JPEG", quality=90)
    return out.getvalue()


def _disk(budget: _Budget, home: Path) -> dict[str, float]:
    """Written in pieces, each of them forced to the disk; then read, past memory where one may."""
    import shutil

    folder = nearest(home)
    if shutil.disk_usage(folder).free < ROOM:
        raise OSError(f"less than {ROOM >> 20} MB free")
    piece = os.urandom(CHUNK)
    with scratch(folder) as inside, (inside / "pieces").open("w+b", buffering=0) as file:

        def write() -> None:
            file.seek(0)  # over itself: a fast disk is not filled
            file.write(piece)
            os.fsync(file.fileno())

        def read() -> None:
            with suppress(AttributeError, OSError):  # not on macOS and Windows
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            file.seek(0)
            file.read(CHUNK)

        return {
            "write": rate(write, CHUNK / 1e6, budget.each()),
            "read": rate(read, CHUNK / 1e6, budget.each() / 2),
        }
