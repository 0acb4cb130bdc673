"""Inputs of true size without weights or downloads: photographs, and a cache of RN50's shapes."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from embedcal.cache import BuildOptions, build_cache
from embedcal.datasets.manifest import Attribute, Manifest
from embedcal.encoders.base import EncoderMeta
from embedcal.types import FloatArray, Level, Projection

WIDTH, JOINT, TEXT_WIDTH, TEMPLATES = 2048, 1024, 512, 80  # of RN50
WATERBIRDS = (4795, 1199, 5794)  # rows of train, val and test


def photographs(folder: Path, count: int) -> tuple[Path, list[str]]:
    """A root and ``count`` paths below it: real photographs where there are some, else drawn ones.

    Real ones are the sample of Waterbirds in the folder that EMBEDCAL_TEST_DATA names, repeated
    as often as needed; drawn ones are 500 by 375 and as hard to decode.
    """
    real = Path(os.environ.get("EMBEDCAL_TEST_DATA", "/nonexistent")) / "waterbirds-sample"
    if real.is_dir():
        paths = sorted(p.relative_to(real).as_posix() for p in real.rglob("*.jpg"))
        return real, [paths[i % len(paths)] for i in range(count)]
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        coarse = Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8))
        smooth = np.asarray(coarse.resize((500, 375), Image.Resampling.BICUBIC), np.float32)
        grain = rng.normal(0, 8, (375, 500, 1)).astype(np.float32)
        picture = Image.fromarray(np.clip(smooth + grain, 0, 255).astype(np.uint8))
        picture.save(folder / f"{i:04d}.jpg", quality=90)
    return folder, [f"{i:04d}.jpg" for i in range(count)]


def manifest_of(root: Path, paths: Sequence[str], split: npt.NDArray[np.int64]) -> Manifest:
    """Rows of two classes and two attribute values, drawn as Waterbirds has them."""
    rng = np.random.default_rng(1)
    y = (rng.random(len(paths)) < 0.23).astype(np.int64)
    place = np.where(rng.random(len(paths)) < 0.95, y, 1 - y)
    return Manifest(
        name="benchmark",
        root=root,
        ids=tuple(str(i) for i in range(len(paths))),
        paths=tuple(paths),
        y=y,
        split=split,
        classes=("landbird", "waterbird"),
        attributes=(Attribute(name="place", values=("land", "water"), labels=place),),
        prompts={"class": ("landbird", "waterbird")},
    )


class FeatureEncoder:
    """An encoder of RN50's shapes that looks at no pixel and draws its features."""

    def __init__(self) -> None:
        self._rng = np.random.default_rng(2)
        self._weight = 0.02 * self._draw(JOINT, WIDTH)
        self.meta = EncoderMeta(
            name="RN50-shapes",
            weights="random:2",
            weights_sha256="0" * 64,
            library="none",
            preprocessing={"size": 1},
            precision="fp32",
            shapes={"pooled": (WIDTH,), "embedding": (JOINT,)},
            text_shapes={"pooled": (TEXT_WIDTH,), "embedding": (JOINT,)},
            context_length=77,
        )

    def _draw(self, *shape: int) -> npt.NDArray[np.float32]:
        return self._rng.standard_normal(shape, dtype=np.float32)

    def prepare(self, image: Image.Image) -> npt.NDArray[np.uint8]:
        return np.zeros((1, 1, 3), np.uint8)

    def images(
        self, pixels: npt.NDArray[np.uint8], levels: Sequence[Level]
    ) -> Mapping[Level, FloatArray]:
        pooled = self._draw(len(pixels), WIDTH)
        return {"pooled": pooled, "embedding": pooled @ self._weight.T}

    def text(self, prompts: Sequence[str]) -> Mapping[str, FloatArray]:
        n = len(prompts)
        return {"pooled": self._draw(n, TEXT_WIDTH), "embedding": self._draw(n, JOINT)}

    def projection(self) -> Projection:
        return Projection(
            image_weight=self._weight,
            image_bias=np.zeros(JOINT, np.float32),
            text_weight=self._draw(JOINT, TEXT_WIDTH),
            logit_scale=float(np.log(100.0)),
        )


def feature_cache(folder: Path, rows: tuple[int, int, int] = WATERBIRDS) -> Path:
    """A finished cache of RN50's shapes with so many rows in train, val and test.

    All rows name one picture of a single pixel, so that making it takes seconds.
    """
    folder.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (1, 1)).save(folder / "pixel.png")
    split = np.repeat(np.arange(3), rows)
    manifest = manifest_of(folder, ["pixel.png"] * sum(rows), split)
    templates = tuple(f"a photo of a {{}}, number {i}." for i in range(TEMPLATES))
    options = BuildOptions(out=folder / "features.h5", templates=templates)
    return build_cache(manifest, FeatureEncoder(), options=options).path
