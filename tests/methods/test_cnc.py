"""Correct-n-Contrast: its tuples by their definitions, its loss in loops, and what cannot work."""

from __future__ import annotations

import itertools
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from embedcal.cache import FeatureCache, open_cache
from embedcal.cache.importing import import_features
from embedcal.fitting import configure, fit
from embedcal.heads import LinearHead, MlpHead
from embedcal.methods._slices import cluster, name_clusters
from embedcal.methods.base import Batch, Staged
from embedcal.methods.cnc import CNC, Counts, Plan
from embedcal.train import Data
from embedcal.types import EmbedcalError, Examples, Task
from embedcal.workbench import Workbench

KINDS = Counts._fields
COUNTS = Counts(anchors=4, positives=5, negatives=6, easy=3)


def world(n_classes: int = 3, n: int = 300, *, seed: int = 0) -> dict[str, np.ndarray]:
    """Rows, classes, and predictions that are right in four of five."""
    rng = np.random.default_rng([seed, n_classes])
    y = rng.integers(n_classes, size=n)
    h = np.where(rng.random(n) < 0.8, y, rng.integers(n_classes, size=n))
    return {"x": rng.normal(size=(n, 5)).astype(np.float32), "y": y, "h": h}


def task_of(data: dict[str, np.ndarray], n_classes: int) -> Task:
    logits = torch.nn.functional.one_hot(torch.tensor(data["h"]), n_classes).float()
    head = LinearHead(torch.randn(n_classes, 5), torch.zeros(n_classes), normalise=True,
                      level="embedding")  # fmt: skip
    train = Examples(split="train", arrays={"x": data["x"], "y": data["y"]})
    return Task(
        train=train,
        val=Examples(split="val", arrays={}),
        text={},
        projection=None,
        n_classes=n_classes,
        n_attributes=1,
        stage=Staged(head=head, logits=logits),
    )


def method(**options: Any) -> CNC:
    """One that trains the hidden layer, with a few examples of each kind."""
    found = configure("cnc", {**COUNTS._asdict(), "head": "mlp", "tuples": 7, **options})
    assert isinstance(found, CNC)
    return found


def plan_of(data: dict[str, np.ndarray], n_classes: int, **options: Any) -> Plan:
    return method(**options).prepare(task_of(data, n_classes), torch.Generator())


def without(data: dict[str, np.ndarray], drop: np.ndarray) -> dict[str, np.ndarray]:
    return {name: value[~drop] for name, value in data.items()}


# -- tuples -------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_classes", [2, 3, 5])
def test_every_tuple_is_what_the_definition_says(n_classes: int) -> None:
    data = world(n_classes)
    y, h, task, cnc = data["y"], data["h"], task_of(data, n_classes), method()
    plan = cnc.prepare(task, torch.Generator())
    firsts, sizes = [], []
    for step in cnc.steps(task, plan, 1, torch.Generator().manual_seed(0)):
        rows = step.batch.numpy()
        assert len(set(rows)) == len(rows)
        kinds = [rows[step.drawn[name].numpy()] for name in KINDS]
        sizes.append(len(kinds[0]))
        for anchors, positives, negatives, easy in zip(*kinds):
            assert [len(part) for part in (anchors, positives, negatives, easy)] == list(COUNTS)
            c = h[anchors[0]]
            for i in anchors:
                assert y[i] == h[i] == c
            for i in positives:
                assert y[i] == c != h[i]
            for i in negatives:
                assert h[i] == c != y[i]
            for i in easy:
                assert y[i] == h[i] == h[positives[0]] != c
            for part in (positives, negatives, easy):
                assert len(set(part)) == len(part)
            firsts.append(anchors[0])
    assert set(sizes[:-1]) <= {7}
    assert len(set(firsts)) == len(firsts)
    smallest = min(sum((y == c) & (h == c)) for c in range(n_classes))
    assert [h[i] for i in firsts] == list(range(n_classes)) * smallest


def test_the_anchor_ratio_takes_a_share_of_every_slice() -> None:
    data = world()
    task, cnc = task_of(data, 3), method(anchor_ratio=0.25)
    plan = cnc.prepare(task, torch.Generator())
    steps = list(cnc.steps(task, plan, 1, torch.Generator().manual_seed(0)))
    smallest = min(len(pool) for pool in plan.anchors)
    assert sum(len(step.drawn["anchors"]) for step in steps) == 3 * round(smallest / 4)


