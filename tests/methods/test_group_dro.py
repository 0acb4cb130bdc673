"""Group DRO in every variant against loops over groups, missing groups, what it refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from embedcal.cache import open_cache
from embedcal.fitting import fit
from embedcal.heads import LinearHead
from embedcal.methods.base import Batch
from embedcal.methods.group_dro import GroupDRO
from embedcal.train import train
from embedcal.types import EmbedcalError, Examples, Task

C, A, D, STEPS, B = 3, 2, 4, 10, 9
G = C * A
FULL, GAP = (40, 12, 3, 25, 8, 20), (40, 0, 3, 25, 8, 20)


def make_task(sizes: tuple[int, ...]) -> Task:
    rng = np.random.default_rng(1)
    g = rng.permutation(np.repeat(np.arange(G), sizes))
    x = rng.normal(size=(len(g), D)).astype(np.float32)
    arrays = {"x": x, "y": g // A, "g": g}
    return Task(
        train=Examples(split="train", arrays=arrays),
        val=Examples(split="val", arrays=arrays),
        text={},
        projection=None,
        n_classes=C,
        n_attributes=A,
    )


def walk(method: GroupDRO, task: Task) -> tuple[list[Any], list[Any]]:
    """Ten small batches through a fixed head: (losses of groups, who is present), (loss, q)."""
    rng = np.random.default_rng(2)
    weight = 3 * rng.normal(size=(C, D))
    head = LinearHead(
        torch.tensor(weight, dtype=torch.float32), torch.zeros(C), normalise=False,
        level="embedding",
    )  # fmt: skip
    hyper = {name: torch.tensor(value) for name, value in method.hyper().items()}
    state = method.init(method.prepare(task, torch.Generator()))
    seen, found = [], []
    for _ in range(STEPS):
        index = rng.integers(len(task.train.x), size=B)
        x, y, g = (task.train.arrays[name][index] for name in "xyg")
        batch = Batch(
            x=torch.tensor(x), y=torch.tensor(y), g=torch.tensor(g), index=torch.tensor(index)
        )
        loss, state = method.loss(head, state, batch, hyper)
        found.append((float(loss.detach()), state.q.numpy().copy()))
        logits = x.astype(float) @ weight.T
        ce = np.log(np.exp(logits).sum(1)) - logits[np.arange(B), y]
        losses = [ce[g == k].mean() if (g == k).any() else 0.0 for k in range(G)]
        seen.append((np.array(losses), [(g == k).any() for k in range(G)]))
    return seen, found


def ascend(method: GroupDRO, sizes: tuple[int, ...], seen: list[Any]) -> list[Any]:
    """q and the loss of each step, by exponentiated gradient ascent."""
    authors = method.variant == "group_dro"
    q = np.array([1.0 if authors or n else 0.0 for n in sizes])
    q /= q.sum()
    steps = []
    for losses, _ in seen:
        each = losses.copy()
        if authors and method.adjustment > 0:
            for k, n in enumerate(sizes):
                each[k] += method.adjustment / np.sqrt(n) if n else 0.0
        push = each / each.sum() if method.normalise_loss == "on" else each
        q = q * np.exp(method.eta * push)
        q /= q.sum()
        steps.append(((q * each).sum(), q.copy()))
    return steps


def rank(method: GroupDRO, sizes: tuple[int, ...], seen: list[Any]) -> list[Any]:
    """Weights and the loss of each step, by taking the worst groups until alpha is used up."""
    ema: dict[int, float] = {}
    n = sum(sizes)
    steps = []
    for losses, present in seen:
        for k in range(G):
            if present[k]:
                old = ema.get(k, losses[k])
                ema[k] = (1 - method.gamma) * old + method.gamma * losses[k]
        score = [
            ema.get(k, 0.0) + (method.adjustment / np.sqrt(sizes[k]) if sizes[k] else 0.0)
            for k in range(G)
        ]
        left, weights = method.alpha, np.zeros(G)
        for k in sorted(range(G), key=lambda k: -score[k]):
            take = min(sizes[k] / n, left)
            weights[k], left = take / method.alpha, left - take
        mv = method.min_var_weight
        weights = mv * np.array(sizes) / n + (1 - mv) * weights
        steps.append(((weights * losses).sum(), weights))
    return steps


@pytest.mark.parametrize("sizes", [FULL, GAP], ids=["full", "gap"])
@pytest.mark.parametrize(
    "options",
    [
        {"variant": "wilds"},
        {"variant": "group_dro"},
        {"variant": "group_dro", "adjustment": 2.0},
        {"variant": "group_dro", "normalise_loss": "on"},
        {"variant": "group_dro", "normalise_loss": "on", "adjustment": 0.5},
        {"variant": "cvar"},
        {"variant": "cvar", "adjustment": 2.0, "alpha": 0.35, "gamma": 0.4},
        {"variant": "cvar", "min_var_weight": 0.25, "alpha": 0.05},
    ],
    ids=lambda o: "-".join(str(v) for v in o.values()),
)
def test_ten_steps_equal_a_loop_over_groups(
    options: dict[str, Any], sizes: tuple[int, ...]
) -> None:
    eta = {} if options["variant"] == "cvar" else {"eta": 0.3}
    method = GroupDRO(head="linear", **eta, **options)
    seen, found = walk(method, make_task(sizes))
    wanted = (rank if method.variant == "cvar" else ascend)(method, sizes, seen)
    for (loss, q), (wanted_loss, wanted_q) in zip(found, wanted):
        np.testing.assert_allclose(q, wanted_q, rtol=0, atol=1e-5)
        assert loss == pytest.approx(wanted_loss, rel=1e-4)
    assert np.abs(found[-1][1] - found[0][1]).max() > 0.01


def test_a_group_without_examples_is_left_out_keeps_its_share_or_takes_nothing() -> None:
    """By variant; in the authors' code its share of q only shrinks as that of others grows."""
    task = make_task(GAP)
    share = {
        variant: [q[1] for _, q in walk(GroupDRO(head="linear", variant=variant), task)[1]]
        for variant in GroupDRO.variants
    }
    assert share["wilds"] == [0.0] * STEPS
    assert share["cvar"] == [0.0] * STEPS
    assert 0 < share["group_dro"][-1] < share["group_dro"][0] < 1 / G


