"""Stacked runs end where runs one by one end: same draws, same updates, same heads kept."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from embedcal.cache import BuildOptions, open_cache
from embedcal.caching import cache as build
from embedcal.datasets.options import ReadOptions
from embedcal.evaluate import RULES, rule
from embedcal.features import Features
from embedcal.fitting import Place, configure, task_of
from embedcal.heads import Head, predict
from embedcal.keep import Keeper, rules_for
from embedcal.methods import find, names
from embedcal.methods.base import Gradient
from embedcal.methods.erm import ERM
from embedcal.stacked import (
    Member,
    bundle_key,
    free_memory,
    largest_stack,
    memory_per_run,
    train_stack,
)
from embedcal.stacked.descent import clip, start_moments, update
from embedcal.stacked.memory import _allowed
from embedcal.train import train
from embedcal.types import EmbedcalError, IntArray, Split
from embedcal.workbench import Workbench

RTOL, ATOL, TIE = 1e-3, 1e-4, 1e-3

QUICK: dict[str, dict[str, Any]] = {
    "afr": {"epochs": 20, "stage_epochs": 1},
    "cfr": {"epochs": 2, "stage_epochs": 1},
    "cnc": {"epochs": 2},
    "con-adapter": {"epochs": 4, "positives": 16, "negatives": 16},
    "jtt": {"epochs": 2, "stage_epochs": 1},
}
# What may differ inside a stack, by method, as factors of what the method has.
LOSSES = {
    "afr": ("gamma",),
    "cfr": ("tau", "cosine_weight", "calibration_weight"),
    "cnc": ("tau", "contrast_weight"),
    "con-adapter": ("tau",),
    "group-dro": ("eta",),
    "spurious": ("lc_weight", "vc_weight"),
}
OTHERS = [  # beside every method's own settings
    ("erm", {"head": "linear"}),
    ("erm", {"head": "projection", "scope": "image+text_proj", "temperature": "fixed"}),
    ("erm", {"optimizer": "sgd", "clip_norm": 0.02, "sampler": "group"}),
    ("erm", {"clip_norm": 0.02, "sampler": "class"}),
    ("cfr", {"variant": "official", "calibration": "erm", "stage_epochs": 1}),
    ("cfr", {"neg": "nns", "pos": "rps", "space": "embedding", "correct": "pretrained"}),
    ("cfr", {"neg": "nns", "pool": "dataset", "space": "pooled", "calibration": "erm"}),
    ("cnc", {"head": "mlp"}),
    ("cnc", {"variant": "official_fixed", "tuples": 16}),
    ("clip", {"variant": "paper_sampled"}),
    ("con-adapter", {"variant": "official", "optimizer": "adamw"}),
    ("group-dro", {"variant": "cvar"}),
    ("group-dro", {"variant": "group_dro", "adjustment": 1.0, "normalise_loss": "on"}),
    ("jtt", {"variant": "subpop", "stage_epochs": 1}),
    ("rwg", {"variant": "weights"}),
    ("spurious", {"variant": "official", "vs_weight": 1.0, "cross_weight": 0.5}),
    ("subg", {"batch_size": 5}),
]  # fmt: skip
GRADIENT = [name for name in names() if issubclass(find(name), Gradient)]
CASES = [*((name, {}) for name in GRADIENT), *OTHERS]
TOKENS = [
    ("erm", {"head": "attnpool"}),
    ("erm", {"head": "attnpool", "scope": "image+text_proj"}),
    ("cnc", {"head": "attnpool", "tuples": 1, "anchor_ratio": 0.1}),
]


@pytest.fixture(scope="module")
def on(birds: Path) -> Any:
    with open_cache(birds) as opened:
        yield Workbench(opened)


@pytest.fixture(scope="module")
def with_tokens(birds: Path) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EMBEDCAL_HOME", str(birds.parent.parent))
        path = build(
            "birds", backbone="tiny", read=ReadOptions(rows=300, seed=77),
            build=BuildOptions(tokens=True), out=birds.parent.parent / "few-tokens.h5",
        ).path  # fmt: skip
    with open_cache(path) as opened:
        yield Workbench(opened)


@dataclass
class Recorder:
    """Keeps everything that it is shown: classes and logits on val and test after every epoch."""

    on: Workbench
    level: Any
    classes: list[dict[str, Any]] = field(default_factory=list)
    logits: list[dict[str, Tensor]] = field(default_factory=list)
    heads: list[Head] = field(default_factory=list)

    @property
    def features(self) -> Mapping[Split, Features]:
        splits: tuple[Split, ...] = ("val", "test")
        return {split: self.on.features(split, self.level, "cpu") for split in splits}

    def observe(
        self, epoch: int, classes: Mapping[Split, IntArray], head: Callable[[], Head]
    ) -> None:
        assert epoch == len(self.heads) + 1
        self.classes.append({split: found.copy() for split, found in classes.items()})
        self.heads.append(head())
        self.logits.append({s: predict(self.heads[-1], x) for s, x in self.features.items()})

    def watch(self, epoch: int, head: Head) -> None:
        classes: Any = {s: predict(head, x).argmax(1).numpy() for s, x in self.features.items()}
        self.observe(epoch, classes, lambda: copy.deepcopy(head))


def members_of(
    on: Workbench, folder: Path, name: str, given: Mapping[str, Any], k: int = 3
) -> list[Member]:
    """Runs whose seed, learning rate, weight decay and loss weights all differ."""
    settings = {"epochs": 2} | QUICK.get(name, {}) | dict(given)
    base = configure(name, settings).resolve(on.offer)
    assert isinstance(base, Gradient)
    members = []
    for i in range(k):
        factor = 1 + 0.5 * i
        # The published adapter's step is made for sums over other counts than the test's.
        step = base.step_size * (0.1 if name == "con-adapter" else 1.0)
        changed: dict[str, Any] = {"lr": step * factor, "weight_decay": 0.01 * i}
        changed |= {"momentum": base.momentum * (1 - 0.1 * i)}
        changed |= {"clip_norm": base.clip_norm * factor}
        changed |= {n: min(getattr(base, n) * factor, 0.99) for n in LOSSES.get(name, ())}
        method = replace(base, **changed)
        place = Place(on=on, seed=10 + i, runs=folder, device="cpu")
        watch = Recorder(on, method.level)
        task = task_of(method, place)
        members.append(Member(method=method, task=task, seed=10 + i, watch=watch))
    return members


def alone(member: Member) -> tuple[Head, Recorder]:
    recorder = Recorder(member.watch.on, member.method.level)  # type: ignore[union-attr]
    head = train(member.method, member.task, seed=member.seed, watch=recorder.watch)
    return head, recorder


def assert_equal_runs(members: Sequence[Member]) -> None:
    """Every head after every epoch, its predictions, and the heads at the end."""
    for member, found in zip(members, train_stack(members, device="cpu"), strict=True):
        wanted, theirs = alone(member)
        ours: Any = member.watch
        assert isinstance(found, Head)
        assert not found.training
        assert type(found) is type(wanted)
        assert found.config == wanted.config
        assert len(ours.logits) == len(theirs.logits) == member.method.epochs
        for mine, classes, other in zip(ours.logits, ours.classes, theirs.logits):
            for split, logits in other.items():
                torch.testing.assert_close(mine[split], logits, rtol=RTOL, atol=ATOL)
                top = logits.topk(2, dim=1).values
                clear = (top[:, 0] - top[:, 1] > TIE).numpy()
                assert clear.mean() > 0.5
                assert (classes[split] == logits.argmax(1).numpy())[clear].all()
        flags = [(n, p.requires_grad) for n, p in found.named_parameters()]
        assert flags == [(n, p.requires_grad) for n, p in wanted.named_parameters()]
        for name, tensor in wanted.state_dict().items():
            away = torch.linalg.vector_norm(found.state_dict()[name] - tensor)
            # Of the whole: where a gradient is zero but for rounding, AdamW moves by its sign.
            assert away <= RTOL * torch.linalg.vector_norm(tensor) + ATOL, name


def name_of(case: Any) -> str:
    return case if isinstance(case, str) else ",".join(f"{k}={v}" for k, v in case.items()) or "-"


@pytest.mark.parametrize(("name", "given"), CASES, ids=name_of)
def test_a_stack_equals_its_runs_one_by_one(
    name: str, given: dict[str, Any], on: Workbench, tmp_path: Path
) -> None:
    assert_equal_runs(members_of(on, tmp_path, name, given))


@pytest.mark.parametrize(("name", "given"), TOKENS, ids=name_of)
def test_a_stack_over_tokens_equals_its_runs_one_by_one(
    name: str, given: dict[str, Any], with_tokens: Workbench, tmp_path: Path
) -> None:
    assert_equal_runs(members_of(with_tokens, tmp_path, name, given))


def test_a_stack_keeps_the_epochs_and_heads_that_its_runs_keep(
    on: Workbench, tmp_path: Path
) -> None:
    def keeper() -> Keeper:
        return Keeper(on, "pooled", rules_for(on, RULES, rule("last")), "cpu")

    members = [
        replace(member, watch=keeper())
        for member in members_of(on, tmp_path, "erm", {"epochs": 5, "lr": 3e-3})
    ]
    train_stack(members, device="cpu")
    chosen = []
    for member in members:
        ours, theirs = member.watch, keeper()
        assert isinstance(ours, Keeper)
        train(member.method, member.task, seed=member.seed, watch=theirs)
        assert ours.curve == theirs.curve
        assert {n: kept.epoch for n, kept in ours.best.items()} == {
            n: kept.epoch for n, kept in theirs.best.items()
        }
        x = on.features("test", "pooled", "cpu")
        for name, kept in theirs.best.items():
            mine = predict(ours.best[name].head, x)
            torch.testing.assert_close(mine, predict(kept.head, x), rtol=RTOL, atol=ATOL)
        chosen.append(ours.best["val.worst_group"].epoch)
    assert len({member.seed for member in members}) == 3
    assert min(chosen) < 5, "every rule kept the last epoch, so this test shows little"


def test_runs_that_diverge_end_alone(on: Workbench, tmp_path: Path) -> None:
    """Their error is train's own, their watchers hear no more, and no bit of the others moves."""
    given = {"epochs": 3, "optimizer": "sgd"}

    def members(lr: float) -> list[Member]:
        found = members_of(on, tmp_path, "erm", given)
        return [found[0], replace(found[1], method=replace(found[1].method, lr=lr)), found[2]]

    broken, whole = members(1e30), members(1e-3)
    found, wanted = (train_stack(stack, device="cpu") for stack in (broken, whole))
    seen: list[int] = []
    with pytest.raises(EmbedcalError) as error:
        train(
            broken[1].method,
            broken[1].task,
            seed=broken[1].seed,
            watch=lambda epoch, _: seen.append(epoch),
        )
    assert isinstance(found[1], EmbedcalError)
    assert str(found[1]) == str(error.value)
    assert "lower --lr" in str(found[1])
    assert len(broken[1].watch.heads) == len(seen) < 3  # type: ignore[union-attr]
    for k in (0, 2):
        for mine, theirs in zip(broken[k].watch.logits, whole[k].watch.logits):  # type: ignore[union-attr]
            assert all(torch.equal(mine[split], theirs[split]) for split in mine)
        ours, other = found[k], wanted[k]
        assert isinstance(ours, Head)
        assert isinstance(other, Head)
        assert all(map(torch.equal, ours.state_dict().values(), other.state_dict().values()))
    only = train_stack([replace(broken[1], watch=None)], device="cpu")
    assert str(only[0]) == str(error.value)


