"""Grad-CAM of every test row from cached tokens, against hooks on the full RN50."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median

import numpy as np
import numpy.typing as npt
import torch
from encode import stock_model
from measure import Reading, Row, interleaved, quotients
from PIL import Image
from synthetic import WATERBIRDS, FeatureEncoder, manifest_of
from torch import Tensor
from torch.nn import functional as F

from embedcal.cache import BuildOptions, build_cache, open_cache
from embedcal.explaining.explainer import Explainer, explainer
from embedcal.types import FloatArray, IntArray, Level, Projection

CELLS, SIDE, WIDTH, HEADS, PIXELS = 49, 7, 2048, 32, 224
CLASSES = (0, 1)
BATCH = 8  # images through the full model at once
WANTED = 50.0


class TokenEncoder(FeatureEncoder):
    """RN50's tokens and the attention pool of a model; it draws its features."""

    def __init__(self, pool: Mapping[str, FloatArray]) -> None:
        super().__init__()
        self._pool = pool
        facts = vars(self.meta) | {
            "shapes": {"tokens": (CELLS, WIDTH), **self.meta.shapes},
            "preprocessing": {"size": [PIXELS, PIXELS], "resize_mode": "shortest"},
        }
        self.meta = type(self.meta)(**facts)

    def images(
        self, pixels: npt.NDArray[np.uint8], levels: Sequence[Level]
    ) -> Mapping[Level, FloatArray]:
        tokens = np.maximum(self._draw(len(pixels), CELLS, WIDTH), 0)  # as after a ReLU
        return {"tokens": tokens, **super().images(pixels, levels)}

    def projection(self) -> Projection:
        plain = vars(super().projection()) | {
            "image_weight": self._pool["c_proj.weight"],
            "image_bias": self._pool["c_proj.bias"],
        }
        return Projection(**plain | {"attnpool": self._pool, "attnpool_heads": HEADS})


def measure(*, quick: bool) -> list[Row]:
    """Two classes, zero-shot head, maps of 224 x 224; quick: 96 rows in place of all 5794."""
    rows = 96 if quick else WATERBIRDS[2]
    model = stock_model().float()
    pool = {k: v.detach().numpy().copy() for k, v in model.visual.attnpool.named_parameters()}
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        Image.new("RGB", (1, 1)).save(root / "pixel.png")
        counts = (2, 2, rows)
        manifest = manifest_of(root, ["pixel.png"] * sum(counts), np.repeat(np.arange(3), counts))
        options = BuildOptions(out=root / "tokens.h5", tokens=True)
        path = build_cache(manifest, TokenEncoder(pool), options=options).path
        with open_cache(path) as cache:
            ours = explainer(None, cache, pictures=None, device="cpu")
            asked = np.flatnonzero(cache.samples.split == 2)
            return [_row(ours, asked, _hooked(model, ours), quick=quick)]


def _row(ours: Explainer, rows: IntArray, full: Callable[[Tensor], Tensor], *, quick: bool) -> Row:
    pixels = torch.randn(BATCH, 3, PIXELS, PIXELS)
    few = rows[: min(len(rows), 96)]
    seconds = interleaved(
        {"ours": lambda: _all(ours, few), "hooks": lambda: full(pixels)},
        repetitions=2 if quick else 3,
    )
    each = {
        "ours": [value / len(few) for value in seconds["ours"]],
        "hooks": [value / BATCH for value in seconds["hooks"]],
    }
    began = time.perf_counter()
    _all(ours, rows)
    whole = time.perf_counter() - began
    return Row(
        name=f"Grad-CAM of {len(CLASSES)} classes, RN50, {PIXELS} x {PIXELS}",
        ours=Reading(what="from cached tokens", value=1 / median(each["ours"]), unit="images/s"),
        baseline=Reading(
            what="hooks on the full model", value=1 / median(each["hooks"]), unit="images/s"
        ),
        ratio=quotients(each["hooks"], each["ours"]),
        target=WANTED,
        note=(
            f"all {len(rows)} test rows took {whole:.0f} s; the full model {BATCH} images, which "
            f"makes {median(each['hooks']) * len(rows):.0f} s for all"
        ),
        facts={"seconds_all": whole, "rows": len(rows), "images_of_baseline": BATCH},
    )


def _all(ours: Explainer, rows: IntArray) -> None:
    for _ in ours.batches(rows, CLASSES):
        pass


def _hooked(model: torch.nn.Module, ours: Explainer) -> Callable[[Tensor], Tensor]:
    """Maps of images in memory: one pass forward, one pass back for each class.

    That is less than pytorch-grad-cam does, which goes forward again for each class; nothing is
    decoded either.
    """
    seen: dict[str, Tensor] = {}

    def forward(module: object, given: object, out: Tensor) -> None:
        seen["a"] = out
        out.register_hook(lambda gradient: seen.__setitem__("g", gradient))

    model.visual.layer4.register_forward_hook(forward)
    cache = ours.cache
    text = torch.tensor(cache.text("class").embedding)
    weight = 100 * F.normalize(F.normalize(text, dim=-1).mean(1), dim=-1)

    def scaled(maps: Tensor) -> Tensor:
        maps = maps - maps.amin((-2, -1), keepdim=True)
        return maps / (1e-7 + maps.amax((-2, -1), keepdim=True))

    def run(pixels: Tensor) -> Tensor:
        logits = F.normalize(model.encode_image(pixels), dim=-1) @ weight.T
        maps = []
        for c in CLASSES:
            model.zero_grad()
            logits[:, c].sum().backward(retain_graph=c < len(CLASSES) - 1)
            alpha = seen["g"].mean((2, 3), keepdim=True)
            small = (alpha * seen["a"].detach()).sum(1, keepdim=True).relu()
            maps.append(scaled(F.interpolate(scaled(small), (PIXELS, PIXELS), mode="bilinear")))
        return torch.cat(maps, dim=1)

    return run
