"""What an encoder is: a frozen trunk, a trainable projection, and facts about both.

NumPy stands at the border, so that the cache knows nothing of torch and an encoder can be
written in anything. Inside, an encoder does as it likes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from embedcal.types import FloatArray, Level, Projection

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True, kw_only=True)
class EncoderMeta:
    """Facts about an encoder that decide what its features are; all of it is part of identity."""

    name: str  # as typed by users of open_clip: "RN50", "ViT-B-32", "tiny"
    weights: str  # the pretrained tag, a file's name, or "random:SEED"
    weights_sha256: str
    library: str  # e.g. "open_clip 3.3.0"
    preprocessing: Mapping[str, Any]  # JSON-able
    precision: str  # arithmetic: "fp32", "bf16", "fp16"; of another runtime: "fp32-openvino"
    shapes: Mapping[Level, tuple[int, ...]]  # per row: {"pooled": (2048,), "embedding": (1024,)}
    text_shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)  # empty: image only
    context_length: int = 0

    @property
    def has_text(self) -> bool:
        return bool(self.text_shapes)


@runtime_checkable
class Encoder(Protocol):
    """A frozen encoder. Three image levels, two text levels, one projection."""

    @property
    def meta(self) -> EncoderMeta: ...

    def prepare(self, image: Image) -> npt.NDArray[np.uint8]:
        """One decoded picture, as PIL opened it -> pixels (h, w, 3), uint8, not yet normalised."""
        ...

    def images(
        self, pixels: npt.NDArray[np.uint8], levels: Sequence[Level]
    ) -> Mapping[Level, FloatArray]:
        """Pixels (b, h, w, 3) uint8 -> float32 features of each level asked for, un-normalised."""
        ...

    def text(self, prompts: Sequence[str]) -> Mapping[str, FloatArray]:
        """Prompts -> {"pooled": (n, wt), "embedding": (n, d)} float32; empty if image-only."""
        ...

    def projection(self) -> Projection | None:
        """The weights between pooled and embedding, or None where there are none."""
        ...
