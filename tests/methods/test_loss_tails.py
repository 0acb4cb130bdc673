"""LFR and EVaLS: inferred environments, the tails of the loss, and the search over both."""

from __future__ import annotations

import logging
from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from test_ppa import accuracies, unit, world
from torch.nn import functional as F

from embedcal.heads import predict
from embedcal.methods._environments import (
    closed_split,
    descended_split,
    environments,
    objective,
    slopes,
    worst_cell,
)
from embedcal.methods._heldout import Descent, Linear, losses
from embedcal.methods._tails import LossTails
from embedcal.methods.base import Staged, cut_by_class
from embedcal.methods.erm import ERM
from embedcal.methods.evals import EVALS
from embedcal.methods.lfr import LFR
from embedcal.train import train
from embedcal.types import EmbedcalError, Task


def judged(task: Task, epochs: int = 30) -> Task:
    erm = ERM(head="linear", lr=1e-2, epochs=epochs)
    head = train(erm, task, seed=0)
    return replace(task, stage=Staged(head=head, logits=predict(head, torch.as_tensor(task.val.x))))


@pytest.fixture(scope="module", params=[2, 3])
def task(request: pytest.FixtureRequest) -> Task:
    return judged(world(300, request.param, seed=2))


def relabelled(task: Task, **arrays: Any) -> Task:
    return replace(task, val=replace(task.val, arrays={**task.val.arrays, **arrays}))


# -- environments ----------------------------------------------------------------------------------


def loss_of(scale: float, logits: Any, y: int) -> float:
    scores = [scale * float(value) for value in logits]
    return float(np.log(sum(np.exp(s) for s in scores)) - scores[y])


def test_a_slope_is_that_of_the_loss_by_its_scale() -> None:
    rng = np.random.default_rng(0)
    logits, y, step = 2 * rng.normal(size=(40, 4)), rng.integers(4, size=40), 1e-5
    found = slopes(logits, y)
    for i in range(40):
        up, down = (loss_of(1 + sign * step, logits[i], y[i]) for sign in (1, -1))
        assert found[i] == pytest.approx((up - down) / (2 * step), abs=1e-8)


@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("seed", range(4))
def test_no_split_of_nine_rows_is_better_than_the_closed_one(n_classes: int, seed: int) -> None:
    rng = np.random.default_rng([n_classes, seed])
    logits, y = 3 * rng.normal(size=(9, n_classes)), rng.integers(n_classes, size=9)
    g = slopes(logits, y)
    values = {q: objective(np.array(q, float), g) for q in product((0, 1), repeat=9)}
    best = max(values.values())
    winners = {q for q, value in values.items() if value > best - 1e-12}
    closed = environments(logits, y, "closed", rng)
    assert winners == {tuple(closed), tuple(1 - closed)}
    soft = rng.random((2000, 9))
    assert max(objective(q, g) for q in soft) < best


def test_for_two_classes_the_environments_are_the_errors() -> None:
    rng = np.random.default_rng(5)
    logits, y = rng.normal(size=(500, 2)), rng.integers(2, size=500)
    errors = environments(logits, y, "errors", rng)
    assert np.array_equal(environments(logits, y, "closed", rng), errors)
    assert np.array_equal(errors, logits.argmax(1) != y)


def test_for_three_classes_they_need_not_be() -> None:
    """A row just wrong, whose mean logit a third class far below pulls under that of its own."""
    logits, y = np.array([[1.0, 0.9, -1.0], [0.0, 0.1, -9.0]]), np.array([0, 0])
    g = slopes(logits, y)
    right = logits.argmax(1) == y
    assert right.tolist() == [True, False]
    assert g[0] < 0
    assert g[1] > 0
    close = np.array([[0.0, 0.1, -1.0]])  # wrong, and yet a larger scale lowers its loss
    assert slopes(close, np.array([0]))[0] < 0
    assert closed_split(slopes(close, np.array([0]))).tolist() == [0]
    assert environments(close, np.array([0]), "errors", np.random.default_rng()).tolist() == [1]
    assert slopes(20 * close, np.array([0]))[0] > 0  # scaling can change the sign


