"""What was written, read again and held to the head that it came from."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from embedcal.types import EmbedcalError

if TYPE_CHECKING:
    from torch import Tensor

    from embedcal.encoders.clip import ClipEncoder
    from embedcal.heads import Head

TOLERANCE = 1e-4  # of the largest logit
PICTURES = 3  # of noise; not two, which an ONNX graph was traced with

Pixels = npt.NDArray[np.uint8]


def noise(encoder: ClipEncoder) -> Pixels:
    """Pictures (n, h, w, 3) of the encoder's size, coarse and fine, always the same."""
    height, width = encoder._size
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 200, (PICTURES, 4, 4, 3)).repeat(-(-height // 4), 1)
    coarse = coarse.repeat(-(-width // 4), 2)[:, :height, :width]
    return (coarse + rng.integers(0, 56, coarse.shape)).astype(np.uint8)


def logits_of(encoder: ClipEncoder, head: Head, pixels: Pixels) -> Tensor:
    """What a head makes of pictures (n, h, w, 3) by the way that a cache goes: logits (n, C)."""
    import torch

    from embedcal.heads import predict

    features = encoder.images(pixels, (head.level,))[head.level]
    return predict(head, torch.from_numpy(features))


def score_folder(folder: Path, pixels: Pixels) -> Tensor:
    """What the scoring script in a folder makes of pictures (n, h, w, 3): logits (n, C)."""
    import torch
    from PIL import Image

    from embedcal.exporting.score import Scorer

    scorer = Scorer(folder)
    # Without a crop: these are what is left of one.
    prepared = [scorer.preprocess(Image.fromarray(each)) for each in pixels]
    return scorer.logits(torch.stack(prepared))


def zero_to_one(pixels: Pixels) -> Tensor:
    """Pictures (n, h, w, 3) -> (n, 3, h, w) float32 from 0 to 1."""
    import torch

    return torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous().float() / 255


def held(found: Callable[[], Tensor], wanted: Tensor) -> tuple[float, float]:
    """The largest difference of ``found``'s logits (n, C), and the largest logit.

    Raises EmbedcalError where they differ by more than TOLERANCE of that, or by nothing that can
    be told.
    """
    logits = found()
    if logits.shape != wanted.shape:
        raise EmbedcalError(
            f"expected logits {tuple(wanted.shape)} of what was exported, found "
            f"{tuple(logits.shape)}: this is a bug, please report it"
        )
    difference, largest = float((logits - wanted).abs().max()), float(wanted.abs().max())
    if not difference <= TOLERANCE * max(1.0, largest):  # so that NaN is wrong too
        raise EmbedcalError(
            f"expected the run's own logits from what was exported, found a difference of "
            f"{difference:.2g} at a largest logit of {largest:.3g}: nothing was written; this is a "
            "bug, please report it"
        )
    return difference, largest