def test_draws_follow_the_generator_alone() -> None:
    data = world()
    task, cnc = task_of(data, 3), method()
    plan = cnc.prepare(task, torch.Generator())
    a, b, c = (
        torch.cat(
            [step.batch for step in cnc.steps(task, plan, 1, torch.Generator().manual_seed(s))]
        )
        for s in (0, 0, 1)
    )
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


def test_counts_are_clamped_to_the_rarest_pool() -> None:
    data = world(3)
    y, h = data["y"], data["h"]
    few = without(data, (y == 1) & (h != 1) & (np.cumsum((y == 1) & (h != 1)) > 2))
    y, h = few["y"], few["h"]
    found = plan_of(few, 3, anchors=50, positives=50, negatives=50, easy=500).counts
    positives = min(sum((y == c) & (h != c)) for c in range(3))
    negatives = min(sum((h == c) & (y != c)) for c in range(3))
    right = min(sum((h == c) & (y == c)) for c in range(3))
    assert positives == 2
    assert found == Counts(min(positives, negatives), positives, min(50, negatives), right)


def pools(plan: Plan, c: int) -> list[list[int]]:
    return [
        pool[c].tolist() for pool in (plan.anchors, plan.positives, plan.negatives, plan.others)
    ]


def test_empty_pools_fall_back() -> None:
    data = world(3)
    y, h = data["y"], data["h"]
    where = lambda mask: np.flatnonzero(mask).tolist()  # noqa: E731
    clean = without(data, (h == 0) & (y != 0))  # slice 0 makes no errors
    y, h = clean["y"], clean["h"]
    assert pools(plan_of(clean, 3), 0)[2] == where(y != 0)
    assert pools(plan_of(clean, 3), 1)[2] == where((h == 1) & (y != 1))
    known = without(data, (data["y"] == 0) & (data["h"] != 0))  # no errors in class 0
    y, h = known["y"], known["h"]
    anchors, positives, _, others = pools(plan_of(known, 3), 0)
    assert positives == anchors == where((h == 0) & (y == 0))
    assert others == where((h == y) & (y != 0))


def test_easy_negatives_are_never_of_the_anchors_class() -> None:
    """Where positives fall back to the anchors' own slice, or their slice has nothing right."""
    data = world(3)
    y, h = data["y"], data["h"]
    for drop in ((y == 0) & (h != 0), (y == 1) & (h == 1)):
        less = without(data, drop)
        task, cnc = task_of(less, 3), method()
        plan = cnc.prepare(task, torch.Generator())
        for step in cnc.steps(task, plan, 1, torch.Generator().manual_seed(0)):
            rows = less["y"][step.batch.numpy()]
            anchors, easy = (rows[step.drawn[name].numpy()] for name in ("anchors", "easy"))
            assert (easy != anchors[:, :1]).all()


# -- the loss -------------------------------------------------------------------------------------


def loops(
    z: np.ndarray, logits: np.ndarray, y: np.ndarray, kinds: list[np.ndarray], o: dict[str, Any]
) -> float:
    """The mean over tuples of lam (L1 + L2) + (1 - lam) CE, term by term."""

    def cos(i: int, j: int) -> float:
        return float(z[i] @ z[j] / np.linalg.norm(z[i]) / np.linalg.norm(z[j]) / o["tau"])

    def contrast(a: int, positives: np.ndarray, negatives: np.ndarray) -> float:
        away = sum(np.exp(cos(a, n)) for n in negatives)
        together = sum(np.exp(cos(a, p)) for p in positives)
        terms = []
        for p in positives:
            others = np.exp(cos(a, p)) if o["single_pos"] == "on" else together
            terms.append(-np.log(np.exp(cos(a, p)) / (away + others)))
        return float(np.mean(terms))

    total = 0.0
    for anchors, positives, negatives, easy in zip(*kinds):
        pull = contrast(anchors[0], positives, negatives)
        if len(easy):
            pull += contrast(positives[0], anchors, easy)
        parts = [part for part in (anchors, positives, negatives, easy) if len(part)]
        if o["variant"] == "official_fixed":
            parts = [part[: min(map(len, parts))] for part in parts]
        ces = [np.log(np.exp(logits[i]).sum()) - logits[i, y[i]] for part in parts for i in part]
        total += o["lam"] * pull + (1 - o["lam"]) * float(np.mean(ces))
    return total / len(kinds[0])


