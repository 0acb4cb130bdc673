"""PPA against scikit-learn, a loop over its three steps, and the algebra of its projection."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from embedcal.heads import predict
from embedcal.methods._adjusted import fit_adjusted
from embedcal.methods._span import beside, span_basis
from embedcal.methods.ppa import PPA
from embedcal.types import EmbedcalError, Examples, Task, TextBank

D = 10


def world(n: int = 600, n_classes: int = 2, seed: int = 0, *, rare: float = 0.1) -> Task:
    """Unit-like rows: a core axis a class, a stronger spurious axis a class, and noise.

    The class prompts lie on the core axes, so that what is left beside them is the shortcut.
    """
    rng = np.random.default_rng([seed, n, n_classes])
    splits = {}
    for split, share in (("train", rare), ("val", 0.5)):
        y = rng.integers(n_classes, size=n)
        a = np.where(rng.random(n) < share, rng.integers(n_classes, size=n), y)
        x = 0.45 * rng.normal(size=(n, D))
        x[np.arange(n), y] += 1.0
        x[np.arange(n), n_classes + a] += 1.5
        arrays = {"x": x.astype(np.float32), "y": y, "g": y * n_classes + a}
        splits[split] = Examples(split=split, arrays=arrays)
    prompts = np.eye(D)[:n_classes, None] + 0.01 * rng.normal(size=(n_classes, 3, D))
    bank = TextBank(
        name="class",
        prompts=tuple(f"class {c}" for c in range(n_classes)),
        templates=("{}", "a {}", "the {}"),
        pooled=None,
        embedding=prompts.astype(np.float32),
    )
    return Task(
        **splits, text={"class": bank}, projection=None, n_classes=n_classes, n_attributes=n_classes
    )


def unit(x: np.ndarray) -> np.ndarray:
    return x.astype(np.float64) / np.linalg.norm(x.astype(np.float64), axis=-1, keepdims=True)


def accuracies(head: torch.nn.Module, examples: Examples) -> np.ndarray:
    right = predict(head, torch.as_tensor(examples.x)).argmax(1).numpy() == examples.y
    return np.array([right[examples.g == g].mean() for g in np.unique(examples.g)])


def slow_fit(x: np.ndarray, labels: np.ndarray, offsets: np.ndarray, penalty: float) -> np.ndarray:
    """W (K, d) by BFGS with differences in place of a gradient, from the formula by loops."""
    k, (n, d) = len(offsets), x.shape

    def objective(theta: np.ndarray) -> float:
        total = penalty * float((theta**2).sum())
        weight = theta.reshape(k, d)
        for row, label in zip(x, labels):
            scores = [100 * float(weight[j] @ row) + offsets[j] for j in range(k)]
            top = max(scores)
            total += (top + np.log(sum(np.exp(s - top) for s in scores)) - scores[label]) / n
        return total

    return minimize(objective, np.zeros(k * d), method="BFGS", options={"gtol": 1e-4}).x.reshape(
        k, d
    )


def test_what_lies_beside_a_span() -> None:
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(3, D))
    rows = np.vstack([rows, rows[0] + 1e-9 * rng.normal(size=D)])  # a near-duplicate prompt
    basis = span_basis(rows)
    assert basis.shape == (3, D)
    pi = beside(np.eye(D), basis)
    assert np.allclose(pi, pi.T)
    assert np.allclose(pi @ pi, pi)
    assert np.allclose(pi @ rows.T, 0, atol=1e-7)
    assert np.isclose(np.trace(pi), D - 3)
    x = rng.normal(size=(5, D))
    assert np.allclose(beside(x + rng.normal(size=(5, 3)) @ rows[:3], basis), beside(x, basis))
    assert span_basis(np.zeros((2, D))).shape == (0, D)


@pytest.mark.parametrize("n_classes", [2, 4])
@pytest.mark.parametrize("bias", [False, True])
def test_without_offsets_it_is_a_plain_probe(n_classes: int, bias: bool) -> None:
    from sklearn.linear_model import LogisticRegression

    task = world(200, n_classes)
    x, y = unit(task.train.x), task.train.y
    weight, intercept = fit_adjusted(x, y, np.zeros(n_classes), scale=10.0, penalty=0.02, bias=bias)
    rows = min(n_classes, 3) - 1  # for two classes it penalises the one row of their difference
    model = LogisticRegression(
        C=1 / (rows * 0.02 * len(y)), fit_intercept=bias, tol=1e-9, max_iter=10_000
    ).fit(10 * x, y)
    theirs = model.coef_ if n_classes > 2 else np.vstack([-model.coef_, model.coef_]) / 2
    assert np.allclose(10 * weight, 10 * theirs, atol=2e-4)
    if bias and n_classes == 2:
        assert np.isclose(intercept[1] - intercept[0], model.intercept_[0], atol=1e-3)
    if not bias:
        assert not intercept.any()


def test_with_an_intercept_offsets_only_move_it() -> None:
    task = world(200)
    x, y = unit(task.train.x), task.train.y
    offsets = np.log([0.9, 0.1])
    plain = fit_adjusted(x, y, np.zeros(2), scale=10.0, penalty=0.02, bias=True)
    moved = fit_adjusted(x, y, offsets, scale=10.0, penalty=0.02, bias=True)
    assert np.allclose(moved[0], plain[0], atol=1e-4)
    difference = (moved[1] + offsets) - plain[1]
    assert np.isclose(difference[0], difference[1], atol=1e-3)


def test_adjustment_puts_the_boundary_in_the_middle() -> None:
    """Two normals of equal spread, nine to one; the last feature is constant."""
    rng = np.random.default_rng(0)
    y = (np.arange(20_000) % 10 == 0).astype(np.int64)
    x = np.column_stack([2 * y - 1 + rng.normal(size=len(y)), np.ones(len(y))])
    at = {}
    for tau in (0.0, 1.0):
        weight, _ = fit_adjusted(
            x, y, tau * np.log([0.9, 0.1]), scale=1.0, penalty=1e-6, bias=False
        )
        slope = weight[1] - weight[0]
        at[tau] = -slope[1] / slope[0]
    assert abs(at[1.0]) < 0.05
    assert abs(at[0.0] - np.log(9) / 2) < 0.06  # where the two weighted densities cross


@pytest.mark.parametrize("pseudo", ["error", "predicted"])
def test_the_three_steps_by_loops(pseudo: str) -> None:
    """tau of one and a half, so that a prior in the wrong place shows."""
    task = world(60, seed=5, rare=0.3)
    method = PPA(pseudo=pseudo, tau=1.5, penalty=0.5, empty="stop")
    head = method.solve(task, seed=0)
    x, y = unit(task.train.x), task.train.y
    proxies = unit(unit(task.bank("class").embedding).mean(1))
    gram = np.linalg.inv(proxies @ proxies.T)
    left = np.stack([row - proxies.T @ gram @ (proxies @ row) for row in x])
    prior = np.array([(y == c).mean() for c in (0, 1)])
    biased = slow_fit(left, y, np.log(prior), 0.5)
    predicted = (left @ biased.T).argmax(1)
    part = predicted != y if pseudo == "error" else predicted
    groups = 2 * y + part
    assert len(set(groups.tolist())) == 4
    beta = np.array([(groups == g).mean() for g in range(4)])
    weight = slow_fit(x, groups, 1.5 * np.log(beta), 0.5)
    summed = 100 * np.stack([weight[:2].sum(0), weight[2:].sum(0)])
    assert np.allclose(head.weight.detach().numpy(), summed, atol=2e-2 * np.abs(summed).max())
    logits = predict(head, torch.as_tensor(task.val.x)).numpy()
    by_group = 100 * unit(task.val.x) @ weight.T
    assert np.allclose(
        logits,
        np.stack([by_group[:, :2].sum(1), by_group[:, 2:].sum(1)], 1),
        atol=3e-2 * np.abs(logits).max(),
    )


@pytest.mark.parametrize(("n_classes", "gain"), [(2, 0.05), (3, 0.02)])
def test_it_mends_rare_groups_without_their_labels(n_classes: int, gain: float) -> None:
    task = world(3000, n_classes, seed=1, rare=0.08)
    plain = PPA(tau=0.0, tau_class=0.0).solve(task, 0)
    mended = PPA().solve(task, 0)
    assert accuracies(mended, task.val).min() > accuracies(plain, task.val).min() + gain


def test_a_class_without_errors_is_refused_dropped_or_cross_fitted() -> None:
    task = world(80, seed=2, rare=0.0)
    x = task.train.x.copy()
    x[np.arange(80), 2 + task.train.y] += 5.0  # the shortcut is never wrong
    train = Examples(split="train", arrays={**task.train.arrays, "x": x})
    easy = Task(
        train=train, val=task.val, text=task.text, projection=None, n_classes=2, n_attributes=2
    )
    with pytest.raises(EmbedcalError, match="found none of one kind in class 0: use --crossfit 5"):
        PPA(empty="stop").solve(easy, 0)
    dropped = PPA().solve(easy, 0)
    assert accuracies(dropped, train).mean() > 0.95
    # Averages in place of sums are half of them where nothing is empty.
    whole = world(300, seed=3, rare=0.3)
    sums = PPA(empty="stop").solve(whole, 0).weight
    assert torch.allclose(2 * PPA().solve(whole, 0).weight, sums, rtol=1e-5)


def test_folds_judge_every_row_once_by_others() -> None:
    y = world(101, 3).train.y
    seen = np.zeros(101, int)
    for fitted, judged in PPA(crossfit=4)._folds(y):
        assert not set(fitted) & set(judged)
        assert len(fitted) + len(judged) == 101
        shares = [np.bincount(y[part], minlength=3) / len(part) for part in (fitted, judged)]
        assert np.abs(shares[0] - shares[1]).max() < 0.05
        seen[judged] += 1
    assert (seen == 1).all()
    # In sample the biased head errs less than on rows that it has not seen.
    task = world(60, seed=9, rare=0.2)
    errors = [(PPA(crossfit=k, penalty=1e-6)._biased(task) != task.train.y).sum() for k in (0, 5)]
    assert errors[0] < errors[1]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"crossfit": 1}, "crossfit of 0 or of 2"),
        ({"penalty": 0.0}, "positive --penalty"),
        ({"tau": -1.0}, "no negative --tau"),
        ({"pseudo": "none"}, "pseudo"),
    ],
)
def test_options_are_checked(given: dict, message: str) -> None:
    with pytest.raises(EmbedcalError, match=message):
        PPA(**given)


def test_it_reads_no_group_and_no_seed() -> None:
    assert PPA().needs == {"train.x", "train.y", "text.class"}
    task = world(200, rare=0.3)
    assert torch.equal(PPA().solve(task, 0).weight, PPA().solve(task, 1).weight)
