"""CFR against its definition, written as loops over anchors; what it refuses, and its control."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from worlds import D, embed, nrm, small_task

from embedcal.cache import BuildOptions, open_cache
from embedcal.fitting import configure, fit
from embedcal.heads import ClipHead, prototypes
from embedcal.methods.base import Staged
from embedcal.methods.cfr import CFR
from embedcal.train import Data, train
from embedcal.types import EmbedcalError, Examples, Task

TAU, P, N = 0.3, 3, 4
BASE: dict[str, Any] = {
    "head": "projection", "tau": TAU, "positives": P, "negatives": N, "anchors": 9,
    "batch_size": 20, "class_balanced": "off", "calibration": "erm",
}  # fmt: skip


def one_step(method: CFR, task: Task) -> tuple[Any, Any, Any, Any]:
    """Plan, batch, loss and state of the first step from the pretrained projection."""
    generator = torch.Generator().manual_seed(1)
    plan = method.prepare(task, generator)
    head = method.start_head(task, generator)
    assert isinstance(head, ClipHead)
    step = next(iter(method.steps(task, plan, 1, generator)))
    batch = Data.on_device(task.train, "cpu").batch(step)
    hyper = {name: torch.tensor(value) for name, value in method.hyper().items()}
    loss, state = method.loss(head, method.init(plan), batch, hyper)
    return plan, batch, float(loss.detach()), state


def contrast(v: Any, positives: Any, negatives: Any) -> float:
    """mean_p -log[e^{v.p/tau} / (e^{v.p/tau} + sum_n e^{v.n/tau})], one anchor."""
    total = sum(np.exp(v @ n / TAU) for n in negatives)
    each = [-np.log(np.exp(v @ p / TAU) / (np.exp(v @ p / TAU) + total)) for p in positives]
    return float(np.mean(each)) if each else 0.0


def pretrained_centroids(task: Task) -> Any:
    """Normalised class means of the embeddings of training rows that the stage gets right."""
    f, y = embed(task, task.train.x), task.train.y
    right = task.stage.logits.argmax(1).numpy() == y
    return np.stack([nrm(f[(y == c) & right].sum(0)) for c in range(task.n_classes)])


@pytest.mark.parametrize("classes", [2, 5])
@pytest.mark.parametrize("pos", ["dps", "rps"])
@pytest.mark.parametrize(
    ("neg", "pool", "space"),
    [
        ("rns", "batch", "current"),
        ("rns", "dataset", "current"),
        ("nns", "batch", "current"),
        ("nns", "batch", "embedding"),
        ("nns", "dataset", "embedding"),
        ("nns", "dataset", "pooled"),
        ("centroid", "batch", "current"),
    ],
)
def test_the_calibration_term_is_its_definition(
    classes: int, pos: str, neg: str, pool: str, space: str
) -> None:
    task = small_task(classes=classes)
    method = CFR(**BASE, pos=pos, neg=neg, pool=pool, space=space, cosine_weight=0.0)
    plan, batch, loss, _ = one_step(method, task)
    f, x, y = embed(task, task.train.x), task.train.x, task.train.y
    wrong = task.stage.logits.argmax(1).numpy() != y
    assert set(plan.wrong.tolist()) == set(np.flatnonzero(wrong))
    centroids = pretrained_centroids(task)
    in_batch = batch.index.numpy()
    near = {"embedding": nrm(task.train.at("embedding")), "pooled": nrm(x), "current": f}[space]
    expected = []
    for i in batch.more["anchors"].index.numpy():
        assert wrong[i]
        same = [j for j in in_batch if y[j] == y[i] and j != i]
        other = [j for j in in_batch if y[j] != y[i]]
        if pos == "dps":
            positives = [centroids[y[i]]]
        elif pool == "batch":
            positives = list(f[same[:P]])
        else:
            drawn = batch.more["positives"].index.numpy()
            assert len(drawn) == classes * P
            positives = list(f[[j for j in drawn if y[j] == y[i]]])
            assert len(positives) == P
        if neg == "centroid":
            negatives = [centroids[c] for c in range(classes) if c != y[i]]
        elif neg == "rns" and pool == "batch":
            negatives = list(f[other[:N]])
        elif neg == "rns":
            drawn = batch.more["negatives"].index.numpy().reshape(classes, N)[y[i]]
            assert all(y[drawn] != y[i])
            negatives = list(f[drawn])
        else:
            among = other if pool == "batch" else [j for j in range(len(y)) if y[j] != y[i]]
            closest = sorted(among, key=lambda j: -near[i] @ near[j])[:N]
            negatives = list(f[closest])
        expected.append(contrast(f[i], positives, negatives))
    assert loss == pytest.approx(np.mean(expected), rel=1e-4)


@pytest.mark.parametrize("balanced", ["on", "off"])
def test_the_terms_on_everything(balanced: str) -> None:
    """w L_cos + w' CE, each class with the same weight where that is asked for."""
    task = small_task(classes=3)
    options = {**BASE, "class_balanced": balanced, "calibration": "none"}
    method = CFR(**options, correct="pretrained", cosine_weight=0.7, ce_weight=0.3)
    _, batch, loss, _ = one_step(method, task)
    f, y = embed(task, task.train.x)[batch.index], batch.y.numpy()
    w = np.array([1.0 / (y == c).sum() for c in y]) if balanced == "on" else np.ones(len(y))
    w = w / w.sum()
    cosine = 0.0
    for i in range(len(y)):
        for j in range(len(y)):
            cosine += w[i] * w[j] * (-1 if y[i] == y[j] else 1) * float(f[i] @ f[j])
    bank = task.bank("class").embedding
    logits = f @ prototypes(torch.tensor(bank)).double().numpy().T / 0.07
    ce = sum(w[i] * (np.log(np.exp(logits[i]).sum()) - logits[i][y[i]]) for i in range(len(y)))
    assert loss == pytest.approx(0.7 * cosine + 0.3 * ce, rel=1e-4)


