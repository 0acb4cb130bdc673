"""The proof that a cache loses nothing: training over it equals training through frozen CLIP."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from open_clip import image_transform
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from embedcal.cache import BuildOptions, FeatureCache, open_cache
from embedcal.caching import cache
from embedcal.datasets.options import ReadOptions
from embedcal.encoders.tiny.model import load, tokenize
from embedcal.methods.erm import ERM
from embedcal.train import train
from embedcal.types import Examples, Task
from embedcal.workbench import Workbench

STEPS, BATCH = 20, 16


@pytest.fixture(scope="module")
def tokens(birds: Path) -> Path:
    """The birds again, with their tokens as float32."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EMBEDCAL_HOME", str(birds.parent.parent))
        build = BuildOptions(tokens=True, store_tokens="float32")
        return cache(
            "birds", backbone="tiny", read=ReadOptions(rows=600, seed=77), build=build,
            out=birds.parent.parent / "tokens.h5",
        ).path  # fmt: skip


@pytest.mark.parametrize("scope", ["image", "image+text_proj"])
@pytest.mark.parametrize("head", ["projection", "attnpool"])
def test_twenty_steps_over_the_cache_equal_twenty_through_the_images(
    tokens: Path, head: str, scope: str
) -> None:
    """From the same start and in the same order, every trained weight agrees to 1e-5."""
    method = ERM(
        head=head, scope=scope, optimizer="sgd", lr=0.05, momentum=0.9,
        weight_decay=1e-3, batch_size=BATCH, epochs=2,
    )  # fmt: skip
    with open_cache(tokens) as cache:
        task = first_rows(Workbench(cache).task(method), STEPS // 2 * BATCH)
        trained = train(method, task, seed=3).state_dict()
        start = method.start_head(task, torch.Generator()).state_dict()
        by_hand = through_the_images(method, task, cache)

    theirs = {"logit_scale": by_hand["logit_scale"]}
    if scope != "image":
        theirs["text_weight"] = by_hand["text_projection"].T
    if head == "attnpool":
        theirs |= {name: by_hand[name] for name in trained if name not in {*theirs, "text"}}
    else:
        theirs["image_weight"] = by_hand["c_proj.weight"]
        theirs["image_bias"] = by_hand["c_proj.bias"]
    assert set(trained) == {*theirs, "text"}
    for name, ours in trained.items():
        if name == "text":  # what the prompts are encoded to: not trained
            continue
        limit = 1e-5 * max(1.0, float(theirs[name].abs().max()))
        torch.testing.assert_close(ours, theirs[name], rtol=0, atol=limit, msg=name)
        if name != "k_proj.bias":  # its gradient is zero; weight decay alone moves it
            assert float((ours - start[name]).abs().max()) > 20 * limit, name


def first_rows(task: Task, n: int) -> Task:
    arrays = {name: array[:n] for name, array in task.train.arrays.items()}
    return replace(task, train=Examples(split="train", arrays=arrays))


def through_the_images(method: ERM, task: Task, cache: FeatureCache) -> dict[str, Tensor]:
    """The same steps in open_clip's own modules, from pixels and prompts: trained tensors."""
    n = len(task.train)
    rows = cache.split("train", "pooled").rows[:n]
    root = cache.meta.path.parent / "birds" / "rows-600-seed-77"
    transform = image_transform(64, is_train=False)
    images = torch.stack([transform(Image.open(root / cache.samples.paths[row])) for row in rows])
    prompts, templates = cache.text("class").prompts, cache.meta.templates
    clip = load().eval().requires_grad_(False)
    pool = dict(clip.visual.attnpool.named_parameters())
    if method.head == "projection":
        pool = {name: pool[name] for name in ("c_proj.weight", "c_proj.bias")}
    scale = nn.Parameter(torch.tensor(1 / 0.07).log())
    trained = {**pool, "logit_scale": scale}
    if method.scope != "image":
        trained["text_projection"] = clip.text_projection
    for parameter in trained.values():
        parameter.requires_grad_(True)
    update = torch.optim.SGD(trained.values(), lr=0.05, momentum=0.9, weight_decay=1e-3)
    tokens = tokenize([t.format(p) for p in prompts for t in templates])
    y = torch.as_tensor(task.train.y)
    generator = torch.Generator().manual_seed(3)
    for epoch in range(method.epochs):
        for step in method.steps(task, None, epoch + 1, generator):
            text = F.normalize(clip.encode_text(tokens), dim=-1)
            text = text.view(len(prompts), len(templates), -1)
            prototypes = F.normalize(text.mean(1), dim=-1)
            f = F.normalize(clip.encode_image(images[step.batch]), dim=-1)
            loss = F.cross_entropy(scale.exp() * f @ prototypes.T, y[step.batch])
            update.zero_grad()
            loss.backward()
            update.step()
    return {name: parameter.detach() for name, parameter in trained.items()}
