"""RWG, RWY, SUBG, SUBY: who is drawn and how often, weights against loops, missing groups."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from embedcal.cache import open_cache
from embedcal.fitting import fit
from embedcal.methods import find
from embedcal.methods._balancing import balanced_rows, row_weights
from embedcal.train import train
from embedcal.types import EmbedcalError, Examples, Task

D, A = 5, 2
SIZES = (30, 9, 0, 14, 5, 12)  # of the groups of three classes and two attribute values
LABEL = {"rwg": "g", "rwy": "y", "subg": "g", "suby": "y"}
WHAT = {"g": "groups", "y": "classes"}


def make_task(sizes: tuple[int, ...] = SIZES) -> Task:
    """Random rows in groups of these sizes, shuffled."""
    rng = np.random.default_rng(0)
    g = rng.permutation(np.repeat(np.arange(len(sizes)), sizes))
    y = g // A
    x = rng.normal(size=(len(g), D)).astype(np.float32) + y[:, None]
    arrays = {"x": x, "y": y, "g": g}
    return Task(
        train=Examples(split="train", arrays=arrays),
        val=Examples(split="val", arrays=arrays),
        text={},
        projection=None,
        n_classes=len(sizes) // A,
        n_attributes=A,
    )


def labels_of(name: str, task: Task) -> Any:
    return task.train.g if LABEL[name] == "g" else task.train.y


def drawn(method: Any, task: Task, seed: int, epochs: int = 1) -> list[Any]:
    """The positions of each epoch."""
    generator = torch.Generator().manual_seed(seed)
    plan = method.prepare(task, generator)
    return [
        torch.cat([step.batch for step in method.steps(task, plan, epoch, generator)]).numpy()
        for epoch in range(1, epochs + 1)
    ]


@pytest.mark.parametrize(("variant", "power"), [("weights", 1.0), ("sqrt", 0.5)])
@pytest.mark.parametrize("name", ["rwg", "rwy"])
def test_twenty_steps_with_weights_equal_descent_in_numpy(
    name: str, variant: str, power: float
) -> None:
    """mean_i w CE_i with w = (n^-p / sum n^-p) K; the sum skips empty groups, K counts them."""
    task = make_task()
    labels = labels_of(name, task)
    k = 6 if LABEL[name] == "g" else 3
    inverse = [(labels == j).sum() ** -power if (labels == j).any() else 0.0 for j in range(k)]
    weights = [inverse[j] / sum(inverse) * k for j in labels]

    options = {"head": "linear", "features": "embedding", "optimizer": "sgd", "momentum": 0.0}
    method = find(name)(
        **options, variant=variant, weight_decay=0.0, lr=0.1, batch_size=0, epochs=20
    )
    generator = torch.Generator().manual_seed(3)
    start = method.start_head(task, generator)
    w, b = (p.detach().numpy().astype(float) for p in start.parameters())
    x, y = task.train.x.astype(float), task.train.y
    for _ in range(20):
        gw, gb = np.zeros_like(w), np.zeros_like(b)
        for i, weight in enumerate(weights):
            e = np.exp(w @ x[i] + b)
            error = e / e.sum() - (np.arange(3) == y[i])
            gw += weight * np.outer(error, x[i]) / len(x)
            gb += weight * error / len(x)
        w, b = w - 0.1 * gw, b - 0.1 * gb
    head = train(method, task, seed=3)
    np.testing.assert_allclose(head.weight.detach(), w, rtol=0, atol=1e-4)
    np.testing.assert_allclose(head.bias.detach(), b, rtol=0, atol=1e-4)
    assert np.abs(w - start.weight.detach().numpy()).max() > 0.1


@pytest.mark.parametrize("variant", ["weights", "sqrt"])
def test_weights_of_equal_groups_are_one(variant: str) -> None:
    labels = np.repeat(np.arange(4), 7)
    assert torch.equal(row_weights(labels, 4, variant), torch.ones(28))


@pytest.mark.parametrize("name", ["rwg", "rwy"])
def test_the_sampler_draws_labels_that_occur_equally_often(name: str) -> None:
    """n draws an epoch with replacement; each label's share is 1/K to five standard errors."""
    task, method = make_task(), find(name)(head="linear", batch_size=16)
    labels = labels_of(name, task)
    present = np.unique(labels)
    epochs = drawn(method, task, seed=0, epochs=200)
    assert {len(epoch) for epoch in epochs} == {len(labels)}
    assert len(np.unique(epochs[0])) < len(labels)
    counts = np.bincount(labels[np.concatenate(epochs)])[present]
    n, k = counts.sum(), len(present)
    assert np.abs(counts - n / k).max() < 5 * np.sqrt(n / k * (1 - 1 / k))
    assert torch.equal(method.prepare(task, torch.Generator()), torch.ones(len(labels)))


@pytest.mark.parametrize("name", ["subg", "suby"])
def test_the_subset_has_the_rarest_label_s_size_of_each_and_stays(name: str) -> None:
    task, method = make_task(), find(name)(head="linear", batch_size=16)
    labels = labels_of(name, task)
    least = min(n for n in np.bincount(labels) if n)
    first, second = drawn(method, task, seed=0, epochs=2)
    assert np.bincount(labels[first]).tolist() == [least if n else 0 for n in np.bincount(labels)]
    assert len(set(first)) == len(first)
    assert set(first) == set(second)
    assert first.tolist() != second.tolist()  # shuffled afresh
    assert set(drawn(method, task, seed=0)[0]) == set(first)
    assert set(drawn(method, task, seed=1)[0]) != set(first)


def test_every_row_of_a_label_is_as_likely_to_be_kept() -> None:
    labels = np.array([0] * 10 + [1] * 3)
    generator = torch.Generator().manual_seed(0)
    kept = np.concatenate([balanced_rows(labels, generator) for _ in range(2000)])
    counts = np.bincount(kept, minlength=13)
    assert (counts[10:] == 2000).all()
    assert np.abs(counts[:10] - 600).max() < 5 * np.sqrt(2000 * 0.3 * 0.7)


@pytest.mark.parametrize("name", LABEL)
def test_a_single_label_is_refused(name: str) -> None:
    task = make_task((20, 0, 0, 0))
    words = f"at least two {WHAT[LABEL[name]]} in train for {name}, found 1: use erm"
    with pytest.raises(EmbedcalError, match=words):
        train(find(name)(head="linear"), task, seed=0)


@pytest.mark.parametrize("name", LABEL)
def test_only_those_that_balance_groups_read_them(name: str) -> None:
    assert ("train.g" in find(name)(head="linear").needs) == (LABEL[name] == "g")


@pytest.mark.parametrize("name", ["rwg", "rwy"])
def test_the_variant_decides_the_sampler(name: str) -> None:
    with pytest.raises(EmbedcalError, match=f"--sampler of {name} to be one of variant"):
        find(name)(sampler="iid")


@pytest.mark.parametrize("name", LABEL)
def test_it_fits_over_a_cache_in_every_variant(name: str, birds: Path) -> None:
    with open_cache(birds) as cache:
        runs = [fit(name, cache, epochs=2, variant=v) for v in find(name).variants]
    assert len({run.id for run in runs}) == len(runs)
    assert all(run.record["options"]["epochs"] == 2 for run in runs)
    logits = [run.predictions()["val"] for run in runs]
    assert not any(torch.equal(logits[0], other) for other in logits[1:])
