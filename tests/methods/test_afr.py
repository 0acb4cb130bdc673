"""AFR against gradient descent written here in NumPy, its weights, and the two parts of train."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from embedcal.cache import open_cache
from embedcal.fitting import fit
from embedcal.heads import LinearHead, predict
from embedcal.methods.afr import AFR
from embedcal.methods.base import Staged
from embedcal.methods.erm import ERM
from embedcal.train import Data, train
from embedcal.types import EmbedcalError, Examples, Task

N, D, STEPS = 120, 6, 20


def make_task(classes: int = 2, *, seed: int = 0, y: Any = None) -> Task:
    """Random rows of unequal classes, and a stage with random weights."""
    rng = np.random.default_rng(seed)
    y = rng.integers(classes, size=N) * (rng.random(N) < 0.7) if y is None else y
    x = (3 * rng.normal(size=(N, D)) + 1).astype(np.float32)
    head = LinearHead(
        torch.tensor(rng.normal(size=(classes, D)), dtype=torch.float32),
        torch.tensor(rng.normal(size=classes), dtype=torch.float32),
        normalise=True,
        level="embedding",
    )
    examples = {name: Examples(split=name, arrays={"x": x, "y": y}) for name in ("train", "val")}
    logits = predict(head, torch.from_numpy(x))
    return Task(
        **examples,
        text={},
        projection=None,
        n_classes=classes,
        n_attributes=1,
        stage=Staged(head=head, logits=logits),
    )


def softmax(logits: Any) -> Any:
    e = np.exp(logits - logits.max())
    return e / e.sum()


def weights(task: Task, rows: Any, gamma: float) -> Any:
    """mu_i = beta_y exp(-gamma p_i), normalised, row by row."""
    y, logits = task.train.y, task.stage.logits.numpy().astype(float)
    mu = [
        1 / sum(y[j] == y[i] for j in rows) * np.exp(-gamma * softmax(logits[i])[y[i]])
        for i in rows
    ]
    return np.array(mu) / sum(mu)


def descend(task: Task, rows: Any, start: Any, gamma: float, penalty: float, lr: float) -> Any:
    """Twenty steps of clipped gradient descent on sum mu CE + penalty ||theta - theta_0||^2."""
    w0, b0 = (p.detach().numpy().astype(float) for p in task.stage.head.parameters())
    w, b = (p.astype(float).copy() for p in start)
    mu = weights(task, rows, gamma)
    for _ in range(STEPS):
        gw, gb = 2 * penalty * (w - w0), 2 * penalty * (b - b0)
        for m, i in zip(mu, rows):
            x = task.train.x[i].astype(float)
            x = x / np.linalg.norm(x)
            error = softmax(w @ x + b)
            error[task.train.y[i]] -= 1
            gw += m * np.outer(error, x)
            gb += m * error
        norm = np.sqrt((gw**2).sum() + (gb**2).sum())
        scale = min(1.0, 1.0 / norm)
        w, b = w - lr * scale * gw, b - lr * scale * gb
    return w, b


@pytest.mark.parametrize("variant", AFR.variants)
@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize(
    ("gamma", "penalty", "lr"), [(8.0, 0.0, 1.0), (2.0, 0.3, 0.5), (0.0, 5.0, 0.02)]
)
def test_twenty_steps_equal_descent_in_numpy(
    variant: str, classes: int, gamma: float, penalty: float, lr: float
) -> None:
    """The last setting is steep enough for the gradient to be clipped, from a random start."""
    task = make_task(classes)
    method = AFR(variant=variant, gamma=gamma, penalty=penalty, lr=lr, epochs=STEPS)
    generator = torch.Generator().manual_seed(7)
    plan = method.prepare(task, generator)
    start = [p.detach().numpy() for p in method.start_head(task, generator).parameters()]
    stage = [p.detach().numpy() for p in task.stage.head.parameters()]
    moved = [np.abs(a - b).max() for a, b in zip(start, stage)]
    assert max(moved) <= D**-0.5
    assert (min(moved) > 0) == (variant == "notebook")
    w, b = descend(task, method.rows(task, plan), start, gamma, penalty, lr)
    head = train(method, task, seed=7)
    np.testing.assert_allclose(head.weight.detach(), w, rtol=0, atol=1e-4)
    np.testing.assert_allclose(head.bias.detach(), b, rtol=0, atol=1e-4)
    if variant == "notebook" or penalty < 5:
        assert max(np.abs(w - start[0]).max(), np.abs(b - start[1]).max()) > 0.05


def loss_of(method: AFR, task: Task, rows: Any = None) -> float:
    plan = method.prepare(task, torch.Generator())
    step = next(iter(method.steps(task, plan, 1, torch.Generator())))
    batch = Data.on_device(task.train, "cpu").batch(step)
    hyper = {name: torch.tensor(value) for name, value in method.hyper().items()}
    head = method.start_head(task, torch.Generator())
    return float(method.loss(head, method.init(plan), batch, hyper)[0].detach())


def test_without_gamma_classes_weigh_the_same() -> None:
    """The loss is then the mean over classes of each one's mean."""
    task, method = make_task(3), AFR(gamma=0.0)
    rows = method.prepare(task, torch.Generator()).rows
    y = task.train.y[rows]
    logits = task.stage.logits.numpy()[rows].astype(float)
    ce = np.array([-np.log(softmax(row)[label]) for row, label in zip(logits, y)])
    expected = np.mean([ce[y == c].mean() for c in range(3)])
    assert loss_of(method, task) == pytest.approx(expected, rel=1e-5)