@pytest.mark.parametrize("variant", CNC.variants)
@pytest.mark.parametrize("single_pos", ["on", "off"])
@pytest.mark.parametrize("easy", [0, 3])
@pytest.mark.parametrize("n_classes", [2, 5])
def test_the_loss_is_the_formula(variant: str, single_pos: str, easy: int, n_classes: int) -> None:
    data = world(n_classes)
    o = {"variant": variant, "single_pos": single_pos, "tau": 0.3, "lam": 0.6}
    cnc = method(variant=variant, single_pos=single_pos, easy=easy)
    task = task_of(data, n_classes)
    plan = cnc.prepare(task, torch.Generator())
    step = next(iter(cnc.steps(task, plan, 1, torch.Generator().manual_seed(1))))
    head = cnc.start_head(task, torch.Generator().manual_seed(2)).double()
    assert isinstance(head, MlpHead)
    batch = double(Data.on_device(task.train, "cpu").batch(step))
    hyper = {
        name: torch.tensor(o[key], dtype=torch.float64)
        for name, key in (("tau", "tau"), ("contrast_weight", "lam"))
    }
    loss, state = cnc.loss(head, (), batch, hyper)
    assert state == ()
    with torch.no_grad():
        z, logits = head.project(batch.x).numpy(), head(batch.x).numpy()
    kinds = [step.drawn[name].numpy() for name in KINDS]
    expected = loops(z, logits, batch.y.numpy(), kinds, o)
    np.testing.assert_allclose(loss.item(), expected, rtol=1e-9)
    gradient_is_the_slope(head, lambda: cnc.loss(head, (), batch, hyper)[0])


def double(batch: Batch) -> Batch:
    return replace(batch, x=batch.x.double())


def gradient_is_the_slope(head: torch.nn.Module, loss: Any) -> None:
    """Along a random direction the gradient is the central difference."""
    draws = torch.Generator().manual_seed(5)  # another draw may step over a kink of ReLU
    direction = [torch.randn(p.shape, generator=draws, dtype=p.dtype) for p in head.parameters()]
    slope = sum(
        (g * v).sum() for g, v in zip(torch.autograd.grad(loss(), head.parameters()), direction)
    )
    ends = []
    for sign in (1, -1):
        with torch.no_grad():
            for p, v in zip(head.parameters(), direction):
                p += sign * 1e-6 * v
            ends.append(loss().item())
            for p, v in zip(head.parameters(), direction):
                p -= sign * 1e-6 * v
    np.testing.assert_allclose((ends[0] - ends[1]) / 2e-6, slope.item(), rtol=1e-4, atol=1e-7)


# -- slices by clusters ---------------------------------------------------------------------------


@pytest.mark.parametrize("n_classes", [2, 4])
def test_clusters_take_the_names_that_agree_most(n_classes: int) -> None:
    rng = np.random.default_rng(n_classes)
    for _ in range(20):
        clusters, y = rng.integers(n_classes, size=(2, 30))
        found = name_clusters(clusters, y, n_classes)
        agreements = [
            sum(names[k] == c for k, c in zip(clusters, y))
            for names in itertools.permutations(range(n_classes))
        ]
        assert sum(found == y) == max(agreements)
        assert len(set(zip(clusters, found))) == len(set(clusters)) == len(set(found))


@pytest.mark.parametrize("how", ["gmm", "kmeans"])
def test_clusters_find_blobs(how: Any) -> None:
    rng = np.random.default_rng(0)
    y = rng.integers(3, size=200)
    points = rng.normal(size=(200, 2)) * 0.3 + np.array([[0, 0], [6, 0], [0, 6]])[y]
    assert (name_clusters(cluster(points, 3, how, 5), y, 3) == y).all()


def test_slices_by_umap_want_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "umap", None)
    with pytest.raises(EmbedcalError, match=r"pip install 'embedcal\[umap\]'") as error:
        plan_of(world(), 3, slices="umap_gmm")
    assert "\n" not in str(error.value)