def test_what_a_member_cannot_start_on_stops_it_alone(on: Workbench, tmp_path: Path) -> None:
    members = members_of(on, tmp_path, "jtt", {})
    y = torch.as_tensor(members[1].task.train.y)
    perfect = torch.nn.functional.one_hot(y).float()
    stage = replace(members[1].task.stage, logits=perfect)
    members[1] = replace(members[1], task=replace(members[1].task, stage=stage))
    found = train_stack(members, device="cpu")
    assert "the first run misclassifies for jtt" in str(found[1])
    for k in (0, 2):
        ours, wanted = found[k], alone(members[k])[0]
        x = on.features("val", "pooled", "cpu")
        assert isinstance(ours, Head)
        torch.testing.assert_close(predict(ours, x), predict(wanted, x), rtol=RTOL, atol=ATOL)


def test_states_of_other_shapes_are_stacked_apart(on: Workbench, tmp_path: Path) -> None:
    """CFR's neighbours are those of the rows that the first run gets wrong, few or many."""
    given = {"neg": "nns", "pool": "dataset", "space": "pooled", "calibration": "erm"}
    members = members_of(on, tmp_path, "cfr", given)
    logits = members[1].task.stage.logits
    stage = replace(members[1].task.stage, logits=torch.where(logits > 2, -logits, logits))
    assert not torch.equal(stage.logits.argmax(1), logits.argmax(1))
    members[1] = replace(members[1], task=replace(members[1].task, stage=stage))
    sizes = {len(m.method.prepare(m.task, torch.Generator().manual_seed(0)).wrong) for m in members}
    assert len(sizes) > 1
    assert_equal_runs(members)


