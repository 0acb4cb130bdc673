"""The proof that a cache loses nothing: training over it equals training through frozen CLIP."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from open_clip import image_transform
from PIL import Image
from torch.nn import functional as F

from embedcal.cache import open_cache
from embedcal.encoders.tiny.model import load, tokenize
from embedcal.heads import ProjectionHead
from embedcal.methods.erm import ERM
from embedcal.train import batches, train
from embedcal.workbench import Workbench

STEPS, BATCH = 20, 16


@pytest.mark.parametrize("scope", ["image", "image+text_proj"])
def test_twenty_steps_over_the_cache_equal_twenty_through_the_images(
    birds: Path, scope: str
) -> None:
    """From the same start and in the same order, every trained weight agrees to 1e-5."""
    method = ERM(
        head="projection", scope=scope, optimizer="sgd", lr=0.05, momentum=0.9,
        weight_decay=1e-3, batch_size=BATCH, epochs=2,
    )  # fmt: skip
    with open_cache(birds) as cache:
        bench = Workbench(cache)
        train_split = bench.split("train", "pooled")
        rows = train_split.rows[: STEPS // 2 * BATCH]  # two epochs of ten steps
        task = bench.task(method)
        arrays = {name: array[: len(rows)] for name, array in task.train.arrays.items()}
        task = type(task)(**{**vars(task), "train": type(task.train)(split="train", arrays=arrays)})
        over_cache = train(method, task, seed=3)
        paths = [birds_root(birds) / cache.samples.paths[row] for row in rows]
        prompts = cache.text("class").prompts
        templates = cache.meta.templates

    clip = load().eval().requires_grad_(False)
    transform = image_transform(64, is_train=False)
    images = torch.stack([transform(Image.open(path)) for path in paths])
    y = torch.as_tensor(arrays["y"])
    trained = [clip.visual.attnpool.c_proj.weight, clip.visual.attnpool.c_proj.bias]
    trained += [clip.text_projection] if scope != "image" else []
    scale = torch.nn.Parameter(torch.tensor(1 / 0.07).log())
    for parameter in trained:
        parameter.requires_grad_(True)
    update = torch.optim.SGD([*trained, scale], lr=0.05, momentum=0.9, weight_decay=1e-3)
    tokens = tokenize([t.format(p) for p in prompts for t in templates])
    generator = torch.Generator().manual_seed(3)
    steps = 0
    for _ in range(method.epochs):
        for index in batches(method, task.train, generator):
            text = F.normalize(clip.encode_text(tokens), dim=-1)
            text = text.view(len(prompts), len(templates), -1)
            prototypes = F.normalize(text.mean(1), dim=-1)
            f = F.normalize(clip.encode_image(images[index]), dim=-1)
            loss = F.cross_entropy(scale.exp() * f @ prototypes.T, y[index])
            update.zero_grad()
            loss.backward()
            update.step()
            steps += 1
    assert steps == STEPS
    assert isinstance(over_cache, ProjectionHead)
    found = [over_cache.image_weight, over_cache.image_bias]
    if scope != "image":
        found.append(over_cache.text_weight)
        trained[-1] = trained[-1].T
    start = ProjectionHead.start(task.projection, task.bank("class"), scope=scope)
    moved = (start.image_weight - over_cache.image_weight).abs().max()
    assert moved > 1e-3  # otherwise equality would say nothing
    for ours, theirs in zip([*found, over_cache.logit_scale], [*trained, scale], strict=True):
        assert torch.allclose(ours, theirs, rtol=0, atol=1e-5 * max(1.0, top(theirs)))


def birds_root(cache: Path) -> Path:
    """The rendered images lie beside the caches, in the same home."""
    return cache.parent.parent / "birds" / "rows-600-seed-77"


def top(values: torch.Tensor) -> float:
    return float(values.detach().abs().max())