def test_q_carries_no_gradient() -> None:
    """The gradient of the loss is sum_g q_g / b_g of the rows', with q a constant."""
    task, method = make_task(FULL), GroupDRO(head="linear", eta=2.0)
    train_split = task.train
    head = LinearHead(torch.zeros(C, D), torch.zeros(C), normalise=False, level="embedding")
    batch = Batch(
        x=torch.tensor(train_split.x), y=torch.tensor(train_split.y),
        g=torch.tensor(train_split.g), index=torch.arange(len(train_split)),
    )  # fmt: skip
    state = method.init(method.prepare(task, torch.Generator()))
    loss, after = method.loss(head, state, batch, {"eta": torch.tensor(2.0)})
    loss.backward()
    expected = np.zeros((C, D))
    for x, y, g in zip(train_split.x, train_split.y, train_split.g):
        error = np.full(C, 1 / C) - (np.arange(C) == y)
        expected += float(after.q[g]) / FULL[g] * np.outer(error, x)
    np.testing.assert_allclose(head.weight.grad, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("variant", GroupDRO.variants)
def test_one_group_is_refused(variant: str) -> None:
    task = make_task((30, 0, 0, 0, 0, 0))
    with pytest.raises(EmbedcalError, match=r"at least two groups in train.*found one: use erm"):
        train(GroupDRO(head="linear", variant=variant), task, seed=0)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"adjustment": 1.0}, "--variant group_dro or cvar .* --adjustment, found wilds"),
        ({"normalise_loss": "on", "variant": "cvar"}, "--variant group_dro .*--normalise-loss"),
        ({"alpha": 0.5, "variant": "group_dro"}, "--variant cvar .*--alpha, found group_dro"),
        ({"alpha": 0.0, "variant": "cvar"}, "alpha of group-dro"),
        ({"alpha": 1.5, "variant": "cvar"}, "alpha of group-dro between"),
        ({"gamma": -0.1, "variant": "cvar"}, "gamma of group-dro between 0 and 1"),
        ({"adjustment": -1.0, "variant": "cvar"}, "adjustment of group-dro"),
        ({"eta": float("nan")}, "eta of group-dro"),
    ],
)
def test_a_mistake_gets_one_line(options: dict[str, Any], words: str) -> None:
    with pytest.raises(EmbedcalError, match=words) as error:
        GroupDRO(**options)
    assert "\n" not in str(error.value)


def test_it_fits_over_a_cache_in_every_variant(birds: Path) -> None:
    options: list[dict[str, Any]] = [
        {},
        {"variant": "group_dro", "adjustment": 3.0},
        {"variant": "cvar"},
    ]
    with open_cache(birds) as cache:
        runs = [fit("group-dro", cache, epochs=2, **chosen) for chosen in options]
    logits = [run.predictions()["val"] for run in runs]
    assert not torch.equal(logits[0], logits[1])
    assert not torch.equal(logits[0], logits[2])
