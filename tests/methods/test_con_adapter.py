"""Contrastive adapters: blocks against blocks one by one, sets by their definitions, the loss."""

from __future__ import annotations

import copy
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from embedcal.cache import open_cache
from embedcal.cache.importing import import_features
from embedcal.fitting import configure, fit
from embedcal.heads import AdapterHead
from embedcal.methods._blocks import block_forms
from embedcal.methods.con_adapter import (
    KINDS,
    ConAdapter,
    Plan,
    block_cosines,
    rows_and_places,
)
from embedcal.train import Data
from embedcal.types import EmbedcalError, Examples, Task, TextBank

D = 12


def bank(n_classes: int, d: int = D) -> TextBank:
    e = np.random.default_rng(n_classes).normal(size=(n_classes, 3, d)).astype(np.float32)
    return TextBank(
        name="class", prompts=tuple("abcdef"[:n_classes]), templates=("1", "2", "3"), embedding=e
    )


def world(n_classes: int = 3, n: int = 240, *, seed: int = 0) -> dict[str, np.ndarray]:
    """Rows that lie between two prompts, of classes that zero-shot mostly gets right."""
    rng = np.random.default_rng([seed, n_classes])
    y = rng.choice(n_classes, size=n, p=np.arange(1, n_classes + 1) / sum(range(n_classes + 1)))
    a = np.where(rng.random(n) < 0.75, y, rng.integers(n_classes, size=n))
    e = unit(bank(n_classes).embedding).mean(1)
    x = 2 * e[a] + e[y] + 0.3 * rng.normal(size=(n, D))
    return {"x": x.astype(np.float32), "y": y}


def unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def predicted(data: dict[str, np.ndarray], n_classes: int) -> np.ndarray:
    prototypes = unit(unit(bank(n_classes).embedding).mean(1))
    return np.array([int(np.argmax([f @ p for p in prototypes])) for f in unit(data["x"])])


def task_of(data: dict[str, np.ndarray], n_classes: int = 3) -> Task:
    return Task(
        train=Examples(split="train", arrays=data),
        val=Examples(split="val", arrays={}),
        text={"class": bank(n_classes)},
        projection=None,
        n_classes=n_classes,
        n_attributes=1,
    )


def method(**options: Any) -> ConAdapter:
    few = {"positives": 20, "negatives": 15, "neighbours": 40, "batch_size": 11, "cell_size": 30}
    found = configure("con-adapter", {**few, **options})
    assert isinstance(found, ConAdapter)
    return found


def steps_of(adapter: ConAdapter, task: Task, epoch: int, seed: int = 0) -> tuple[Plan, list[Any]]:
    plan = adapter.prepare(task, torch.Generator().manual_seed(seed))
    return plan, list(adapter.steps(task, plan, epoch, torch.Generator().manual_seed(seed)))


