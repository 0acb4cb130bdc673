"""The linear probe against scikit-learn, its own optimality conditions, and its company."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from embedcal.heads import LinearHead, predict
from embedcal.methods import _logistic
from embedcal.methods._logistic import Limits, principal_axes, solve_logistic
from embedcal.methods.linear_probe import LinearProbe
from embedcal.types import EmbedcalError, Examples, Task, WithheldError

TIGHT = 1e-8
BALANCES = ("none", "class", "group")


def world(n: int = 300, d: int = 9, n_classes: int = 2, seed: int = 0) -> dict[str, np.ndarray]:
    """Rows of uneven classes whose features have a mean, falling deviations and a constant."""
    rng = np.random.default_rng([seed, n, d])
    y = np.minimum(rng.geometric(0.5, size=n) - 1, n_classes - 1)
    y[:n_classes] = np.arange(n_classes)
    a = np.where(rng.random(n) < 0.2, 1 - y % 2, y % 2)
    x = rng.normal(size=(n, d)) * np.arange(1, d + 1) ** -0.7 + 2.0
    x[:, : n_classes - 1] += 0.8 * (y[:, None] == np.arange(1, n_classes))
    x[:, -1] = 3.0
    return {"x": x.astype(np.float32), "y": y, "g": 2 * y + a}


def task(train: dict[str, np.ndarray], n_classes: int = 2) -> Task:
    return Task(
        train=Examples(split="train", arrays=train),
        val=Examples(split="val", arrays={}),
        text={},
        projection=None,
        n_classes=n_classes,
        n_attributes=2,
    )


def weights_of(data: dict[str, np.ndarray], balance: str) -> np.ndarray:
    """v_i by the formula, one row at a time."""
    if balance == "none":
        return np.ones(len(data["y"]))
    labels = data["g" if balance == "group" else "y"].tolist()
    return np.array([len(labels) / (len(set(labels)) * labels.count(one)) for one in labels])


def parameters(head: Any) -> tuple[np.ndarray, np.ndarray]:
    """W (R, d) and b (R,) as the objective has them: for two classes one row, the difference."""
    assert isinstance(head, LinearHead)
    w, b = head.weight.detach().double().numpy(), head.bias.detach().double().numpy()
    return (w[1:] - w[:1], b[1:] - b[:1]) if len(w) == 2 else (w, b)


def objective(
    w: np.ndarray, b: np.ndarray, x: np.ndarray, y: np.ndarray, u: np.ndarray
) -> tuple[float, np.ndarray, np.ndarray]:
    """The stated formula and its gradients by W and b; the scores of class 0 are 0 for one row."""
    scores = x @ w.T + b
    if len(w) == 1:
        scores = np.hstack([np.zeros_like(scores), scores])
    scores = scores - scores.max(1, keepdims=True)
    total = np.exp(scores).sum(1)
    ce = np.log(total) - scores[np.arange(len(y)), y]
    r = u[:, None] * (np.exp(scores) / total[:, None] - np.eye(scores.shape[1])[y])
    r = r[:, 1:] if len(w) == 1 else r
    return float((w**2).sum() / 2 + u @ ce), w + r.T @ x, r.sum(0)


def scikit_learn(x: np.ndarray, y: np.ndarray, c: float, v: np.ndarray, tol: float = 1e-10) -> Any:
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(C=c, tol=tol, max_iter=100_000).fit(x, y, sample_weight=v)


@pytest.mark.parametrize("n_classes", [2, 3, 5])
@pytest.mark.parametrize("c", [1e-3, 1.0, 300.0])
@pytest.mark.parametrize("balance", BALANCES)
def test_the_objective_is_no_worse_than_scikit_learns(
    n_classes: int, c: float, balance: str
) -> None:
    data = world(n_classes=n_classes)
    x, y, v = data["x"].astype(float), data["y"], weights_of(data, balance)
    head = LinearProbe(c=c, features="embedding", balance=balance).solve(task(data, n_classes), 0)
    w, b = parameters(head)
    ours, _, _ = objective(w, b, x, y, c * v)
    tight = scikit_learn(x, y, c, v)
    best, _, _ = objective(tight.coef_, tight.intercept_, x, y, c * v)
    assert ours <= best * (1 + 1e-9)
    # The last feature is constant, and scikit-learn slow to find that the intercept is for free.
    size = np.abs(tight.coef_).max()
    np.testing.assert_allclose(w[:, :-1], tight.coef_[:, :-1], atol=1e-4 * size)
    assert np.abs(w[:, -1]).max() < 1e-6 * size


@pytest.mark.parametrize("n_classes", [2, 4])
@pytest.mark.parametrize("features", ["embedding", "normalised", "pooled"])
@pytest.mark.parametrize("standardise", ["off", "on"])
def test_gradients_vanish_at_the_optimum(
    n_classes: int, features: str, standardise: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the units that the penalty is in: unit rows, and rows over each feature's deviation."""
    found: list[Any] = []
    monkeypatch.setattr(
        "embedcal.methods.linear_probe.solve_logistic",
        lambda *given: found.append(solve_logistic(*given)) or found[0],
    )
    data, c = world(n_classes=n_classes), 20.0
    method = LinearProbe(c=c, features=features, standardise=standardise, tol=1e-7)
    head = method.solve(task(data, n_classes), 0)
    x = data["x"].astype(float)
    if features == "normalised":
        x = x / np.linalg.norm(x, axis=1, keepdims=True)
    if standardise == "on":
        x = x / np.where(x.std(0) > 1e-9, x.std(0), 1.0)
    w, b = found[0].weight[0].numpy(), found[0].bias[0].numpy()
    assert w.shape == (n_classes - (n_classes == 2), 9)
    centred = x - x.mean(0)
    _, by_w, by_b = objective(w, b + w @ x.mean(0), centred, data["y"], np.full(len(x), c))
    assert np.linalg.norm(by_w) < 1.01e-7 * np.linalg.norm(w)
    assert np.abs(by_b).max() < 1e-7 * np.linalg.norm(w)

    assert isinstance(head, LinearHead)
    assert head.level == method.level == ("pooled" if features == "pooled" else "embedding")
    scores = x @ w.T + b
    scores = np.hstack([-scores, scores]) / 2 if n_classes == 2 else scores
    logits = predict(head, torch.from_numpy(data["x"])).numpy()
    np.testing.assert_allclose(logits, scores, atol=1e-4)