@pytest.mark.parametrize("correct", ["pretrained", "erm", "current"])
@pytest.mark.parametrize("confidence", ["off", "entropy", "margin"])
def test_centroids_move_by_examples_that_are_predicted_correctly(
    correct: str, confidence: str
) -> None:
    task = small_task(classes=3)
    method = CFR(**BASE, correct=correct, confidence=confidence, centroid_momentum=0.6)
    plan, batch, _, state = one_step(method, task)
    f, y = embed(task, task.train.x), task.train.y
    text = prototypes(torch.tensor(task.bank("class").embedding)).double().numpy()
    logits = {"erm": task.stage.logits.double().numpy()}.get(correct, f @ text.T / 0.07)
    for c in range(3):
        total = np.zeros(D)
        for i in batch.index.numpy():
            p = np.exp(logits[i]) / np.exp(logits[i]).sum()
            sure = {
                "off": 1.0,
                "entropy": 1 + (p * np.log(p)).sum() / np.log(3),
                "margin": np.sort(p)[-1] - np.sort(p)[-2],
            }[confidence]
            if y[i] == c and logits[i].argmax() == c:
                total += sure * f[i]
        before = plan.centroids[c].double().numpy()
        after = nrm(0.6 * before + 0.4 * nrm(total)) if total.any() else before
        np.testing.assert_allclose(state.centroids[c], after, atol=1e-5)


def test_the_official_variant_is_what_its_code_computes() -> None:
    """1.5 (CE + contrast at temperature 1 with the anchor's own class) + targeted contrast."""
    task = small_task()
    method = CFR(**{**BASE, "batch_size": 16}, variant="official", scope="image")
    plan, batch, loss, state = one_step(method, task)
    f, y = embed(task, task.train.x), task.train.y
    right = task.stage.logits.argmax(1).numpy() == y
    anchors = batch.more["anchors"].index.numpy()
    np.testing.assert_array_equal(anchors, plan.wrong[batch.index % len(plan.wrong)])
    positives = batch.more["positives"].index.numpy().reshape(-1, P)
    negatives = batch.more["negatives"].index.numpy().reshape(-1, N)
    text = prototypes(torch.tensor(task.bank("class").embedding)).double().numpy()
    contrasts, ce = [], []
    for i, own, against in zip(anchors, positives, negatives, strict=True):
        assert (y[own] == y[i]).all()
        assert right[own].all()
        assert (y[against] == y[i]).all()  # the defect: negatives of the anchor's own class
        total = np.exp(f[against] @ f[i]).sum()
        contrasts.append(np.mean([-np.log(np.exp(s) / (np.exp(s) + total)) for s in f[own] @ f[i]]))
        logits = text @ f[i] / 0.07
        ce.append(np.log(np.exp(logits).sum()) - logits[y[i]])
    start = method.init(plan)
    centroids = np.stack(
        [
            nrm(0.9 * start.centroids[c].numpy() + 0.1 * nrm(f[batch.index][batch.y == c].mean(0)))
            for c in range(2)
        ]
    )
    targets, queue = start.targets.double().numpy(), start.queue.double().numpy()
    straight = (centroids * targets).sum() >= (centroids * targets[::-1]).sum()
    image = 0.0
    for i in batch.index.numpy():
        logits = np.concatenate([[1.0], queue @ f[i], targets @ f[i]]) / 0.07
        log_p = logits - np.log(np.exp(logits - logits.max()).sum()) - logits.max()
        target = log_p[1 + len(queue) + (y[i] if straight else 1 - y[i])]
        image -= ((log_p[0] + 0.2 * target) / 2 + log_p[0]) / len(batch.index)
    expected = 1.5 * (np.mean(ce) + np.mean(contrasts)) + image
    assert loss == pytest.approx(expected, rel=1e-4)
    assert (state.queue_y[:16] == batch.y).all()
    assert (state.queue_y[16:] == -1).all()
    np.testing.assert_allclose(state.queue[:16], f[batch.index], atol=1e-5)