# -- blocks ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
@pytest.mark.parametrize(("m", "b"), [(1, 2), (7, 9), (4, 60)])
@pytest.mark.parametrize("numbers", [1, 3 * 9 * 16, 2**19])  # a block at a time, three, all
def test_blocks_together_are_blocks_one_after_the_other(
    dtype: torch.dtype,
    tolerance: float,
    m: int,
    b: int,
    numbers: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("embedcal.methods._blocks.NUMBERS", numbers)
    generator = torch.Generator().manual_seed(m)
    plain = AdapterHead.start(bank(2), generator, hidden=16)
    with torch.no_grad():
        plain.norm_bias.uniform_(-1, 1, generator=generator)
        plain.norm_weight.uniform_(0.5, 2, generator=generator)
        plain.get_buffer("running_mean").normal_(generator=generator)
    plain = plain.to(dtype).train()
    joint = copy.deepcopy(plain)
    x = torch.randn(30, D, generator=generator, dtype=dtype)
    blocks = torch.randint(30, (m, b), generator=generator)
    weights = torch.randn(m, b - 1, generator=generator, dtype=dtype)
    embedded = [plain.embed(x[block]) for block in blocks]
    expected = torch.stack([z[1:] @ z[0] for z in embedded])
    found = block_cosines(joint, x, blocks)
    torch.testing.assert_close(found, expected, rtol=0, atol=tolerance)
    (weights * expected).sum().backward()
    (weights * found).sum().backward()
    for (name, p), (_, q) in zip(plain.named_parameters(), joint.named_parameters()):
        torch.testing.assert_close(
            q.grad, p.grad, rtol=10 * tolerance, atol=20 * tolerance, msg=name
        )
    for (name, p), (_, q) in zip(plain.named_buffers(), joint.named_buffers()):
        torch.testing.assert_close(q, p, rtol=tolerance, atol=tolerance, msg=name)


@pytest.mark.parametrize("numbers", [1, 2**19])
def test_the_forms_of_blocks_have_the_gradient_of_finite_differences(
    numbers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("embedcal.methods._blocks.NUMBERS", numbers)
    generator = torch.Generator().manual_seed(0)
    shapes = ((6, 3), (3,), (3,), (3, 3), (3,))
    hidden, gain, shift, w, q = (
        torch.randn(*shape, generator=generator, dtype=torch.float64) for shape in shapes
    )
    blocks = torch.tensor([[0, 1, 2, 3, 3], [5, 4, 1, 0, 2]])  # a row twice in one, and in both

    def forms(*given: Tensor) -> tuple[Tensor, ...]:
        hidden, gain, shift, w, q = given
        return tuple(block_forms(hidden, blocks, gain, shift, w.T @ w, q))[:3]

    inputs = tuple(each.requires_grad_() for each in (hidden, gain, shift, w, q))
    assert torch.autograd.gradcheck(forms, inputs)


# -- sets -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", ConAdapter.variants)
@pytest.mark.parametrize("n_classes", [2, 4])
def test_every_block_is_what_the_definition_says(variant: str, n_classes: int) -> None:
    data = world(n_classes)
    y, h, f = data["y"], predicted(data, n_classes), unit(data["x"].astype(float))
    right = [int(sum((y == c) & (h == c))) for c in range(n_classes)]
    p = min(right) + 3  # one class must repeat, and not all
    assert 3 < p < max(right)
    plan, steps = steps_of(method(variant=variant, positives=p), task_of(data, n_classes), epoch=1)
    np.testing.assert_array_equal(plan.h, h)
    seen = []
    for step in steps:
        rows = step.batch.numpy()
        assert len(set(rows)) == len(rows)
        anchors, positives, negatives = (rows[step.drawn[name].numpy()] for name in KINDS)
        masks = [step.drawn[name].numpy() for name in ("positive_mask", "negative_mask")]
        for i, ps, ns, p_mask, n_mask in zip(anchors[:, 0], positives, negatives, *masks):
            seen.append(i)
            assert y[i] != h[i]
            assert all(y[j] == h[j] == y[i] for j in ps)
            assert sorted(set(ps)) == sorted(ps[p_mask])  # once each, and repeats do not count
            assert p_mask.sum() == min(p, right[y[i]])
            assert len(set(ns)) == 15
            np.testing.assert_array_equal(n_mask, y[ns] != y[i])
            of = i
            if variant == "official":
                of = int(np.flatnonzero((y == y[i]) & (h != y[i])).tolist().index(i))
            others = [j for j in range(len(y)) if (y[j] != y[i] if variant == "paper" else j != of)]
            nearest = sorted(others, key=lambda j: -(f[of] @ f[j]))[:40]
            assert set(ns) <= set(nearest)
    assert sorted(seen) == np.flatnonzero(y != h).tolist()


@pytest.mark.parametrize("n", [1, 7, 1000])
def test_rows_and_places_are_those_of_unique(n: int) -> None:
    found = torch.randint(n, (5, 40), generator=torch.Generator().manual_seed(n))
    for ours, theirs in zip(rows_and_places(found, n), torch.unique(found, return_inverse=True)):
        assert torch.equal(ours, theirs)
        assert ours.dtype == theirs.dtype


def test_counts_are_clamped_to_what_there_is() -> None:
    data = world(3)
    y, h = data["y"], predicted(data, 3)
    for variant in ("paper", "official_fixed"):
        adapter = method(variant=variant, positives=999, negatives=999, neighbours=999)
        plan, steps = steps_of(adapter, task_of(data), epoch=1)
        others = len(y) - 1 if variant == "official_fixed" else min(sum(y != c) for c in range(3))
        assert plan.neighbours.shape == (sum(y != h), others)
        assert (plan.neighbours >= 0).all()
        most = max(sum((y == c) & (h == c)) for c in range(3))
        assert steps[0].drawn["positives"].shape[1] == most
        assert steps[0].drawn["negatives"].shape[1] == others


def test_anchors_of_a_class_that_is_never_right_are_left_out() -> None:
    data = world(3)
    y, h = data["y"], predicted(data, 3)
    less = {name: value[(y != 2) | (h != 2)] for name, value in data.items()}
    _, steps = steps_of(method(), task_of(less), epoch=1)
    anchors = np.concatenate([s.batch[s.drawn["anchors"][:, 0]].numpy() for s in steps])
    y, h = less["y"], predicted(less, 3)
    assert sum((y == 2) & (h != 2)) > 0
    assert sorted(anchors) == np.flatnonzero((y != h) & (y != 2)).tolist()


def test_a_share_of_the_anchors_is_drawn_evenly_over_wrong_predictions() -> None:
    data = world(3, n=3000)
    y, h = data["y"], predicted(data, 3)
    plan, steps = steps_of(method(anchor_ratio=0.5, positives=2, negatives=2), task_of(data), 1)
    rows = np.concatenate([s.batch[s.drawn["anchors"][:, 0]].numpy() for s in steps])
    for c in range(3):
        of_class = rows[y[rows] == c]
        assert len(of_class) == round(0.5 * sum((y == c) & (h != c)))
        shares = [count / len(of_class) for count in Counter(h[of_class].tolist()).values()]
        assert len(shares) == 2
        assert max(shares) < 0.65  # unweighted they would follow the world's predictions
    assert (plan.slot[torch.from_numpy(rows)] >= 0).all()


@pytest.mark.parametrize("resample", ["cells", "upsample"])
def test_even_epochs_have_even_cells(resample: str) -> None:
    data = world(3)
    y, h = data["y"], predicted(data, 3)
    _, steps = steps_of(method(resample=resample), task_of(data), epoch=2)
    assert all(not step.drawn for step in steps)
    assert {len(step.batch) for step in steps[:-1]} == {11}
    rows = np.concatenate([step.batch.numpy() for step in steps])
    cells = Counter(zip(y[rows].tolist(), h[rows].tolist()))
    assert set(cells) == set(zip(y.tolist(), h.tolist()))
    if resample == "cells":
        assert set(cells.values()) == {30}
        big = {i for i in rows if sum((y == y[i]) & (h == h[i])) >= 30}
        assert all(count == 1 for i, count in Counter(rows.tolist()).items() if i in big)
    else:
        for c in range(3):
            sizes = {count for (k, _), count in cells.items() if k == c}
            assert len(sizes) == 1
            assert sizes.pop() * 3 >= max(Counter(y.tolist()).values())


def test_odd_epochs_contrast_and_draws_follow_the_generator_alone() -> None:
    task = task_of(world(3))
    drawn = [steps_of(method(), task, epoch, seed)[1] for epoch, seed in ((1, 0), (3, 0), (1, 1))]
    assert all(step.drawn for steps in drawn for step in steps)
    first, same, other = (torch.cat([step.batch for step in steps]) for steps in drawn)
    assert torch.equal(first, same)
    assert not torch.equal(first, other)


# -- the loss -------------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", ["paper", "official_fixed"])
def test_the_loss_is_the_sum_of_the_anchors_contrasts(variant: str) -> None:
    data = world(3)
    task, adapter = task_of(data), method(variant=variant)
    _, steps = steps_of(adapter, task, epoch=1)
    head = adapter.start_head(task, torch.Generator().manual_seed(3)).double()
    assert isinstance(head, AdapterHead)
    batch = Data.on_device(task.train, "cpu").batch(steps[0])
    batch = replace(batch, x=batch.x.double())
    loss, state = adapter.loss(head, (), batch, {"tau": torch.tensor(0.2, dtype=torch.float64)})
    assert state == ()

    w1, gain, shift, w2, b2 = (p.detach().numpy() for p in head.parameters())
    expected, drawn = 0.0, {name: value.numpy() for name, value in batch.drawn.items()}
    for k in range(len(drawn["anchors"])):
        block = np.concatenate([drawn[name][k] for name in KINDS])
        hidden = batch.x.numpy()[block] @ w1.T
        normal = (hidden - hidden.mean(0)) / np.sqrt(hidden.var(0) + 1e-5)
        z = unit(np.maximum(gain * normal + shift, 0) @ w2.T + b2)
        s = z[1:] @ z[0] / 0.2
        positives, negatives = s[:20][drawn["positive_mask"][k]], s[20:][drawn["negative_mask"][k]]
        away = sum(np.exp(n) for n in negatives)
        expected += np.mean([-np.log(np.exp(p) / (np.exp(p) + away)) for p in positives])
    np.testing.assert_allclose(loss.item(), expected, rtol=1e-9)


def test_an_even_epochs_loss_is_the_mean_cross_entropy_in_training_mode() -> None:
    task, adapter = task_of(world(3)), method()
    _, steps = steps_of(adapter, task, epoch=2)
    head = adapter.start_head(task, torch.Generator().manual_seed(3))
    batch = Data.on_device(task.train, "cpu").batch(steps[0])
    expected = F.cross_entropy(copy.deepcopy(head)(batch.x), batch.y)
    torch.testing.assert_close(adapter.loss(head, (), batch, {})[0], expected)


def test_an_anchor_without_a_negative_that_counts_costs_nothing() -> None:
    task, adapter = task_of(world(3)), method(variant="official_fixed")
    _, steps = steps_of(adapter, task, epoch=1)
    drawn = steps[0].drawn | {"negative_mask": torch.zeros(11, 15, dtype=torch.bool)}
    batch = Data.on_device(task.train, "cpu").batch(replace(steps[0], drawn=drawn))
    head = adapter.start_head(task, torch.Generator().manual_seed(3))
    loss, _ = adapter.loss(head, (), batch, {"tau": torch.tensor(0.1)})
    loss.backward()
    assert loss.item() == 0
    assert all((p.grad == 0).all() for p in head.parameters())


# -- what cannot work -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda d: {**d, "y": predicted(d, 3)}, "that zero-shot misses.*found none"),
        (lambda d: {**d, "y": (predicted(d, 3) + 1) % 3}, "of which it gets some right"),
        (lambda d: {**d, "y": np.zeros_like(d["y"])}, "at least two classes"),
    ],
)
def test_data_without_anchors_are_refused_in_one_line(change: Any, words: str) -> None:
    with pytest.raises(EmbedcalError, match=words) as error:
        steps_of(method(), task_of(change(world(3))), epoch=1)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"head": "projection"}, "adapter"),
        ({"scope": "image+text_proj"}, "image"),
        ({"cell_size": 0}, "--cell-size of 1 or more"),
        ({"tau": 0.0}, "--tau"),
        ({"anchor_ratio": 0.0}, "--anchor-ratio"),
    ],
)
def test_an_option_out_of_range_is_refused_in_one_line(options: dict[str, Any], words: str) -> None:
    with pytest.raises(EmbedcalError, match=words) as error:
        method(**options)
    assert "\n" not in str(error.value)


