"""A deterministic encoder in NumPy: it counts its calls, can be slow, and knows no torch."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from embedcal.datasets.manifest import Attribute, Manifest
from embedcal.encoders.base import EncoderMeta
from embedcal.types import Projection

SIZE = 8
D, W, WT, L, M = 6, 10, 7, 4, 5

OPTIONS = {"tokens": True, "batch_size": 8, "templates": ("a photo of a {}.", "{}")}


class NumpyEncoder:
    """Fixed random projections of 8 x 8 pixels. ``image_rows`` counts encoded rows."""

    def __init__(self, *, seed: int = 0, pause: float = 0.0, text: bool = True) -> None:
        rng = np.random.default_rng(seed)
        self.trunk = rng.normal(size=(SIZE * SIZE * 3, W)).astype(np.float32)
        self.image_weight = rng.normal(size=(D, W)).astype(np.float32)
        self.text_weight = rng.normal(size=(D, WT)).astype(np.float32)
        self.attnpool = rng.normal(size=(3, W)).astype(np.float32)
        self.cells = rng.normal(size=(SIZE * SIZE * 3, L * M)).astype(np.float32)
        self.pause, self.has_text = pause, text
        self.image_rows = self.text_rows = 0
        self.meta = EncoderMeta(
            name="numpy/tiny@8px",
            weights=f"random:{seed}",
            weights_sha256=hashlib.sha256(self.trunk.tobytes()).hexdigest(),
            library="numpy",
            preprocessing={"size": SIZE, "mode": "RGB"},
            precision="fp32",
            shapes={"tokens": (L, M), "pooled": (W,), "embedding": (D,)},
            text_shapes={"pooled": (WT,), "embedding": (D,)} if text else {},
            context_length=77 if text else 0,
        )

    def prepare(self, image: Image.Image) -> np.ndarray:
        return np.asarray(image.convert("RGB").resize((SIZE, SIZE), Image.Resampling.BICUBIC))

    def images(self, pixels: np.ndarray, levels: Sequence[str]) -> dict[str, np.ndarray]:
        self.image_rows += len(pixels)
        time.sleep(self.pause)
        x = pixels.reshape(len(pixels), -1).astype(np.float32) / 255 - 0.5
        # A mean over the batch makes features depend on its composition, as real ones may.
        pooled = np.einsum("nk,kw->nw", x, self.trunk) + x.mean()
        out = {
            "pooled": pooled,
            "embedding": np.einsum("nw,dw->nd", pooled, self.image_weight),
            "tokens": np.einsum("nk,kw->nw", x, self.cells).reshape(-1, L, M),
        }
        return {level: out[level] for level in levels}

    def text(self, prompts: Sequence[str]) -> dict[str, np.ndarray]:
        if not self.has_text:
            return {}
        self.text_rows += len(prompts)
        seeds = [int(hashlib.sha256(p.encode()).hexdigest()[:8], 16) for p in prompts]
        pooled = np.array([np.random.default_rng(s).normal(size=WT) for s in seeds], np.float32)
        return {"pooled": pooled, "embedding": pooled @ self.text_weight.T}

    def projection(self) -> Projection | None:
        return Projection(
            image_weight=self.image_weight,
            text_weight=self.text_weight if self.has_text else None,
            logit_scale=4.6,
            attnpool={"q_proj.weight": self.attnpool},
            attnpool_heads=2,
        )


def make_images(root: Path, n: int, *, seed: int = 0) -> tuple[str, ...]:
    """n small PNG files of noise below ``root``; their relative paths."""
    rng = np.random.default_rng(seed)
    paths = []
    for i in range(n):
        path = root / f"set{i % 3}" / f"{i:04d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (11, 9, 3), dtype=np.uint8)).save(path)
        paths.append(path.relative_to(root).as_posix())
    return tuple(paths)


def make_manifest(root: Path, paths: Sequence[str], **changes: object) -> Manifest:
    """Two classes, two attributes (one with unknown values), all three splits."""
    i = np.arange(len(paths))
    fields: dict[str, object] = {
        "name": "birds of a feather",
        "root": root,
        "ids": tuple(f"id-{path}" for path in paths),
        "paths": tuple(paths),
        "y": i % 2,
        "split": i % 5 % 3,
        "classes": ("landbird", "wäterbird"),
        "attributes": (
            Attribute(name="place", values=("land", "water"), labels=i // 2 % 2),
            Attribute(name="a/b .", values=("u", "v", "w"), labels=i % 4 - 1),
        ),
        "prompts": {"class": ("a landbird", "a waterbird"), "attribute": ("land", "water", "x")},
        "warnings": ("group 3 is small",),
    }
    return Manifest(**{**fields, **changes})  # type: ignore[arg-type]
