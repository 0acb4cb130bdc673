"""Where a head puts images: its unit embeddings, or its logits where it has none of its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from jaxtyping import Float, Int

from embedcal.cache import FeatureCache
from embedcal.runs import Run, check_over
from embedcal.types import FloatArray, Level, Split

if TYPE_CHECKING:
    from embedcal.features import Features
    from embedcal.heads import Head
    from embedcal.workbench import Workbench

Space = Literal["embedding", "logits"]


@dataclass(frozen=True, kw_only=True)
class Placed:
    """The rows of a split as one head has them, and the classes it predicts (n,), if any.

    ``embedding``: ``x`` are unit vectors. ``logits``: the head is linear, so its embeddings are the
    frozen ones and a map of them would show nothing of it. ``x`` are then its logits less their
    mean over the classes. Half the squared distance of two rows f and h is then
    |W (f - h)|^2 / 2, W the weights less their mean over the classes: the frozen embeddings'
    distance, with what the head does not read left out and the rest weighed as it weighs it. Its
    biases drop out, and so does its temperature where only ratios of distances count.
    """

    space: Space
    x: Float[np.ndarray, "n d"]
    predicted: Int[np.ndarray, " n"] | None


def frozen_level(cache: FeatureCache) -> Level:
    """What stands for the frozen encoder: its embeddings, else the pooled vectors before them."""
    return "embedding" if "embedding" in cache.meta.levels else "pooled"


def unit(x: FloatArray) -> Float[np.ndarray, "n d"]:
    """Rows (n, d) of length 1; a row of zeros stays."""
    length = np.linalg.norm(x, axis=1, keepdims=True)
    found: Float[np.ndarray, "n d"] = x / np.maximum(length, 1e-12)
    return found


def placed(run: Run | None, on: Workbench, split: Split) -> Placed:
    """The rows of a split under a run's head, or zero-shot's for None, on the CPU.

    Raises EmbedcalError for a run over another cache, and for zero-shot without class prompts.
    """
    from embedcal.heads import ContextHead, LinearHead, TemplatesHead

    head = _head(run, on)
    embeddings, logits = _apply(head, on.features(split, head.level, "cpu"))
    predicted = logits.argmax(1)
    if isinstance(head, LinearHead | ContextHead | TemplatesHead):
        centred = logits.astype(np.float64)
        centred -= centred.mean(1, keepdims=True)
        return Placed(space="logits", x=centred, predicted=predicted)
    return Placed(space="embedding", x=embeddings, predicted=predicted)


def _head(run: Run | None, on: Workbench) -> Head:
    if run is None:
        from embedcal.methods.zeroshot import ZeroShot

        method = ZeroShot()
        return method.solve(on.task(method), 0)
    check_over(run, on.cache)
    return run.head()


def _apply(head: Head, features: Features) -> tuple[FloatArray, FloatArray]:
    """Embeddings (n, d) and logits (n, C), in batches that bound the memory; reads rows once."""
    import math

    import torch

    from embedcal.heads.prediction import ELEMENTS, ROWS

    head.eval()
    size = max(1, min(ROWS, ELEMENTS // max(1, math.prod(features.row_shape))))
    embeddings, logits = [], []
    with torch.no_grad():
        for part in features.split(size):
            embeddings.append(head.embed(part))
            logits.append(head(part))
    return torch.cat(embeddings).numpy(), torch.cat(logits).numpy()