def test_slices_by_umap_want_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "umap", None)
    with pytest.raises(EmbedcalError, match=r"pip install 'embedcal\[umap\]'"):
        steps_of(method(slices="umap_kmeans"), task_of(world(3)), epoch=1)


def test_slices_by_umap_are_clusters_of_the_embeddings(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a stand-in for UMAP that keeps the first two features."""
    keeps = {"__init__": lambda self, **k: None, "fit_transform": lambda self, x: x[:, :2]}
    monkeypatch.setitem(sys.modules, "umap", SimpleNamespace(UMAP=type("UMAP", (), keeps)))
    data = world(2)
    rng = np.random.default_rng(0)
    shown = np.where(rng.random(len(data["y"])) < 0.8, data["y"], 1 - data["y"])
    data["x"][:, :2] = 0.01 * rng.normal(size=(len(shown), 2)) + shown[:, None]
    plan, _ = steps_of(method(slices="umap_kmeans"), task_of(data, 2), epoch=1)
    assert plan.h.tolist() == shown.tolist()


# -- whole runs -----------------------------------------------------------------------------------


def test_a_run_lifts_the_worst_group_above_zero_shot(birds: Path) -> None:
    with open_cache(birds) as cache:
        run = fit("con-adapter", cache, epochs=12, positives=32, negatives=32)
        zeroshot = fit("zeroshot", cache)
        assert run.record["head"] == "adapter"
        assert run.record["stage"] is None
        assert isinstance(run.head(), AdapterHead)
        assert run.record["labels_used"] == ["train.y", "val.g", "val.y"]
        assert run.val["worst_group"] > zeroshot.val["worst_group"]


def test_features_without_text_are_refused_in_one_line(birds: Path, tmp_path: Path) -> None:
    with open_cache(birds) as cache:
        part = cache.split("train", "embedding")
        split = np.repeat([0, 1, 2], [len(part) - 20, 10, 10])
        path = import_features(part.x, part.y, split, out=tmp_path / "bare.h5")
    with (
        open_cache(path) as bare,
        pytest.raises(EmbedcalError, match="class prompts for con-adapter") as error,
    ):
        fit("con-adapter", bare)
    assert "\n" not in str(error.value)