def test_slices_by_umap_are_a_mixture_on_the_first_runs_features(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With a stand-in for UMAP that keeps two of the features."""

    def fit_transform(self: Any, features: np.ndarray) -> np.ndarray:
        np.testing.assert_allclose(np.linalg.norm(features, axis=1), 1, rtol=1e-5)
        return features[:, :2]

    keeps = type("UMAP", (), {"__init__": lambda self, **k: None, "fit_transform": fit_transform})
    monkeypatch.setitem(sys.modules, "umap", SimpleNamespace(UMAP=keeps))
    data = world(2)
    data["x"] *= 0.1
    data["x"][:, 0] += np.where(data["h"] == 1, 1, -1)  # what the features show is h, not y
    flipped = data | {"h": 1 - data["y"]}  # and the first run's logits say something else
    plan = plan_of(flipped, 2, slices="umap_gmm")
    assert plan.h.tolist() == data["h"].tolist()


# -- what cannot work -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda d: d | {"h": d["y"]}, "the first ERM run misses.*found none.*--stage-epochs"),
        (lambda d: d | {"h": (d["y"] + 1) % 3}, "the first ERM run gets right.*found none"),
        (lambda d: d | {"y": np.zeros_like(d["y"])}, "at least two classes"),
    ],
)
def test_data_without_tuples_are_refused_in_one_line(change: Any, words: str) -> None:
    with pytest.raises(EmbedcalError, match=words) as error:
        plan_of(change(world()), 3)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"head": "linear"}, "projection, attnpool, mlp"),
        ({"anchors": 0}, "--anchors of 1 or more"),
        ({"easy": -1}, "--easy of 0 or more"),
        ({"tau": 0.0}, "--tau"),
        ({"anchor_ratio": 1.5}, "--anchor-ratio"),
        ({"contrast_weight": 1.5}, "--contrast-weight"),
        ({"sampler": "group"}, "iid"),
    ],
)
def test_an_option_out_of_range_is_refused_in_one_line(options: dict[str, Any], words: str) -> None:
    with pytest.raises(EmbedcalError, match=words) as error:
        method(**options)
    assert "\n" not in str(error.value)


# -- whole runs -----------------------------------------------------------------------------------


@pytest.fixture
def cache(birds: Path) -> Any:
    with open_cache(birds) as opened:
        yield opened


@pytest.fixture
def bare(cache: FeatureCache, tmp_path: Path) -> Any:
    """The same birds as imported features: no text, no projection."""
    rows = [cache.split(split, "embedding") for split in ("train", "val", "test")]
    path = import_features(
        np.concatenate([part.x for part in rows]),
        np.concatenate([part.y for part in rows]),
        np.repeat([0, 1, 2], [len(part) for part in rows]),
        {"place": np.concatenate([part.a for part in rows])},
        out=tmp_path / "bare.h5",
    )
    with open_cache(path) as opened:
        yield opened


def test_it_trains_the_projection_and_beats_erm_on_the_worst_group(cache: FeatureCache) -> None:
    run, erm = fit("cnc", cache, epochs=5), fit("erm", cache, epochs=5)
    assert run.record["head"] == "projection"
    assert run.record["stage"]
    assert run.record["options"]["stage_epochs"] == 1
    assert run.record["labels_used"] == ["train.y", "val.g", "val.y"]
    assert run.val["worst_group"] > erm.val["worst_group"]


def test_without_a_projection_it_trains_a_hidden_layer(
    bare: FeatureCache, cache: FeatureCache
) -> None:
    run = fit("cnc", bare, epochs=2)
    assert run.record["head"] == "mlp"
    assert run.record["options"]["stage_epochs"] == 30
    assert isinstance(run.head(), MlpHead)
    with pytest.raises(EmbedcalError, match="use --head mlp"):
        fit("cnc", bare, head="projection")
    assert configure("cnc", {}).resolve(Workbench(cache).offer).head_name == "projection"
    assert configure("cnc", {"head": "mlp"}).resolve(Workbench(cache).offer).level == "embedding"


def test_the_first_run_is_erm_with_the_same_head_or_a_probe() -> None:
    assert method().stage.options["head"] == "linear"
    stage = method(head="attnpool", stage_epochs=4, optimizer="sgd").stage
    assert (stage.method, stage.select) == ("erm", "last")
    assert (stage.options["head"], stage.options["epochs"]) == ("attnpool", 4)
    assert "optimizer" not in stage.options
