"""Grad-CAM as it is usually done: hooks on the whole tower, one image and one class at a time."""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F


def scaled(values: np.ndarray) -> np.ndarray:
    values = values - values.min()
    return values / (1e-7 + values.max())


def hooked(
    tower: nn.Module,
    pixels: np.ndarray,
    layer: nn.Module,
    logits: Callable[[Tensor], Tensor],
    classes: list[int],
) -> tuple[np.ndarray, np.ndarray]:
    """Maps (n, C, H, W) and logits (n, K) of ``logits(tower(x))`` in float64."""
    mean = torch.tensor((0.48145466, 0.4578275, 0.40821073), dtype=torch.float64)
    std = torch.tensor((0.26862954, 0.26130258, 0.27577711), dtype=torch.float64)
    seen: dict[str, Tensor] = {}

    def forward(module: nn.Module, given: object, out: Tensor) -> None:
        seen["a"] = out
        out.register_hook(lambda gradient: seen.__setitem__("g", gradient))

    handle = layer.register_forward_hook(forward)
    maps, outputs, conditions = [], [], []
    for image in pixels:
        x = ((torch.tensor(image, dtype=torch.float64) / 255 - mean) / std).permute(2, 0, 1)[None]
        own, condition = [], []
        for c in classes:
            tower.zero_grad()
            out = logits(tower(x))
            out[0, c].backward()
            a, g = seen["a"].detach()[0], seen["g"][0]
            if a.ndim == 2:  # (1 + h * w, channels) of a ViT
                side = int((len(a) - 1) ** 0.5)
                a = a[1:].T.reshape(-1, side, side)
                g = g[1:].T.reshape(-1, side, side)
            total, magnitude = np.zeros(tuple(a.shape[1:])), np.zeros(tuple(a.shape[1:]))
            for k in range(len(a)):
                term = float(g[k].mean()) * a[k].numpy()
                total, magnitude = total + term, magnitude + np.abs(term)
            small = scaled(np.maximum(total, 0))
            condition.append(magnitude.max() / max(np.ptp(np.maximum(total, 0)), 1e-300))
            large = F.interpolate(torch.tensor(small)[None, None], image.shape[:2], mode="bilinear")
            own.append(scaled(large[0, 0].numpy()))
        maps.append(own)
        conditions.append(condition)
        outputs.append(out.detach()[0].numpy())
    handle.remove()
    return np.array(maps), np.array(outputs), np.array(conditions)


def doubled(tower: nn.Module) -> nn.Module:
    """A copy in float64, in evaluation mode."""
    return copy.deepcopy(tower).double().eval().requires_grad_(True)


def pooled(tower: nn.Module) -> nn.Module:
    """A copy that stops before its projection."""
    tower = doubled(tower)
    if hasattr(tower, "attnpool"):
        width = tower.attnpool.c_proj.weight.shape[1]
        tower.attnpool.c_proj = nn.Linear(width, width, dtype=torch.float64)
        with torch.no_grad():
            tower.attnpool.c_proj.weight.copy_(torch.eye(width))
            tower.attnpool.c_proj.bias.zero_()
    else:
        tower.proj = None
    return tower