def test_the_control_without_a_calibration_set_is_the_one_with_weight_zero() -> None:
    """The same steps in the same order need the same draws, so only the first step can agree."""
    task = small_task()
    shared = {**BASE, "class_balanced": "on", "correct": "pretrained"}
    _, one, loss, _ = one_step(CFR(**{**shared, "calibration": "none"}), task)
    _, two, zero, _ = one_step(CFR(**shared, calibration_weight=0.0), task)
    assert torch.equal(one.index, two.index)
    assert loss == pytest.approx(zero, rel=1e-6)


def test_five_classes_and_a_class_that_the_batch_lacks_stay_finite() -> None:
    task = small_task(n=40, classes=5)
    for neg in ("rns", "nns", "centroid"):
        method = CFR(**{**BASE, "batch_size": 3}, neg=neg, epochs=3)
        head = train(method, task, seed=0)
        assert all(torch.isfinite(p).all() for p in head.parameters())


def with_stage(task: Task, wrong: np.ndarray) -> Task:
    guess = np.where(wrong, (task.train.y + 1) % task.n_classes, task.train.y)
    logits = torch.nn.functional.one_hot(torch.from_numpy(guess), task.n_classes).float()
    return replace(task, stage=Staged(head=task.stage.head, logits=logits))


def test_an_empty_calibration_set_says_how_to_get_one() -> None:
    task = small_task(errors=False)
    with pytest.raises(EmbedcalError, match="--calibration zeroshot") as error:
        train(CFR(**BASE), task, seed=0)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("variant", ["paper", "official"])
def test_a_part_of_the_calibration_set_is_drawn_by_the_seed(variant: str) -> None:
    """So many of its rows, others by another seed; all of them changes nothing."""
    task = small_task(n=80)
    shared = {**BASE, "variant": variant}
    whole = CFR(**shared).calibration_rows(task, seed=3)
    drawn = {s: CFR(**shared, calibration_size=5).calibration_rows(task, seed=s) for s in (3, 4)}
    for rows in drawn.values():
        assert len(rows) == 5 < len(whole)
        assert set(rows) < set(whole)
        assert sorted(rows) == list(rows)
    assert set(drawn[3]) != set(drawn[4])
    often = np.zeros(80)
    for seed in range(300):
        often[CFR(**shared, calibration_size=5).calibration_rows(task, seed=seed)] += 1
    expected = 300 * 5 / len(whole)  # every row of the set as often as any other
    assert np.abs(often[whole] - expected).max() < 5 * np.sqrt(expected)
    same = CFR(**shared, calibration_size=len(whole))
    generators = [torch.Generator().manual_seed(3) for _ in range(2)]
    plans = [m.prepare(task, g) for m, g in zip((CFR(**shared), same), generators)]
    assert torch.equal(plans[0].wrong, plans[1].wrong)
    assert torch.equal(generators[0].get_state(), generators[1].get_state())
    method = CFR(**{**shared, "batch_size": 20}, calibration_size=5)
    _, batch, _, _ = one_step(method, task)
    assert set(batch.more["anchors"].index.tolist()) <= set(method.calibration_rows(task, seed=1))


def test_the_control_has_no_calibration_rows() -> None:
    assert len(CFR(**{**BASE, "calibration": "none"}).calibration_rows(small_task(), seed=0)) == 0


@pytest.mark.parametrize("variant", ["paper", "official"])
def test_a_calibration_set_of_one_class_trains(variant: str) -> None:
    task = small_task()
    task = with_stage(task, (task.train.y == 1) & (np.arange(len(task.train)) % 2 == 0))
    head = train(CFR(**BASE, variant=variant, epochs=2), task, seed=0)
    assert all(torch.isfinite(p).all() for p in head.parameters())


