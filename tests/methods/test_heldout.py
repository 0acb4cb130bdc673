"""Last layers retrained on a part of val: the steps, the draws, cb-llr and SELF."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from test_ppa import accuracies, unit, world
from torch.nn import functional as F

from embedcal.heads import LinearHead, predict
from embedcal.methods._heldout import (
    Descent,
    Linear,
    balanced_batches,
    highest,
    log_softmax,
    losses,
)
from embedcal.methods.base import Staged, cut_by_class
from embedcal.methods.cb_llr import CBLLR
from embedcal.methods.erm import ERM
from embedcal.methods.self import SCORES, SELF, divergence
from embedcal.train import train
from embedcal.types import EmbedcalError, Task

RNG = np.random.default_rng(0)
LABELLED = ("misclassification", "early-misclassification")


def judged(task: Task, *, epochs: int = 30, seed: int = 0) -> Task:
    """The task with the probe that SELF asks for as its stage."""
    stage = SELF(stage_lr=1e-2).stage
    assert stage is not None
    head = train(ERM(**{**stage.options, "epochs": epochs}), task, seed=seed)
    return replace(task, stage=Staged(head=head, logits=predict(head, torch.as_tensor(task.val.x))))


@pytest.fixture(scope="module")
def task() -> Task:
    return judged(world(240, 2, seed=1))


def slow_steps(
    layer: Linear, x: Any, y: Any, batches: Any, lr: float, momentum: float, decay: float
) -> Linear:
    """SGD with momentum on mean cross-entropy + decay / 2 ||.||^2, by loops over rows."""
    weight, bias = layer.weight.copy(), layer.bias.copy()
    speed_w, speed_b = np.zeros_like(weight), np.zeros_like(bias)
    for batch in batches:
        slope_w, slope_b = decay * weight, decay * bias
        for i in batch:
            scores = [float(weight[c] @ x[i]) + bias[c] for c in range(len(bias))]
            total = sum(np.exp(s) for s in scores)
            for c, score in enumerate(scores):
                error = (np.exp(score) / total - (c == y[i])) / len(batch)
                slope_w[c] += error * x[i]
                slope_b[c] += error
        speed_w, speed_b = momentum * speed_w + slope_w, momentum * speed_b + slope_b
        weight, bias = weight - lr * speed_w, bias - lr * speed_b
    return Linear(weight, bias)


@pytest.mark.parametrize(
    ("optimizer", "decay", "l1"),
    [("sgd", 0.0, 0.0), ("sgd", 0.1, 0.02), ("adamw", 0.0, 0.05), ("adamw", 0.1, 0.0)],
)
def test_steps_are_those_of_torch(optimizer: str, decay: float, l1: float) -> None:
    rng = np.random.default_rng(3)
    x, y = rng.normal(size=(40, 6)), rng.integers(3, size=40)
    start = Linear(rng.normal(size=(3, 6)), rng.normal(size=3))
    ours = Descent(start, optimizer=optimizer, momentum=0.8, weight_decay=decay, l1=l1)
    weight, bias = (torch.tensor(v, requires_grad=True) for v in start)
    theirs = (
        torch.optim.SGD([weight, bias], lr=0.1, momentum=0.8, weight_decay=decay)
        if optimizer == "sgd"
        else torch.optim.AdamW([weight, bias], lr=0.1, weight_decay=decay)
    )
    for step in range(12):
        lr = 0.1 if step < 7 else 0.02
        batch = rng.integers(40, size=9)
        ours.step(x[batch], y[batch], lr)
        theirs.param_groups[0]["lr"] = lr
        theirs.zero_grad()
        logits = F.linear(torch.tensor(x[batch]), weight, bias)
        loss = F.cross_entropy(logits, torch.tensor(y[batch]))
        (loss + l1 * (weight.abs().sum() + bias.abs().sum())).backward()
        theirs.step()
    np.testing.assert_allclose(ours.layer.weight, weight.detach(), atol=1e-10)
    np.testing.assert_allclose(ours.layer.bias, bias.detach(), atol=1e-10)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_layers_side_by_side_are_each_alone(optimizer: str) -> None:
    rng = np.random.default_rng(4)
    x, y, penalties = rng.normal(size=(20, 5)), rng.integers(2, size=20), (0.0, 0.1, 1.0)
    start = Linear(rng.normal(size=(2, 5)), np.zeros(2))
    many = Linear(np.stack([start.weight] * 3), np.stack([start.bias] * 3))
    together = Descent(many, optimizer=optimizer, l1=np.array(penalties))
    alone = [Descent(start, optimizer=optimizer, l1=l1) for l1 in penalties]
    for _ in range(5):
        for descent in (together, *alone):
            descent.step(x, y, 0.05)
    for k, one in enumerate(alone):
        np.testing.assert_allclose(together.layer.weight[k], one.layer.weight, atol=1e-12)
        np.testing.assert_allclose(together.layer.bias[k], one.layer.bias, atol=1e-12)


def test_the_highest_are_those_of_a_full_sort() -> None:
    for _ in range(20):
        scores = RNG.integers(8, size=30).astype(float)  # with ties
        full = sorted(range(30), key=lambda i: (-scores[i], i))
        for n in (1, 7, 30, 50):
            assert highest(scores, n).tolist() == full[:n]


def test_draws_give_classes_equal_mass() -> None:
    y = np.array([0] * 90 + [1] * 9 + [3] * 1)
    rng = np.random.default_rng(0)
    passes = [list(balanced_batches(y, 32, rng)) for _ in range(200)]
    assert all([len(batch) for batch in each] == [32, 32, 32, 4] for each in passes)
    rows = np.concatenate([batch for each in passes for batch in each])
    counts = np.bincount(y[rows], minlength=4) / len(rows)
    np.testing.assert_allclose(counts, [1 / 3, 1 / 3, 0, 1 / 3], atol=0.01)
    of_first = np.bincount(rows[y[rows] == 0], minlength=90)
    assert of_first.min() > 0.5 * of_first.mean()


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 1.0])
def test_a_share_of_every_class(share: float) -> None:
    y = np.array([0] * 40 + [1] * 10 + [2] * 2)
    inside, outside = cut_by_class(y, share, np.random.default_rng(0))
    assert sorted([*inside, *outside]) == list(range(52))
    sizes = np.bincount(y[inside], minlength=3)
    wanted = {0.1: [4, 1, 1], 0.5: [20, 5, 1], 0.9: [36, 9, 1], 1.0: [40, 10, 2]}[share]
    assert sizes.tolist() == wanted
    again, _ = cut_by_class(y, share, np.random.default_rng(1))
    assert share == 1 or not np.array_equal(inside, again)


@pytest.mark.parametrize("features", ["normalised", "embedding"])
@pytest.mark.parametrize("balance", ["class", "group"])
def test_cb_llr_by_loops(task: Task, features: str, balance: str) -> None:
    method = CBLLR(features=features, balance=balance, epochs=2, lr=0.05, weight_decay=0.1)
    head = method.solve(task, seed=3)
    rng = np.random.default_rng([3, 0])
    kept, _ = cut_by_class(task.val.y, 0.5, rng)
    x, y = task.val.x[kept].astype(float), task.val.y[kept]
    labels = y if balance == "class" else task.val.g[kept]
    if features == "normalised":
        x = unit(x) * x.shape[1] ** 0.5
    generator = torch.Generator().manual_seed(3)
    start = LinearHead.start(x.shape[1], 2, generator, normalise=False)
    batches = [b for _ in range(2) for b in balanced_batches(labels, 32, rng)]
    found = slow_steps(Linear.of(start), x, y, batches, 0.05, 0.9, 0.1)
    rows = task.val.x[:30].astype(float)
    rows = unit(rows) * rows.shape[1] ** 0.5 if features == "normalised" else rows
    logits = predict(head, torch.as_tensor(task.val.x[:30])).numpy()
    np.testing.assert_allclose(logits, found.logits(rows), atol=1e-4)


def test_retraining_mends_the_rare_groups(task: Task) -> None:
    first = accuracies(task.stage.head, task.val).min()
    for method in (CBLLR(), SELF(score="misclassification")):
        assert accuracies(method.solve(task, 0), task.val).min() > first + 0.2


def test_divergence_of_two_softmaxes() -> None:
    p, q = np.log([[0.7, 0.3]]), np.log([[0.9, 0.1]])
    assert divergence(p, q)[0] == pytest.approx(0.07683, abs=5e-6)
    one, other = RNG.normal(size=(50, 4)), RNG.normal(size=(50, 4))
    assert (divergence(one, other) > 0).all()
    np.testing.assert_allclose(divergence(one, one), 0, atol=1e-15)
    by_loops = []
    for u, v in zip(np.exp(one), np.exp(other)):
        pairs = zip(u / u.sum(), v / v.sum())
        by_loops.append(sum(a * np.log(a / b) for a, b in pairs) / 4)
    np.testing.assert_allclose(divergence(one, other), by_loops, atol=1e-12)
    far = np.array([[0.0, -2000.0], [900.0, 0.0]])
    assert np.isfinite(divergence(far, -far)).all()
    assert np.isfinite(losses(far, np.array([1, 1]))).all()


def test_a_constant_on_all_logits_changes_no_score() -> None:
    one, other, y = RNG.normal(size=(30, 3)), RNG.normal(size=(30, 3)), RNG.integers(3, size=30)
    moved = RNG.normal(size=(30, 1))
    np.testing.assert_allclose(divergence(one + moved, other), divergence(one, other), atol=1e-12)
    np.testing.assert_allclose(losses(one + moved, y), losses(one, y), atol=1e-12)
    np.testing.assert_allclose(np.exp(log_softmax(one)).sum(1), 1)


@pytest.mark.parametrize("epochs", [1, 4])
def test_the_early_probe_is_the_first_runs_own(task: Task, epochs: int) -> None:
    """Against the training loop itself, stopped there."""
    method = SELF(early_epochs=epochs, stage_lr=1e-2)
    assert method.stage is not None
    stopped = judged(task, epochs=epochs, seed=5).stage.head
    early = method.early(task, 5)
    np.testing.assert_allclose(early.weight, stopped.weight.detach(), atol=2e-5)
    np.testing.assert_allclose(early.bias, stopped.bias.detach(), atol=2e-5)
    assert method.stage.options["sampler"] == "class"


def slow_scores(task: Task, method: SELF, rows: Any) -> list[float]:
    """Of the scores that draw nothing, from the formulas, a row at a time."""
    final, early = task.stage.head, judged(task, epochs=method.early_epochs).stage.head
    found = []
    for i in rows:
        p, q = (
            torch.softmax(predict(head, torch.as_tensor(task.val.x[i : i + 1])).double(), 1)[0]
            for head in (final, early)
        )
        if method.score == "early-disagreement":
            found.append(float((q * (q / p).log()).sum()))
        else:
            true = (q if method.score.startswith("early") else p)[task.val.y[i]]
            found.append(-float(true.log()))
    return found


@pytest.mark.parametrize("score", ["early-disagreement", *LABELLED])
def test_self_takes_the_highest_scores(task: Task, score: str) -> None:
    method = SELF(score=score, n=15, early_epochs=3, stage_lr=1e-2)
    chosen = method.chosen(task, 0, np.random.default_rng([0, 0]))
    kept = np.sort(np.random.default_rng([0, 0]).permutation(240)[:120])
    scores = slow_scores(task, method, kept)
    order = sorted(range(120), key=lambda k: -scores[k])
    assert chosen.tolist() == kept[order[:15]].tolist()


def test_dropout_disagrees_with_nobody_where_nothing_is_dropped(task: Task) -> None:
    chosen = {}
    for dropout in (0.0, 0.7):
        method = SELF(score="dropout-disagreement", dropout=dropout, n=10)
        chosen[dropout] = method.chosen(task, 0, np.random.default_rng(0)).tolist()
    kept = np.sort(np.random.default_rng(0).permutation(240)[:120])
    assert chosen[0.0] == kept[:10].tolist()  # all scores are 0: the first rows
    assert chosen[0.7] != chosen[0.0]


def test_a_mask_keeps_the_mean_of_the_inputs(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[np.ndarray] = []
    monkeypatch.setattr(
        "embedcal.methods.self.divergence",
        lambda one, other: seen.append(one - other) or np.zeros(len(one)),
    )
    for seed in range(300):
        SELF(score="dropout-disagreement", dropout=0.7, share=0.05).chosen(
            task, 0, np.random.default_rng([1, seed])
        )
    assert abs(np.mean(seen)) < 0.1 * np.std(seen)


@pytest.mark.parametrize("score", SCORES)
def test_enough_rows_are_all_rows(task: Task, score: str) -> None:
    few, many = (SELF(score=score, n=n) for n in (120, 500))
    chosen = [set(m.chosen(task, 0, np.random.default_rng(2))) for m in (few, many)]
    kept = set(np.random.default_rng(2).permutation(240)[:120])
    assert chosen == [kept, kept]


def test_self_by_loops(task: Task) -> None:
    method = SELF(score="misclassification", n=12, steps=7, batch_size=5, lr=0.02)
    head = method.solve(task, seed=2)
    rng = np.random.default_rng([2, 0])
    chosen = method.chosen(task, 2, rng)
    root = task.val.x.shape[1] ** 0.5
    x, y = unit(task.val.x[chosen]) * root, task.val.y[chosen]
    batches: list[Any] = []
    while len(batches) < 7:
        batches += balanced_batches(y, 5, rng)
    start = Linear.of(task.stage.head).scaled(1 / root)
    found = slow_steps(start, x, y, batches[:7], 0.02, 0.9, 1e-4)
    np.testing.assert_allclose(head.weight.detach(), found.weight * root, atol=1e-4)
    np.testing.assert_allclose(head.bias.detach(), found.bias, atol=1e-4)


@pytest.mark.parametrize("score", SCORES)
def test_labels_of_other_rows_matter_to_errors_alone(task: Task, score: str) -> None:
    """Whoever ranks by disagreement asks for y of the n chosen rows: the others' may be wrong."""
    method = SELF(score=score, n=20)
    chosen = method.chosen(task, 0, np.random.default_rng([0, 0]))
    other = np.setdiff1d(np.arange(240), chosen)
    y = task.val.y.copy()
    y[other] = 1 - y[other]
    wrong = replace(task, val=replace(task.val, arrays={**task.val.arrays, "y": y}))
    same = torch.equal(method.solve(task, 0).weight, method.solve(wrong, 0).weight)
    assert same == (score not in LABELLED)
    assert ("train.y" in method.needs) == score.startswith("early")


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: CBLLR(share=0.0), "--share"),
        (lambda: CBLLR(share=1.5), "--share"),
        (lambda: CBLLR(epochs=0), "--epochs"),
        (lambda: CBLLR(lr=float("nan")), "--lr"),
        (lambda: SELF(n=0), "--n"),
        (lambda: SELF(dropout=1.0), "--dropout"),
        (lambda: SELF(early_epochs=100), "--early-epochs below --stage-epochs"),
        (lambda: SELF(stage_epochs=0), "--stage-epochs"),
        (lambda: SELF(score="loss"), "early-disagreement"),
    ],
)
def test_a_mistake_gets_one_line(make: Any, words: str) -> None:
    with pytest.raises(EmbedcalError, match=words) as error:
        make()
    assert "\n" not in str(error.value)


def test_what_cannot_be_fitted_says_so(task: Task) -> None:
    y = np.zeros(240, np.int64)
    bare = replace(task, val=replace(task.val, arrays={**task.val.arrays, "y": y}))
    with pytest.raises(EmbedcalError, match="of every class for cb-llr, found 0 of class 1"):
        CBLLR().solve(bare, 0)
    for method in (CBLLR(lr=1e300), SELF(lr=1e300)):
        with pytest.raises(EmbedcalError, match="found others: lower --lr"):
            method.solve(task, 0)