def test_a_huge_gamma_leaves_the_least_likely_row_and_stays_finite() -> None:
    task, method = make_task(), AFR(gamma=1e6)
    rows = method.prepare(task, torch.Generator()).rows
    p = [softmax(task.stage.logits[i].numpy())[task.train.y[i]] for i in rows]
    assert loss_of(method, task) == pytest.approx(-np.log(min(p)), rel=1e-4)


def test_the_parts_are_the_stage_s_rest_and_the_same_for_every_seed() -> None:
    task, method = make_task(), AFR(stage_fraction=0.7)
    first = ERM(**method.stage.options)
    seen = first.rows(task, None)
    assert seen is not None
    for seed in (0, 1):
        kept = method.prepare(task, torch.Generator().manual_seed(seed)).rows
        assert len(kept) == round(0.3 * N)
        assert sorted([*seen, *kept]) == list(range(N))
    assert (first.head, first.lr, first.epochs) == ("linear", 3e-2, 30)
    assert method.stage.select == "last"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"gamma": -1.0}, "--gamma of 0 or more, found -1.0"),
        ({"penalty": float("nan")}, "--penalty of afr to be finite, found nan"),
        ({"stage_fraction": 1.0}, "--stage-fraction between 0 and 1, found 1.0"),
        ({"head": "projection"}, "--head of afr to be one of linear"),
        ({"sampler": "group"}, "--sampler of afr to be one of iid"),
        ({"variant": "official"}, "one of paper, notebook"),
    ],
)
def test_a_mistake_gets_one_line(options: dict[str, Any], words: str) -> None:
    with pytest.raises(EmbedcalError, match=words) as error:
        AFR(**options)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("fraction", [0.8, 0.999])
def test_a_second_part_of_one_class_is_refused(fraction: float) -> None:
    task = make_task(y=np.zeros(N, int))
    with pytest.raises(EmbedcalError, match=r"two classes.*: lower --stage-fraction"):
        train(AFR(stage_fraction=fraction), task, seed=0)


def test_gammas_share_a_first_run_that_is_stored_and_trained_once(
    birds: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[str] = []

    def spy(method: Any, *args: Any, **kwargs: Any) -> Any:
        trained.append(method.name)
        return train(method, *args, **kwargs)

    monkeypatch.setattr("embedcal.train.train", spy)
    options = {"epochs": 5, "stage_epochs": 2, "out": tmp_path}
    with open_cache(birds) as cache:
        runs = [
            fit("afr", cache, gamma=gamma, penalty=penalty, variant=variant, **options)
            for gamma, penalty, variant in (
                (4.0, 0.0, "paper"), (8.0, 0.1, "paper"), (8.0, 0.1, "notebook"),
            )
        ]  # fmt: skip
    assert trained == ["erm", "afr", "afr", "afr"]
    assert len({run.record["stage"] for run in runs}) == 1
    assert len({run.id for run in runs}) == 3
    assert all("train.g" not in run.record["labels_used"] for run in runs)
    heads = [run.head("last").weight for run in runs]
    assert not torch.equal(heads[0], heads[1])
    assert not torch.equal(heads[1], heads[2])