def test_a_training_split_of_one_class_is_refused() -> None:
    task = small_task()
    arrays = {name: array[task.train.y == 0] for name, array in task.train.arrays.items()}
    task = replace(task, train=Examples(split="train", arrays=arrays))
    with pytest.raises(EmbedcalError, match="two classes"):
        train(CFR(**BASE), task, seed=0)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"neg": "nns", "pool": "dataset"}, "frozen --space"),
        ({"neg": "nns", "space": "tokens", "pool": "batch"}, "--pool dataset"),
        ({"start": "stage"}, "--calibration erm"),
        ({"variant": "official", "calibration": "none"}, "erm or zeroshot"),
        ({"anchors": 0}, "--anchors"),
        ({"calibration_size": -1}, "--calibration-size"),
        ({"stage_epochs": 0}, "--stage-epochs"),
        ({"tau": 0.0}, "--tau"),
        ({"centroid_momentum": 1.5}, "--centroid-momentum"),
    ],
)
def test_options_that_exclude_each_other(options: dict[str, Any], words: str) -> None:
    with pytest.raises(EmbedcalError, match=words) as error:
        CFR(**options)
    assert "\n" not in str(error.value)


def test_the_official_variant_is_for_two_classes() -> None:
    with pytest.raises(EmbedcalError, match="--variant paper"):
        train(CFR(**BASE, variant="official"), small_task(classes=3), seed=0)


def test_the_first_run_is_stored_shared_and_part_of_the_id(birds: Path, tmp_path: Path) -> None:
    quick: dict[str, Any] = {"epochs": 1, "calibration": "erm", "out": tmp_path, "stage_epochs": 2}
    with open_cache(birds) as cache:
        one = fit("cfr", cache, **quick)
        stage = one.record["stage"]
        erm = fit("erm", cache, epochs=2, out=tmp_path)
        assert erm.id == stage
        assert erm.reused
        assert fit("cfr", cache, tau=0.2, **quick).record["stage"] == stage
        other = fit("cfr", cache, stage_select="val.mean", **quick)
        assert other.id != one.id
        assert other.record["stage"] == stage
        assert one.record["labels_used"] == ["train.y", "val.g", "val.y"]
        free = fit("cfr", cache, select="val.mean", **quick)
        assert free.record["labels_used"] == ["train.y", "val.y"]


def test_neighbours_in_token_space_come_from_the_file(tmp_path: Path, birds: Path) -> None:
    """The tiny CLIP keeps tokens on demand: nearest by flattened tokens, as a loop finds them."""
    from embedcal.caching import cache as make
    from embedcal.datasets.options import ReadOptions
    from embedcal.fitting import Place, task_of
    from embedcal.workbench import Workbench

    rows, tokens = ReadOptions(rows=300, seed=77), BuildOptions(tokens=True)
    path = make("birds", backbone="tiny", read=rows, build=tokens, out=tmp_path / "t.h5").path
    with open_cache(path) as cache:
        on = Workbench(cache)
        method = CFR(
            neg="nns", space="tokens", calibration="zeroshot", negatives=3, correct="pretrained"
        ).resolve(on.offer)
        task = task_of(method, Place(on=on, seed=0, runs=tmp_path, device="cpu"))
        plan = method.prepare(task, torch.Generator().manual_seed(0))
        where = on.split("train", "embedding").rows
        flat = nrm(cache.tokens(where).reshape(len(where), -1).astype(float))
        y = task.train.y
        for i, found in zip(plan.wrong.tolist(), plan.neighbours.tolist(), strict=True):
            other = [j for j in range(len(y)) if y[j] != y[i]]
            best = sorted(other, key=lambda j: -flat[i] @ flat[j])[:3]
            assert found == best
        run = fit(
            "cfr", cache, neg="nns", space="tokens", calibration="zeroshot", epochs=1, out=tmp_path
        )
        assert 0 <= run.test["worst_group"] <= 1


def test_what_fills_up_neighbours_erases_none() -> None:
    """-1 stands where a row has fewer than N neighbours; the first drawn one stays one of its."""
    from types import SimpleNamespace

    from embedcal.methods._cfr_contrast import Kind, State, _drawn_negatives

    near = torch.tensor([[7, -1, 9], [3, 9, -1], [-1, -1, -1]])
    state = State(*[torch.zeros(0)] * 2, torch.arange(3), near, torch.zeros(0))
    drawn = SimpleNamespace(index=torch.tensor([3, 7, 9]))
    anchors = SimpleNamespace(index=torch.arange(3))
    batch: Any = SimpleNamespace(more={"anchors": anchors, "negatives": drawn})
    kind = Kind("dps", "nns", "all", 1, 3)
    wanted = [[int(each) in row for each in drawn.index] for row in near.tolist()]
    assert _drawn_negatives(kind, state, batch).tolist() == wanted


def test_the_first_run_has_the_templates_of_the_second() -> None:
    for name, options in (("cfr", {"calibration": "erm"}), ("jtt", {}), ("cnc", {})):
        for templates in (0, 3):
            method = configure(name, {**options, "templates": templates})
            assert method.stage is not None
            assert method.stage.options["templates"] == templates, name
