"""Small tasks of prompts and images, random from a seed, for methods that train nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from embedcal.types import Examples, Pair, Task, TextBank

D = 9


def draw(rng: np.random.Generator, *shape: int) -> Any:
    return rng.normal(size=shape).astype(np.float32)


def bank(name: str, embedding: Any, pairs: Sequence[Pair] = ()) -> TextBank:
    prompts, templates = embedding.shape[:2]
    return TextBank(
        name=name,
        prompts=tuple(f"{name} {p}" for p in range(prompts)),
        templates=tuple(f"{{}} {t}" for t in range(templates)),
        embedding=embedding,
        pairs=tuple(pairs),
    )


def prompted(
    pairs: Sequence[Pair] = ((0, 1, "reject"), (2, 3, "accept"), (4, 5, "equal")),
    *,
    classes: int = 2,
    values: int = 2,
    templates: int = 3,
    seed: int = 0,
    d: int = D,
) -> Task:
    """Banks class, attribute, context, group (class by class) and pairs; 40 images in train."""
    rng = np.random.default_rng(seed)
    sizes = {"class": classes, "attribute": values, "context": values, "group": classes * values}
    text = {name: bank(name, draw(rng, size, templates, d)) for name, size in sizes.items()}
    last = 1 + max((max(i, j) for i, j, _ in pairs), default=0)
    text["pairs"] = bank("pairs", draw(rng, last, 1, d), pairs)
    x = draw(rng, 40, d)
    return Task(
        train=Examples(split="train", arrays={"x": x}),
        val=Examples(split="val", arrays={}),
        text=text,
        projection=None,
        n_classes=classes,
        n_attributes=values,
        logit_scale=2.5,
    )


def nrm(x: Any) -> Any:
    """Rows to unit length, float64."""
    x = np.asarray(x, float)
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def mean_rows(embedding: Any) -> Any:
    """A prompt at a time: unit templates, their mean, brought to length one."""
    return np.stack([nrm(np.mean([nrm(e) for e in prompt], axis=0)) for prompt in embedding])


def logits(head: Any, x: Any) -> Any:
    import torch

    from embedcal.heads import predict

    return predict(head, torch.as_tensor(x)).numpy()