def raw_solution(data: dict[str, np.ndarray], u: np.ndarray, **limits: Any) -> Any:
    """One problem of two classes, in float64 throughout."""
    limit = Limits(
        tol=torch.tensor([limits.get("tol", TIGHT)]),
        steps=torch.tensor([limits.get("steps", 1000)]),
    )
    x, y = torch.from_numpy(data["x"]), torch.from_numpy(data["y"])
    return solve_logistic(principal_axes(x), y[None].double(), torch.from_numpy(u)[None], limit)


@pytest.mark.parametrize("tol", [1e-2, 1e-4, 1e-6])
@pytest.mark.parametrize("c", [1e-4, 1.0, 1e3])
def test_the_tolerance_bounds_the_relative_error_of_the_weights(tol: float, c: float) -> None:
    data = world(500, 20)
    u = np.full(500, c)
    exact, found = raw_solution(data, u, tol=1e-11), raw_solution(data, u, tol=tol)
    assert found.converged.all()
    assert (found.weight - exact.weight).norm() <= tol * found.weight.norm() * (1 + 1e-6)
    assert found.steps <= exact.steps


def test_alone_and_in_company_it_is_the_same() -> None:
    """Stacks of several chunks, in any order, every option that may differ differing."""
    data = world(200, 8)
    rng = np.random.default_rng(0)
    methods = [
        LinearProbe(c=float(c), balance=balance, tol=tol)
        for c in 10 ** rng.uniform(-3, 3, size=40)
        for balance in ("none", "class")
        for tol in (1e-8, 1e-7)
    ]
    assert len({method.stack_key for method in methods}) == 1
    assert len(methods) > 2 * _logistic.COLUMNS
    stack = LinearProbe.solve_stack(methods, task(data), range(len(methods)))
    for k in rng.choice(len(methods), 12):
        alone = methods[k].solve(task(data), 7)
        for ours, theirs in zip(parameters(stack[k]), parameters(alone)):
            np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6 * np.abs(theirs).max())


