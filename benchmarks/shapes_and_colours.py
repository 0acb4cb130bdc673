"""An encoder without a text tower: the ink of a picture on a coarse grid, and its mean colour."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image

from embedcal.encoders.base import EncoderMeta

SIDE = 14


class ShapesAndColours:
    """Brightness on a grid of 14 x 14, and the mean of each colour channel: 199 numbers."""

    meta = EncoderMeta(
        name="shapes-and-colours",
        weights="none",
        weights_sha256="",
        library="numpy",
        preprocessing={"size": SIDE},
        precision="fp32",
        shapes={"embedding": (SIDE * SIDE + 3,)},
    )

    def prepare(self, image: Image.Image) -> np.ndarray:
        return np.array(image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BOX))

    def images(self, pixels: np.ndarray, levels: Sequence[str]) -> Mapping[str, np.ndarray]:
        shares = pixels.astype(np.float32) / 255
        ink = shares.max(axis=3).reshape(len(pixels), -1)
        return {"embedding": np.concatenate([ink, shares.mean(axis=(1, 2))], axis=1)}

    def text(self, prompts: Sequence[str]) -> Mapping[str, np.ndarray]:
        return {}

    def projection(self) -> None:
        return None
