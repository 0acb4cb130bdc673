"""Small tasks with every kind of input, made of random numbers from a seed."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from embedcal.heads import LinearHead
from embedcal.methods.base import Staged
from embedcal.types import Examples, Projection, Task, TextBank

W, D, T, V = 7, 5, 4, 6  # before and after the projection, templates, text width


def small_task(
    n: int = 60, *, classes: int = 2, attributes: int = 2, seed: int = 0, errors: bool = True
) -> Task:
    """n rows of random features; with ``errors`` a stage that is wrong about a third of them."""
    rng = np.random.default_rng(seed)

    def draw(*shape: int) -> Any:
        return rng.normal(size=shape).astype(np.float32)

    projection = Projection(
        image_weight=draw(D, W), image_bias=draw(D), text_weight=draw(D, V), logit_scale=4.6
    )
    y, a = rng.integers(classes, size=n), rng.integers(attributes, size=n)
    y[:classes], a[:attributes] = np.arange(classes), np.arange(attributes)

    def split(name: Any) -> Examples:
        x = draw(n, W)
        arrays = {"x": x, "y": y, "g": y * attributes + a, "pooled": x}
        arrays["embedding"] = x @ projection.image_weight.T + projection.image_bias
        return Examples(split=name, arrays=arrays)

    def bank(name: str, prompts: int) -> TextBank:
        pooled = draw(prompts, T, V)
        return TextBank(
            name=name,
            prompts=tuple(f"{name} {k}" for k in range(prompts)),
            templates=tuple(f"{{}} {t}" for t in range(T)),
            pooled=pooled,
            embedding=pooled @ projection.text_weight.T,
        )

    wrong = np.arange(n) % 3 == 0 if errors else np.zeros(n, bool)
    guess = np.where(wrong, (y + 1) % classes, y)
    logits = torch.nn.functional.one_hot(torch.from_numpy(guess), classes).float()
    head = LinearHead(
        torch.zeros(classes, W), torch.zeros(classes), normalise=False, level="pooled"
    )
    return Task(
        train=split("train"),
        val=split("val"),
        text={
            "class": bank("class", classes),
            "attribute": bank("attribute", attributes),
            "context": bank("context", attributes),
        },
        projection=projection,
        n_classes=classes,
        n_attributes=attributes,
        stage=Staged(head=head, logits=logits),
    )


def nrm(x: Any) -> Any:
    """Rows to unit length."""
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def embed(task: Task, x: Any) -> Any:
    """Unit embeddings (n, D) through the pretrained projection, in float64."""
    p = task.projection
    assert p is not None
    return nrm(x.astype(float) @ p.image_weight.T.astype(float) + p.image_bias)