def test_runs_that_read_other_arrays_are_not_stacked() -> None:
    keys = {
        LinearProbe(**options).stack_key
        for options in ({}, {"features": "pooled"}, {"standardise": "on"}, {"balance": "group"})
    }
    assert len(keys) == 4
    assert LinearProbe(c=3.0, max_iter=5).stack_key == LinearProbe(balance="class").stack_key
    less = task({name: values for name, values in world().items() if name != "g"})
    with pytest.raises(WithheldError, match=r"train\.g"):
        LinearProbe(balance="group").solve(less, 0)


def test_the_order_of_rows_does_not_matter_nor_does_the_seed() -> None:
    data = world(n_classes=3)
    mixed = {name: v[np.random.default_rng(1).permutation(300)] for name, v in data.items()}
    method = LinearProbe(c=10.0, balance="group", tol=TIGHT)
    assert not method.random
    for ours, theirs in zip(
        *(parameters(method.solve(task(t, 3), s)) for t, s in ((data, 0), (mixed, 1)))
    ):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


def test_weights_are_repeated_rows() -> None:
    data, times = world(120, 6), np.random.default_rng(0).integers(1, 5, size=120)
    repeated = {name: np.repeat(values, times, 0) for name, values in data.items()}
    ours = raw_solution(data, 2.5 * times.astype(float))
    theirs = raw_solution(repeated, np.full(times.sum(), 2.5))
    torch.testing.assert_close(ours.weight, theirs.weight, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(ours.bias, theirs.bias, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("n_classes", [2, 3])
def test_permuted_labels_permute_the_rows_of_the_head(n_classes: int) -> None:
    data = world(n_classes=n_classes)
    to = np.roll(np.arange(n_classes), 1)
    renamed = data | {"y": to[data["y"]]}
    method = LinearProbe(c=5.0, tol=TIGHT)
    ours, theirs = (method.solve(task(d, n_classes), 0) for d in (data, renamed))
    assert isinstance(ours, LinearHead)
    assert isinstance(theirs, LinearHead)
    torch.testing.assert_close(theirs.weight[to], ours.weight, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(theirs.bias[to], ours.bias, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("c", [1e3, 1e6])
@pytest.mark.parametrize("n_classes", [2, 3])
def test_separable_rows_with_hardly_a_penalty(c: float, n_classes: int) -> None:
    data = world(n_classes=n_classes)
    data["x"][:, :n_classes] = 4.0 * np.eye(n_classes)[data["y"]]
    head = LinearProbe(c=c, features="embedding").solve(task(data, n_classes), 0)
    w, b = parameters(head)
    x, y, u = data["x"].astype(float), data["y"], np.full(300, c)
    tight = scikit_learn(x, y, c, np.ones(300), tol=1e-12)
    best, _, _ = objective(tight.coef_, tight.intercept_, x, y, u)
    assert objective(w, b, x, y, u)[0] <= best * (1 + 1e-6)
    predicted = predict(head, torch.from_numpy(data["x"])).argmax(1).numpy()
    assert (predicted == y).all()


def test_constant_features_leave_the_intercepts_alone() -> None:
    """Closed form: no weights, and the log-odds of the weighted shares."""
    data = world(n_classes=3)
    data["x"][:] = 1.5
    for balance in ("none", "class"):
        for features in ("embedding", "normalised"):
            method = LinearProbe(features=features, balance=balance, standardise="on")
            w, b = parameters(method.solve(task(data, 3), 0))
            v = weights_of(data, balance)
            share = np.array([v[data["y"] == k].sum() for k in range(3)])
            assert np.abs(w).max() < 1e-6
            np.testing.assert_allclose(
                b - b.mean(), np.log(share) - np.log(share).mean(), atol=1e-5
            )


def test_a_small_c_shrinks_the_weights_to_the_first_gradient() -> None:
    """To first order in C: w = C sum_i (y_i - mean y) x_i."""
    data = world()
    found = raw_solution(data, np.full(300, 1e-9))
    wanted = 1e-9 * data["x"].astype(float).T @ (data["y"] - data["y"].mean())
    np.testing.assert_allclose(found.weight[0, 0].numpy(), wanted, rtol=1e-5, atol=1e-12)


def test_too_few_steps_are_kept_and_told() -> None:
    data, u = world(), np.full(300, 100.0)
    short, whole = raw_solution(data, u, steps=2), raw_solution(data, u)
    assert short.steps.tolist() == [2]
    assert not short.converged.any()
    assert whole.converged.all()
    x, y = data["x"].astype(float), data["y"]
    values = [
        objective(found.weight[0].numpy(), found.bias[0].numpy(), x, y, u)[0]
        for found in (raw_solution(data, u, steps=1), short, whole)
    ]
    assert values == sorted(values, reverse=True)
    assert len(set(values)) == 3
    two = [LinearProbe(c=100.0, max_iter=2), LinearProbe(c=100.0)]
    stack = LinearProbe.solve_stack(two, task(data), [0, 0])
    for head, method in zip(stack, two):
        torch.testing.assert_close(head.weight, method.solve(task(data), 0).weight)  # type: ignore[attr-defined]
    assert not torch.equal(*(head.weight for head in stack))  # type: ignore[attr-defined]


def test_more_features_than_rows() -> None:
    data = world(40, 90)
    head = LinearProbe(c=10.0, features="embedding", tol=1e-7).solve(task(data), 0)
    w, _ = parameters(head)
    tight = scikit_learn(data["x"].astype(float), data["y"], 10.0, np.ones(40))
    np.testing.assert_allclose(w, tight.coef_, atol=1e-4 * np.abs(tight.coef_).max())


def test_balancing_lifts_a_rare_class() -> None:
    train, test = world(2000, seed=1), world(2000, seed=2)
    kept = (train["y"] == 0) | (np.arange(2000) % 20 == 0)
    train = {name: values[kept] for name, values in train.items()}

    def recall(balance: str) -> float:
        head = LinearProbe(balance=balance).solve(task(train), 0)
        predicted = predict(head, torch.from_numpy(test["x"])).argmax(1).numpy()
        return float((predicted[test["y"] == 1] == 1).mean())

    assert recall("class") > recall("none") + 0.2


def test_a_class_without_rows_is_named() -> None:
    with pytest.raises(EmbedcalError, match="none of class 2") as error:
        LinearProbe().solve(task(world(), 3), 0)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("kwargs", "words"),
    [
        ({"c": 0.0}, "positive"),
        ({"c": float("inf")}, "finite"),
        ({"tol": float("nan")}, "finite"),
        ({"max_iter": 0}, "--max-iter of 1 or more"),
        ({"balance": "groups"}, "none, class, group"),
        ({"features": "tokens"}, "pooled"),
    ],
)
def test_bad_options_are_one_line(kwargs: dict[str, Any], words: str) -> None:
    with pytest.raises(EmbedcalError, match=words) as error:
        LinearProbe(**kwargs)
    assert "\n" not in str(error.value)
    assert replace(LinearProbe(), c=2.0).c == 2.0