def test_a_constant_on_all_logits_of_a_row_changes_no_environment() -> None:
    rng = np.random.default_rng(6)
    logits, y = rng.normal(size=(60, 3)), rng.integers(3, size=60)
    moved = logits + 10 * rng.normal(size=(60, 1))
    np.testing.assert_allclose(slopes(moved, y), slopes(logits, y), atol=1e-12)
    flat = np.full((4, 3), 7.3)
    assert closed_split(slopes(flat, np.array([0, 1, 2, 0]))).tolist() == [0, 0, 0, 0]


def test_the_descent_is_adams() -> None:
    for steps, seed in product((1, 60), range(6)):
        g = np.random.default_rng(seed).normal(size=50)
        found = descended_split(g, np.random.default_rng(1), steps=steps, lr=0.05)
        w = torch.tensor(np.random.default_rng(1).normal(size=50), requires_grad=True)
        adam, slope = torch.optim.Adam([w], lr=0.05), torch.tensor(g)
        for _ in range(steps):
            q = torch.sigmoid(w)
            adam.zero_grad()
            (-((q * slope).mean() ** 2 + ((1 - q) * slope).mean() ** 2) / 2).backward()
            adam.step()
        assert np.array_equal(found, (w.detach().numpy() > 0).astype(int))


def test_few_steps_leave_a_random_split_and_many_the_closed_one() -> None:
    rng = np.random.default_rng(8)
    g = rng.normal(size=300)
    closed = closed_split(g)

    def agreement(steps: int, lr: float) -> float:
        same = (descended_split(g, np.random.default_rng(2), steps=steps, lr=lr) == closed).mean()
        return float(max(same, 1 - same))  # which of the two is called 1 does not matter

    assert agreement(1, 1e-3) < 0.6
    assert agreement(2000, 0.05) > 0.97


def test_the_worst_cell_leaves_out_cells_without_rows() -> None:
    right = np.array([[1, 1, 0, 1, 0, 0], [1, 1, 1, 1, 1, 0]], bool)
    cells = np.array([0, 0, 0, 3, 3, 5])
    assert worst_cell(right, cells).tolist() == [0.0, 0.0]
    assert worst_cell(right[:, :5], cells[:5]).tolist() == [0.5, 1.0]


# -- tails -----------------------------------------------------------------------------------------


