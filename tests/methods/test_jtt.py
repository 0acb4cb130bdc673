"""JTT: what its error set is, how often each row is seen, and a first run that is shared."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from embedcal.cache import open_cache
from embedcal.fitting import fit
from embedcal.heads import LinearHead
from embedcal.methods.base import Staged
from embedcal.methods.erm import ERM
from embedcal.methods.jtt import JTT
from embedcal.runs import load_run
from embedcal.train import Data, train
from embedcal.types import EmbedcalError, Examples, Task
from embedcal.workbench import Workbench

N, D, LAMBDA = 37, 5, 4
WRONG = np.array([3, 8, 9, 30])
QUICK: dict[str, Any] = {"epochs": 1, "stage_epochs": 1}


def make_task(wrong: np.ndarray = WRONG, *, classes: int = 3) -> Task:
    """Random rows, and a stage whose logits are wrong exactly there."""
    rng = np.random.default_rng(0)
    y = rng.integers(classes, size=N)
    guess = y.copy()
    guess[wrong] = (y[wrong] + 1) % classes
    logits = rng.random((N, classes))
    logits[np.arange(N), guess] += 2
    arrays = {"x": rng.normal(size=(N, D)).astype(np.float32), "y": y}
    generator = torch.Generator().manual_seed(0)
    head = LinearHead.start(D, classes, generator, normalise=True)
    return Task(
        train=Examples(split="train", arrays=arrays),
        val=Examples(split="val", arrays=arrays),
        text={},
        projection=None,
        n_classes=classes,
        n_attributes=1,
        stage=Staged(head=head, logits=torch.from_numpy(logits)),
    )


def jtt(variant: str = "paper", **options: Any) -> JTT:
    return JTT(**{"head": "linear", "upweight": LAMBDA, "variant": variant, **options})


@pytest.mark.parametrize("batch_size", [8, 0])
@pytest.mark.parametrize(("variant", "times"), [("paper", 4), ("official", 5), ("subpop", 1)])
def test_an_epoch_sees_each_error_as_often_as_the_variant_says(
    variant: str, times: int, batch_size: int
) -> None:
    task, method = make_task(), jtt(variant, batch_size=batch_size)
    generator = torch.Generator().manual_seed(1)
    plan = method.prepare(task, generator)
    expected = [times if row in WRONG else 1 for row in range(N)]
    for epoch in (1, 2):
        steps = [step.batch for step in method.steps(task, plan, epoch, generator)]
        assert np.bincount(torch.cat(steps), minlength=N).tolist() == expected
    assert len(steps) == (1 if batch_size == 0 else -(-sum(expected) // batch_size))


@pytest.mark.parametrize("variant", JTT.variants)
def test_the_loss_of_a_batch(variant: str) -> None:
    """The plain mean where errors are repeated; where they are weighed, sum_i w_i CE_i / b."""
    task, method = make_task(), jtt(variant)
    plan = method.prepare(task, torch.Generator())
    head = task.stage.head
    index = [0, 3, 4, 30, 30, 36]
    step = next(iter(method.steps(task, plan, 1, torch.Generator())))
    batch = Data.on_device(task.train, "cpu").batch(replace(step, batch=torch.tensor(index)))
    found = float(method.loss(head, method.init(plan), batch, {})[0].detach())
    w, b = head.weight.detach().numpy().astype(float), head.bias.detach().numpy().astype(float)
    total = 0.0
    for row in index:
        x = task.train.x[row].astype(float)
        logits = w @ (x / np.linalg.norm(x)) + b
        ce = np.log(np.exp(logits).sum()) - logits[task.train.y[row]]
        total += ce * (LAMBDA if variant == "subpop" and row in WRONG else 1)
    assert found == pytest.approx(total / len(index), rel=1e-5)


@pytest.mark.parametrize("variant", ["paper", "subpop"])
def test_errors_that_count_once_make_it_erm(variant: str) -> None:
    task = make_task()
    options = {"head": "linear", "epochs": 3, "batch_size": 8, "lr": 0.05}
    plain = train(ERM(**options), task, seed=2)
    once = train(jtt(variant, upweight=1, **options), task, seed=2)
    more = train(jtt(variant, **options), task, seed=2)
    assert torch.equal(plain.weight, once.weight)
    assert not torch.equal(plain.weight, more.weight)


@pytest.mark.parametrize("variant", JTT.variants)
@pytest.mark.parametrize(
    ("wrong", "words"),
    [([], "misclassifies.*found none: lower --stage-epochs"),
     (range(N), "classifies rightly.*found none: raise --stage-epochs")],
)  # fmt: skip
def test_an_error_set_of_nothing_or_everything_is_refused(
    wrong: Any, words: str, variant: str
) -> None:
    task = make_task(np.array(list(wrong), int))
    with pytest.raises(EmbedcalError, match=words) as error:
        train(jtt(variant), task, seed=0)
    assert "\n" not in str(error.value)


def test_an_upweight_below_one_is_refused() -> None:
    with pytest.raises(EmbedcalError, match="--upweight of 1 or more, found 0"):
        jtt(upweight=0)


def test_the_first_run_is_the_same_method_without_weights() -> None:
    method = jtt(lr=0.02, weight_decay=0.3, optimizer="sgd", batch_size=7, stage_epochs=4)
    first = ERM(**method.stage.options)
    same = ("head", "lr", "weight_decay", "optimizer", "batch_size", "features", "clip_norm")
    assert [getattr(first, k) for k in same] == [getattr(method, k) for k in same]
    assert (first.epochs, first.fraction, method.stage.select) == (4, 1.0, "last")


def test_lambdas_share_a_first_run_that_is_stored_and_trained_once(
    birds: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[str] = []

    def spy(method: Any, *args: Any, **kwargs: Any) -> Any:
        trained.append(method.name)
        return train(method, *args, **kwargs)

    monkeypatch.setattr("embedcal.train.train", spy)
    with open_cache(birds) as cache:
        runs = [
            fit("jtt", cache, seed=1, out=tmp_path, upweight=value, variant=variant, **QUICK)
            for value, variant in ((5, "paper"), (9, "paper"), (9, "subpop"))
        ]
        assert trained == ["erm", "jtt", "jtt", "jtt"]
        assert len({run.record["stage"] for run in runs}) == 1
        assert len({run.id for run in runs}) == 3
        other = fit("jtt", cache, seed=2, out=tmp_path, upweight=5, **QUICK)
        assert other.record["stage"] != runs[0].record["stage"]

        stage = load_run(tmp_path / runs[0].record["stage"])
        assert stage is not None
        train_split = Workbench(cache).split("train", "pooled")
        assert "train.g" not in runs[0].record["labels_used"]
        with torch.no_grad():
            guess = stage.head("last")(torch.as_tensor(train_split.x)).argmax(1).numpy()
        assert fit("erm", cache, seed=1, out=tmp_path, epochs=1).reused  # it is a run like others
    wrong = guess != train_split.y
    assert 0 < wrong.sum() < len(wrong)