def test_the_order_of_a_stack_and_the_chunks_of_prediction_do_not_matter(
    on: Workbench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    members = members_of(on, tmp_path, "group-dro", {})
    train_stack(members, device="cpu")
    monkeypatch.setattr("embedcal.stacked.runs.ROWS", 21)  # seven rows of three runs
    again = [replace(m, watch=Recorder(on, m.method.level)) for m in members[::-1]]
    train_stack(again, device="cpu")
    for member, other in zip(members, again[::-1]):
        ours: Any = member.watch
        theirs: Any = other.watch
        for mine, same in zip(ours.classes, theirs.classes):
            assert all(np.array_equal(mine[split], same[split]) for split in mine)


# -- what may be stacked --------------------------------------------------------------------------


def test_a_bundle_differs_in_numbers_alone() -> None:
    def key(name: str, **given: Any) -> Any:
        method = find(name)(**given)
        assert isinstance(method, Gradient)
        return bundle_key(method)

    assert key("spurious") == key(
        "spurious", lr=0.1, weight_decay=0.5, momentum=0.5, vc_weight=0.3, lc_weight=2.0
    )
    assert key("erm", clip_norm=1.0) == key("erm", clip_norm=2.0, weight_decay=0.0)
    assert hash(key("erm")) == hash(key("erm"))
    for name, given in (
        ("spurious", {"vc_weight": 0.0}),  # a zero leaves the term out
        ("spurious", {"vs_weight": 1.0}),  # a weight needs labels
        ("erm", {"clip_norm": 1.0}),
        ("erm", {"epochs": 31}),
        ("erm", {"batch_size": 64}),
        ("erm", {"fraction": 0.5}),
        ("rwg", {"variant": "weights"}),
    ):
        assert key(name, **given) != key(name), given
    assert key("subg") != key("suby")


# -- the update rules -----------------------------------------------------------------------------


@pytest.mark.parametrize("clipped", [False, True])
@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_updates_are_those_of_torch(optimizer: str, clipped: bool) -> None:
    """Twelve steps of three runs, two parameters each, against torch's own optimisers."""
    generator = torch.Generator().manual_seed(0)
    methods = [
        ERM(optimizer=optimizer, lr=lr, weight_decay=decay, momentum=momentum, clip_norm=c)
        for lr, decay, momentum, c in (
            (0.1, 0.0, 0.9, 0.5), (0.01, 0.3, 0.0, 1.0), (0.03, 1.0, 0.5, 9.0),
        )
    ]  # fmt: skip
    shapes = {"weight": (3, 4, 2), "scale": (3,)}
    start = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    drawn = [
        {n: torch.randn(shape, generator=generator) * size for n, shape in shapes.items()}
        for size in (1.0, 0.1, 0.01, 0.001) * 3
    ]
    ours = {name: value.clone() for name, value in start.items()}
    moments = {name: start_moments(optimizer, value) for name, value in ours.items()}
    norms = torch.tensor([method.clip_norm for method in methods])
    for gradients in drawn:
        update(methods, ours, clip(gradients, norms) if clipped else gradients, moments)
    for k, method in enumerate(methods):
        theirs = {name: torch.nn.Parameter(value[k].clone()) for name, value in start.items()}
        lr, decay = method.lr, method.weight_decay
        rule_of_torch: torch.optim.Optimizer = (
            torch.optim.AdamW(theirs.values(), lr=lr, weight_decay=decay)
            if optimizer == "adamw"
            else torch.optim.SGD(
                theirs.values(), lr=lr, weight_decay=decay, momentum=method.momentum
            )
        )
        for gradients in drawn:
            for name, value in theirs.items():
                value.grad = gradients[name][k].clone()
            if clipped:
                torch.nn.utils.clip_grad_norm_(theirs.values(), method.clip_norm)
            rule_of_torch.step()
        for name, value in theirs.items():
            torch.testing.assert_close(ours[name][k], value.detach(), rtol=2e-5, atol=2e-6)


# -- memory ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "given"),
    [("erm", {}), ("erm", {"head": "linear"}), ("spurious", {}), ("con-adapter", {})],
    ids=name_of,
)
def test_the_memory_of_a_run_is_foreseen(
    name: str, given: dict[str, Any], on: Workbench, tmp_path: Path
) -> None:
    """What four more runs add to the peak is no more than said, and not less than a third of it."""
    member = members_of(on, tmp_path, name, {"epochs": 1, **given}, k=1)[0]

    def peak(k: int) -> int:
        from torch.profiler import ProfilerActivity, profile

        stack = [replace(member, seed=seed, watch=None) for seed in range(k)]
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
            train_stack(stack, device="cpu")
        events = seen.profiler.kineto_results.events()
        moved = [event.nbytes() for event in events if event.name() == "[memory]"]
        return int(np.cumsum(moved).max())

    said = memory_per_run(member.method, member.task)
    assert said / 3 <= (peak(8) - peak(4)) / 4 <= said


def test_the_largest_stack_fits_and_is_never_empty(on: Workbench, tmp_path: Path) -> None:
    member = members_of(on, tmp_path, "erm", {}, k=1)[0]
    method, task = member.method, member.task
    each, features = memory_per_run(method, task), task.train.x.nbytes
    assert largest_stack(method, task, free=0) == 1
    assert largest_stack(method, task, free=features + 10 * each) == 8  # a fifth stays free
    wide = replace(method, optimizer="sgd")
    assert memory_per_run(wide, task) < each


def test_free_memory_is_what_is_there(tmp_path: Path) -> None:
    assert 2**20 < free_memory("cpu") < 2**50
    assert _allowed(tmp_path) == 2**63
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("1000\n")
    assert _allowed(tmp_path) == 2**63
    (tmp_path / "memory.max").write_text("5000\n")
    assert _allowed(tmp_path) == 4000