def loss_and_right(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.permutation(n) / n, rng.random(n) < 0.6


@pytest.mark.parametrize("n", [4, 9, 30])
def test_tails_of_evals_by_a_full_sort(n: int) -> None:
    loss, right = loss_and_right(n, n)
    found = EVALS().tails(loss, right)
    full = sorted(range(n), key=lambda i: loss[i])
    assert found.low.tolist() == full[: n // 2]
    assert found.high.tolist() == full[::-1][: n // 2]
    tied = EVALS().tails(np.zeros(n), right)
    assert len({*tied.high, *tied.low}) == 2 * (n // 2)


@pytest.mark.parametrize("n", [4, 9, 30])
def test_tails_of_lfr_by_a_full_sort(n: int) -> None:
    loss, right = loss_and_right(n, n)
    found = LFR().tails(loss, right)
    full = sorted(range(n), key=lambda i: loss[i])
    assert found.low.tolist() == [i for i in full if right[i]]
    assert found.high.tolist() == [i for i in full[::-1] if not right[i]]
    for all_one, short in ((True, "high"), (False, "low")):
        only = LFR().tails(loss, np.full(n, all_one))
        order = full[::-1] if short == "high" else full
        assert getattr(only, short).tolist() == order[: n // 2]
        k = min(len(only.high), len(only.low))
        assert not set(only.high[:k]) & set(only.low[:k])


@pytest.mark.parametrize("cls", [LFR, EVALS])
def test_each_class_gives_as_many_and_none_twice(
    cls: type[LossTails], task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is fitted: 2k rows a class, k cut at what every class has."""
    seen: list[tuple[np.ndarray, np.ndarray]] = []
    through = cls._descend

    def spy(self: LossTails, x: Any, y: Any, *rest: Any) -> Any:
        seen.append((x, y))
        return through(self, x, y, *rest)

    monkeypatch.setattr(cls, "_descend", spy)
    cls(k=(4, 1000, 2000), epochs=1).solve(task, 0)
    assert len(seen) == 2  # the last two come to the same k
    for x, y in seen:
        counts = np.bincount(y)
        assert len(set(counts)) == 1
        assert counts[0] % 2 == 0
        assert len(np.unique(x, axis=0)) == len(x)
    assert np.bincount(seen[0][1])[0] == 8
    half, _ = cut_by_class(task.val.y, 0.5, np.random.default_rng([0, 0]))
    y = task.val.y[half]
    right = Linear.of(task.stage.head).logits(unit(task.val.x[half])).argmax(1) == y
    sizes = [(right[y == c].sum(), (~right[y == c]).sum()) for c in range(task.n_classes)]
    most = min(map(min, sizes)) if cls is LFR else min(sum(pair) // 2 for pair in sizes)
    assert np.bincount(seen[1][1])[0] == 2 * most


# -- the search ------------------------------------------------------------------------------------


def slow_search(method: LossTails, task: Task, seed: int) -> Any:
    """By torch's Adam and step schedule, one candidate at a time; the layer over inputs."""
    rng = np.random.default_rng([seed, 0])
    y, d = task.val.y, task.val.x.shape[1]
    fitted, chosen_by = cut_by_class(y, 0.5, rng)
    x = unit(task.val.x) if method.features == "normalised" else task.val.x.astype(float)
    logits = Linear.of(task.stage.head).logits(x)
    if method.features == "normalised":
        x = x * d**0.5
    wrong = logits.argmax(1) != y
    cells: list[list[int]] = []
    for c in range(task.n_classes):
        rows = [i for i in chosen_by if y[i] == c]
        if method.cells == "group":
            cells += [[i for i in rows if task.val.g[i] == g] for g in np.unique(task.val.g)]
        elif method.cells == "class":
            cells.append(rows)
        else:
            g = slopes(logits[rows], y[rows])
            parts = [[i for i, v in zip(rows, g) if (v > 0) == e] for e in (False, True)]
            cells += parts if min(map(len, parts)) >= method.min_cell else [rows]
    cells = [cell for cell in cells if cell]
    best: tuple[float, Any] = (-1.0, None)
    by_loss = sorted(fitted, key=lambda i: losses(logits[[i]], y[[i]])[0])
    for k in method.k:
        rows = []
        for c in range(task.n_classes):
            of_class = [i for i in by_loss if y[i] == c]
            high = [i for i in of_class if wrong[i]] if isinstance(method, LFR) else of_class
            low = [i for i in of_class if not wrong[i]] if isinstance(method, LFR) else of_class
            rows += [*high[::-1][:k], *low[:k]]
        bound = (6 / (d + task.n_classes)) ** 0.5
        start = rng.uniform(-bound, bound, (task.n_classes, d))
        orders = [rng.permutation(len(rows)) for _ in range(method.epochs)]
        curves = []
        for l1 in method.l1:
            weight = torch.tensor(start, requires_grad=True)
            bias = torch.zeros(task.n_classes, dtype=torch.float64, requires_grad=True)
            adam = torch.optim.Adam([weight, bias], lr=method.lr)
            schedule = torch.optim.lr_scheduler.StepLR(adam, 85, method.decay)
            curve = []
            for order in orders:
                for batch in torch.split(torch.tensor(order), method.batch_size):
                    part = [rows[int(b)] for b in batch]
                    adam.zero_grad()
                    scores = F.linear(torch.tensor(x[part]), weight, bias)
                    loss = F.cross_entropy(scores, torch.tensor(y[part]))
                    (loss + l1 * (weight.abs().sum() + bias.abs().sum())).backward()
                    adam.step()
                schedule.step()
                predicted = F.linear(torch.tensor(x), weight, bias).argmax(1).numpy()
                worst = min(np.mean([predicted[i] == y[i] for i in cell]) for cell in cells)
                curve.append((worst, weight.detach().clone().numpy(), bias.detach().numpy().copy()))
            curves.append(curve)
        for epoch in range(method.epochs):
            for curve in curves:
                if curve[epoch][0] > best[0]:
                    best = (curve[epoch][0], curve[epoch][1:])
    weight, bias = best[1]
    return (d**0.5 if method.features == "normalised" else 1.0) * weight, bias


@pytest.mark.parametrize(
    ("cls", "given"),
    [
        (EVALS, {}),
        (EVALS, {"features": "embedding", "cells": "class"}),
        (EVALS, {"epochs": 88, "l1": (0.01,), "k": (2,), "lr": 1e-4, "decay": 0.5}),
        (LFR, {}),
        (LFR, {"cells": "env"}),
    ],
)
def test_the_search_by_loops(cls: type[LossTails], given: dict[str, Any], task: Task) -> None:
    settings = (
        {"k": (3, 6), "l1": (0.0, 0.05), "epochs": 6, "batch_size": 5, "lr": 0.01}
        | given
        | {"start": "xavier"}
    )
    method = cls(**settings)
    head = method.solve(task, 1)
    weight, bias = slow_search(method, task, 1)
    np.testing.assert_allclose(head.weight.detach(), weight, atol=1e-4)
    np.testing.assert_allclose(head.bias.detach(), bias, atol=1e-5)


@pytest.mark.parametrize("cls", [LFR, EVALS])
def test_rare_groups_are_mended(cls: type[LossTails]) -> None:
    task = judged(world(300, 2, seed=2))
    first = accuracies(task.stage.head, task.val).min()
    assert accuracies(cls(k=(10, 30)).solve(task, 0), task.val).min() > first + 0.15


def test_the_step_shrinks_after_every_85_epochs(
    task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[float] = []
    monkeypatch.setattr(Descent, "step", lambda self, x, y, lr: seen.append(lr))
    method = EVALS(k=(3,), epochs=171, batch_size=99, lr=0.5, decay=0.1)
    method.solve(task, 0)
    assert seen == pytest.approx([0.5] * 85 + [0.05] * 85 + [0.005])


def test_the_first_runs_layer_may_be_the_start(task: Task) -> None:
    method = EVALS(lr=0.0, epochs=1, k=(5,), l1=(0.0,))
    head = method.solve(task, 0)
    np.testing.assert_allclose(head.weight.detach(), task.stage.head.weight.detach(), atol=1e-6)
    fresh = replace(method, start="xavier").solve(task, 0)
    bound = (6 / (fresh.weight.shape[1] + task.n_classes)) ** 0.5 * fresh.weight.shape[1] ** 0.5
    assert 0.5 * bound < float(fresh.weight.detach().abs().max()) <= bound
    assert not fresh.bias.detach().any()


def soft_threshold(x: np.ndarray, by: float) -> np.ndarray:
    return np.sign(x) * np.maximum(np.abs(x) - by, 0)


def test_the_penalty_is_that_of_a_soft_threshold() -> None:
    """Against proximal gradient steps, whose minimum is known to have zeros."""
    rng = np.random.default_rng(9)
    x, y = rng.normal(size=(60, 5)), rng.integers(2, size=60)
    x[:, 0] += 2 * y

    def value(weight: np.ndarray, bias: np.ndarray, l1: float) -> float:
        loss = losses(x @ weight.T + bias, y).mean()
        return float(loss + l1 * (np.abs(weight).sum() + np.abs(bias).sum()))

    for l1 in (0.05, 0.5, 2.0):
        theta = np.zeros((2, 6))
        ones = np.column_stack([x, np.ones(60)])
        for _ in range(4000):
            scores = np.exp(ones @ theta.T)
            residual = scores / scores.sum(1, keepdims=True) - np.eye(2)[y]
            theta = soft_threshold(theta - 0.1 * residual.T @ ones / 60, 0.1 * l1)
        start = Linear(rng.normal(size=(2, 5)), np.zeros(2))
        descent = Descent(start, optimizer="adamw", l1=l1)
        for lr in (0.01, 0.001, 0.0001):
            for _ in range(1500):
                descent.step(x, y, lr)
        least = value(theta[:, :5], theta[:, 5], l1)
        assert least <= value(*descent.layer, l1) + 1e-9 <= least + 5e-3
        if l1 == 2.0:  # above the slope at 0, nothing pays its penalty
            assert not theta.any()
            assert np.abs(descent.layer.weight).max() < 1e-3


# -- cells -----------------------------------------------------------------------------------------


def perfect(task: Task) -> Task:
    """The task with a probe that is right about every row of val: a feature tells it the class."""
    x = np.column_stack([task.val.x, 50 * np.eye(task.n_classes)[task.val.y]]).astype(np.float32)
    weight = np.column_stack(
        [np.zeros((task.n_classes, task.val.x.shape[1])), 100 * np.eye(task.n_classes)]
    )
    head = type(task.stage.head)(
        torch.tensor(weight).float(), torch.zeros(task.n_classes), normalise=True, level="embedding"
    )
    return replace(relabelled(task, x=x), stage=replace(task.stage, head=head))


def test_without_errors_the_worst_class_chooses(task: Task) -> None:
    clean = perfect(task)
    settings: dict[str, Any] = {"epochs": 3, "k": (5,), "lr": 1e-4}
    by_env, by_class = (
        EVALS(cells=cells, **settings).solve(clean, 0) for cells in ("env", "class")
    )
    assert torch.equal(by_env.weight, by_class.weight)
    with pytest.raises(
        EmbedcalError, match=r"expected 5 or more rows .*\+0, .* --min-cell"
    ) as error:
        EVALS(small="stop", **settings).solve(clean, 0)
    assert "\n" not in str(error.value)
    assert EVALS(small="stop", min_cell=0, **settings).solve(clean, 0) is not None


def test_sizes_of_inferred_cells_are_logged(task: Task, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="embedcal.methods._tails"):
        EVALS(epochs=1, k=(3,)).solve(task, 0)
    sizes = caplog.messages[0].split(": ")[-1].replace("+", ", ").split(", ")
    _, chosen_by = cut_by_class(task.val.y, 0.5, np.random.default_rng([0, 0]))
    assert sum(map(int, sizes)) == len(chosen_by)
    assert len(sizes) == 2 * task.n_classes


@pytest.mark.parametrize("cells", ["env", "class", "group"])
def test_what_is_read(cells: str, task: Task) -> None:
    settings: dict[str, Any] = {"epochs": 2, "k": (5,)}
    for cls in (EVALS, LFR):
        method = cls(cells=cells, **settings)
        assert ("val.g" in method.needs) == (cells == "group")
        assert method.selection == {"env": "own.env"}.get(cells, f"own.worst_{cells}")
        bare = {k: v for k, v in task.val.arrays.items() if f"val.{k}" in method.needs}
        less = replace(task, val=replace(task.val, arrays=bare))
        assert torch.equal(method.solve(less, 0).weight, method.solve(task, 0).weight)


def test_environments_by_adam_are_a_choice_of_their_own(task: Task) -> None:
    heads = [
        EVALS(environments=way, epochs=4, k=(5,), env_steps=3).solve(task, 0)
        for way in ("closed", "errors", "adam")
    ]
    if task.n_classes == 2:
        assert torch.equal(heads[0].weight, heads[1].weight)
    assert torch.isfinite(heads[2].weight).all()


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"k": ()}, "--k"),
        ({"k": (0.5,)}, "--k of evals to be a list, each item a whole number"),
        ({"k": (0,)}, "--k"),
        ({"l1": ()}, "--l1"),
        ({"l1": (-1.0,)}, "--l1"),
        ({"share": 1.0}, "the rest of val chooses"),
        ({"min_cell": -1}, "--min-cell"),
        ({"env_steps": 0}, "--env-steps"),
        ({"environments": "eiil"}, "closed, adam, errors"),
        ({"cells": "environment"}, "env, class, group"),
    ],
)
def test_a_mistake_gets_one_line(given: dict[str, Any], words: str) -> None:
    with pytest.raises(EmbedcalError, match=words) as error:
        EVALS(**given)
    assert "\n" not in str(error.value)


def test_too_few_rows_say_so(task: Task) -> None:
    y = task.val.y.copy()
    y[np.flatnonzero(y == 1)[2:]] = 0
    with pytest.raises(EmbedcalError, match=r"3 or more val rows .* found 2 of class 1"):
        EVALS().solve(relabelled(task, y=y), 0)
    y = task.val.y.copy()
    y[np.flatnonzero(y == 1)[3:]] = 0
    with pytest.raises(EmbedcalError, match=r"two or more rows .* raise --share"):
        EVALS(share=0.1).solve(relabelled(task, y=y), 0)
    with pytest.raises(EmbedcalError, match="lower --lr"):
        EVALS(lr=1e308, epochs=2).solve(task, 0)
