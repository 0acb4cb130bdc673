"""Runs over a real cache: identity, reuse, selection, withholding, and what a mistake gets."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from embedcal.cache import FeatureCache, open_cache
from embedcal.evaluate import rule
from embedcal.fitting import Place, configure, fit, task_of
from embedcal.heads import predict
from embedcal.methods import find, labels_of, names
from embedcal.methods.base import Gradient, Method, Offer, options
from embedcal.runs import load_run
from embedcal.train import Data
from embedcal.types import EmbedcalError, WithheldError
from embedcal.workbench import Workbench

QUICK: dict[str, dict[str, Any]] = {
    "afr": {"epochs": 5, "stage_epochs": 1},
    "cfr": {"epochs": 2, "stage_epochs": 1},
    "clip": {"epochs": 2},
    "cnc": {"epochs": 2},
    "con-adapter": {"epochs": 4, "positives": 16, "negatives": 16},
    "jtt": {"epochs": 2, "stage_epochs": 1},
    "rwg": {"epochs": 2},
    "rwy": {"epochs": 2},
    "spurious": {"epochs": 2},
    "subg": {"epochs": 2},
    "suby": {"epochs": 2},
    "erm": {"epochs": 3},
    "group-dro": {"epochs": 3},
    "dfr": {"c": (1.0,), "refits": 2},
}


@pytest.fixture
def cache(birds: Path) -> Any:
    with open_cache(birds) as opened:
        yield opened


@pytest.mark.parametrize("name", names())
def test_every_method_runs_and_says_what_it_used(name: str, cache: FeatureCache) -> None:
    run = fit(name, cache, **QUICK.get(name, {}))
    record = json.loads((run.folder / "run.json").read_text())
    assert record == json.loads(json.dumps(run.record))
    assert {"id", "method", "variant", "head", "options", "seed", "engine", "selection"} <= set(
        record
    )
    assert {"labels_used", "cache", "seconds", "val", "test"} <= set(record)
    for split in ("val", "test"):
        metrics = record[split]
        assert len(metrics["groups"]) == 4
        assert metrics["worst_group"] == min(g for g in metrics["groups"] if g is not None)
        low, high = metrics["interval"]["worst_group"]
        assert low <= metrics["worst_group"] <= high
    chosen = configure(name, QUICK.get(name, {})).resolve(Workbench(cache).offer)
    used = set(labels_of(chosen))
    if isinstance(chosen, Gradient):
        used |= rule("val.worst_group").needs
    assert record["labels_used"] == sorted(n for n in used if n.split(".")[1:] in (["y"], ["g"]))


@pytest.mark.parametrize("name", names())
def test_a_method_never_gets_what_it_does_not_declare(
    name: str, cache: FeatureCache, tmp_path: Path
) -> None:
    """Take one declared label away: the method must stumble, so it had no other way to it."""
    bench = Workbench(cache)
    method = configure(name, QUICK.get(name, {})).resolve(bench.offer)
    task = task_of(method, Place(on=bench, seed=0, runs=tmp_path, device="cpu"))
    for split in ("train", "val"):
        held = {f"{split}.{key}" for key in getattr(task, split).arrays}
        assert held <= method.needs
    assert {f"text.{bank}" for bank in task.text} <= method.needs
    for need in sorted(n for n in method.needs if n.endswith((".y", ".g"))):
        split, key = need.split(".")
        part = getattr(task, split)
        less = replace(part, arrays={k: v for k, v in part.arrays.items() if k != key})
        with pytest.raises(WithheldError, match=rf"{split}\.{key}"):
            run_method(method, replace(task, **{split: less}))


def run_method(method: Method, task: Any) -> None:
    from embedcal.methods.base import Solver
    from embedcal.train import train

    if isinstance(method, Solver):
        method.solve(task, 0)
    else:
        assert isinstance(method, Gradient)
        train(method, task, seed=0)


@pytest.mark.parametrize("name", names())
def test_the_same_seed_gives_the_same_bits(name: str, cache: FeatureCache, tmp_path: Path) -> None:
    once, again = (
        fit(name, cache, seed=4, out=tmp_path / folder, **QUICK.get(name, {})) for folder in "ab"
    )
    assert once.id == again.id
    assert torch.equal(once.predictions()["test"], again.predictions()["test"])
    if configure(name, QUICK.get(name, {})).random:
        other = fit(name, cache, seed=5, out=tmp_path / "a", **QUICK.get(name, {}))
        assert other.id != once.id
        assert not torch.equal(once.predictions()["test"], other.predictions()["test"])


def test_a_finished_run_is_not_done_again_and_another_rule_trains_nothing(
    cache: FeatureCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = fit("erm", cache, epochs=3)
    monkeypatch.setattr("embedcal.train.train", lambda *a, **k: pytest.fail("trained again"))
    assert fit("erm", cache, epochs=3).reused
    last = fit("erm", cache, epochs=3, select="last")
    assert last.id == first.id
    assert last.record["selection"] == "last"
    assert last.record["labels_used"] == ["train.y"]
    head_logits = predict(last.head(), torch.tensor(cache.split("test", "pooled").x))
    assert torch.equal(head_logits, last.predictions()["test"])
    lines = (first.folder.parent / "results.jsonl").read_text().splitlines()
    assert [json.loads(line)["selection"] for line in lines] == ["val.worst_group", "last"]


def test_a_first_run_leaves_a_finished_one_as_it_stands(
    cache: FeatureCache, tmp_path: Path
) -> None:
    given: dict[str, Any] = {"head": "linear", "out": tmp_path}
    mine = fit("erm", cache, epochs=5, **given)
    second = fit("jtt", cache, epochs=1, stage_epochs=5, **given)
    assert second.record["stage"] == mine.id
    assert load_run(mine.folder) == mine
    lines = (tmp_path / "results.jsonl").read_text().splitlines()
    assert [json.loads(line)["id"] for line in lines] == [mine.id, second.id]
    # it starts from the head that its own rule keeps, as where it fits the first run itself
    alone = fit("jtt", cache, epochs=1, stage_epochs=5, head="linear", out=tmp_path / "alone")
    assert torch.equal(alone.predictions()["test"], second.predictions()["test"])
    first = load_run(tmp_path / "alone" / mine.id)
    assert first is not None
    assert first.record["selection"] == "last"
    asked = fit("erm", cache, epochs=5, head="linear", out=tmp_path / "alone")
    assert asked.reused
    assert asked.test == mine.test


def test_a_run_says_and_keeps_one_rule_wherever_a_change_of_it_ends(cache: FeatureCache) -> None:
    run = fit("erm", cache, epochs=5, lr=3e-3)
    kept = run.folder / "head.safetensors"
    before = kept.read_bytes()
    obstacle = run.folder / "run.json.part"
    obstacle.mkdir()
    with pytest.raises(IsADirectoryError):
        fit("erm", cache, epochs=5, lr=3e-3, select="last")
    assert kept.read_bytes() == before
    assert load_run(run.folder) == run
    assert not (run.folder / "head.part").exists()
    obstacle.rmdir()
    last = (run.folder / "rules" / "last.safetensors").read_bytes()
    kept.unlink()
    kept.write_bytes(last)  # a process that was killed between the two files
    x = torch.tensor(cache.split("test", "pooled").x)
    assert not torch.equal(predict(run.head("last"), x), run.predictions()["test"])
    assert torch.equal(predict(run.head(), x), run.predictions()["test"])


def test_a_folder_of_runs_may_begin_at_home(
    cache: FeatureCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    run = fit("zeroshot", cache, out="~/runs")
    assert run.folder.parent == tmp_path / "runs"


def test_the_kept_epoch_is_the_first_best_of_its_rule(cache: FeatureCache) -> None:
    run = fit("erm", cache, epochs=6, lr=3e-3)
    curve = [point["val.worst_group"] for point in run.record["curve"]]
    assert run.record["rules"]["val.worst_group"]["epoch"] == 1 + int(np.argmax(curve))
    assert run.val["worst_group"] == max(curve)
    assert run.record["rules"]["last"]["epoch"] == 6


def test_an_oracle_is_marked_and_kept_only_when_asked_for(cache: FeatureCache) -> None:
    plain = fit("erm", cache, epochs=2)
    assert "oracle.worst_group" not in plain.record["rules"]
    peeked = fit("erm", cache, epochs=2, select="oracle.worst_group")
    assert peeked.record["oracle"] is True
    assert {"test.y", "test.g"} <= set(peeked.record["labels_used"])


def test_dfr_marks_its_validation_column(cache: FeatureCache) -> None:
    assert fit("dfr", cache, **QUICK["dfr"]).val["in_sample"] is True
    assert fit("dfr", cache, variant="train", **QUICK["dfr"]).val["in_sample"] is False


def test_group_dro_with_eta_zero_and_iid_batches_weighs_groups_evenly(cache: FeatureCache) -> None:
    """eta = 0 leaves q uniform over present groups; any eta > 0 must move away from it."""
    still = fit("group-dro", cache, epochs=2, eta=0.0)
    moved = fit("group-dro", cache, epochs=2, eta=5.0)
    assert not torch.equal(still.predictions()["val"], moved.predictions()["val"])


def test_a_run_folder_that_was_cut_off_is_done_again(cache: FeatureCache) -> None:
    run = fit("dfr", cache, **QUICK["dfr"])
    (run.folder / "run.json").unlink()
    assert load_run(run.folder) is None
    again = fit("dfr", cache, **QUICK["dfr"])
    assert not again.reused
    assert again.test == run.test


@pytest.mark.parametrize(
    ("name", "kwargs", "words"),
    [
        ("emr", {}, "did you mean erm"),
        ("group-drow", {}, "did you mean group-dro"),
        ("erm", {"learning_rate": 1.0}, "option of erm"),
        ("erm", {"epochs": 0}, "--epochs of 1 or more"),
        ("erm", {"head": "projecton"}, "projection, attnpool, linear"),
        ("erm", {"lr": "fast"}, "lr"),
        ("erm", {"select": "val.worst"}, "did you mean"),
        ("erm", {"attribute": "palce"}, "choose place"),
        ("erm", {"seed": -1}, "seed"),
        ("erm", {"lr": 1e9, "epochs": 2, "optimizer": "sgd"}, "lower --lr"),
        ("erm", {"device": "cuda:99"}, "--device cpu"),
        ("dfr", {"c": ()}, "positive"),
    ],
)
def test_a_mistake_gets_one_line(
    name: str, kwargs: dict[str, Any], words: str, cache: FeatureCache
) -> None:
    with pytest.raises(EmbedcalError, match=words) as error:
        fit(name, cache, **kwargs)
    assert "\n" not in str(error.value)


def test_a_method_in_a_file_works_as_one_of_ours(cache: FeatureCache, tmp_path: Path) -> None:
    source = Path(find("erm").__module__.replace(".", "/") + ".py")
    text = (Path(__file__).parent.parent / source).read_text()
    mine = tmp_path / "mine.py"
    mine.write_text(text.replace('name = "erm"', 'name = "mine"').replace("ERM(", "Mine("))
    ours, theirs = fit("erm", cache, epochs=2), fit(str(mine), cache, epochs=2)
    assert theirs.record["method"] == "mine"
    assert torch.equal(ours.predictions()["test"], theirs.predictions()["test"])
    mine.write_text(mine.read_text() + "# edited\n")
    edited = fit(str(mine), cache, epochs=2)
    assert edited.id != theirs.id


def test_a_method_in_a_file_may_build_on_another(tmp_path: Path) -> None:
    """In a process of its own: the method that it imports must be registered by that import."""
    file = tmp_path / "mine.py"
    file.write_text(
        "from embedcal.methods.erm import ERM\n\n\nclass Mine(ERM):\n    name = 'mine'\n"
    )
    code = "import sys; from embedcal.methods import find; print(find(sys.argv[1]).name)"
    done = subprocess.run(
        [sys.executable, "-c", code, str(file)], capture_output=True, text=True, timeout=120
    )
    assert done.stdout.strip() == "mine", done.stderr


def test_a_file_may_not_take_the_name_of_ours(cache: FeatureCache, tmp_path: Path) -> None:
    source = Path(__file__).parent.parent / "embedcal" / "methods" / "erm.py"
    (tmp_path / "erm2.py").write_text(source.read_text())
    ours = find("erm")
    with pytest.raises(EmbedcalError, match="'erm', which is taken"):
        fit(str(tmp_path / "erm2.py"), cache)
    assert find("erm") is ours


def test_a_file_that_is_refused_leaves_no_method_behind(tmp_path: Path) -> None:
    ours, file = find("erm"), tmp_path / "broken.py"
    file.write_text(
        "from embedcal.methods.erm import ERM\n\n\nclass Mine(ERM):\n    name = 'erm'\n\n\n"
        "raise ValueError('late')\n"
    )
    with pytest.raises(EmbedcalError, match="late"):
        find(str(file))
    assert find("erm") is ours


@pytest.mark.parametrize("content", ["1 +", "x = 1", "raise ValueError('no')"])
def test_a_file_without_a_method_is_refused(
    content: str, cache: FeatureCache, tmp_path: Path
) -> None:
    (tmp_path / "bad.py").write_text(content)
    with pytest.raises(EmbedcalError, match=r"bad\.py"):
        fit(str(tmp_path / "bad.py"), cache)


@pytest.mark.parametrize("name", names())
def test_every_option_is_described_and_every_method_cites_a_source(name: str) -> None:
    cls = find(name)
    assert "arXiv" in (cls.__doc__ or "")
    assert cls.name == name
    for item in options(cls):
        assert item.metadata["help"]


def test_auto_takes_the_projection_only_where_there_is_one() -> None:
    full = Offer(
        levels=frozenset({"pooled", "embedding"}), banks=frozenset({"class"}),
        projection=True, attributes=True,
    )  # fmt: skip
    assert configure("erm", {}).resolve(full).head_name == "projection"
    for less in (replace(full, projection=False), replace(full, banks=frozenset())):
        assert configure("erm", {}).resolve(less).head_name == "linear"
        with pytest.raises(EmbedcalError, match="--head linear"):
            configure("erm", {"head": "projection"}).resolve(less)


def test_a_revised_first_run_changes_the_ids_of_those_that_start_from_it(
    cache: FeatureCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = Place(on=Workbench(cache), seed=0, runs=tmp_path, device="cpu")

    def ids() -> list[str]:
        return [place.id(configure(name, {}).resolve(place.on.offer)) for name in ("jtt", "cfr")]

    (jtt, cfr), _ = ids(), monkeypatch.setattr(find("erm"), "revision", 99)
    assert ids()[0] != jtt  # its first run is ERM
    assert ids()[1] == cfr  # by default it has none


def other_values(item: Any, cls: type[Method]) -> list[Any]:
    """Values that an option might also have; some methods refuse some."""
    choices = cls.variants if item.name == "variant" else item.metadata["choices"]
    if choices:
        return [choice for choice in choices if choice != item.default]
    if isinstance(item.default, tuple):
        return [(0.5,)]
    if isinstance(item.default, int):
        return [item.default + 1]
    return [item.default + 0.0625, item.default - 0.0625]


@pytest.mark.parametrize("name", names())
def test_any_changed_option_changes_the_id(name: str, cache: FeatureCache, tmp_path: Path) -> None:
    """Ids are compared without training; what a method refuses has no id."""
    cls = find(name)
    place = Place(on=Workbench(cache), seed=0, runs=tmp_path, device="cpu")
    seen = {place.id(cls().resolve(place.on.offer)): "the defaults"}
    refused = 0
    for item in options(cls):
        tried = 0
        for value in other_values(item, cls):
            try:
                changed = place.id(cls(**{item.name: value}).resolve(place.on.offer))
            except EmbedcalError:
                continue
            if getattr(cls(**{item.name: value}).resolve(place.on.offer), item.name) == getattr(
                cls().resolve(place.on.offer), item.name
            ):
                continue  # what "auto" comes to, said aloud
            assert changed not in seen, f"{item.name}={value} has the id of {seen[changed]}"
            seen[changed] = f"{item.name}={value}"
            tried += 1
        refused += tried == 0
    assert refused <= max(1, len(options(cls)) // 3)
    other_seed = replace(place, seed=1)
    assert other_seed.id(cls().resolve(place.on.offer)) not in seen


@pytest.mark.parametrize("name", [n for n in names() if issubclass(find(n), Gradient)])
def test_a_loss_maps_over_stacked_runs(name: str, cache: FeatureCache, tmp_path: Path) -> None:
    """Three heads, states and hyperparameters at once give what each gives alone."""
    from torch.func import functional_call, stack_module_state, vmap
    from torch.utils import _pytree as pytree

    bench = Workbench(cache)
    method = configure(name, QUICK.get(name, {})).resolve(bench.offer)
    assert isinstance(method, Gradient)
    task = task_of(method, Place(on=bench, seed=0, runs=tmp_path, device="cpu"))
    generator = torch.Generator().manual_seed(0)
    plan = method.prepare(task, generator)
    heads = []
    for k in range(3):
        head = method.start_head(task, generator)
        with torch.no_grad():
            for parameter in head.parameters():
                parameter.add_(0.01 * k * torch.randn(parameter.shape, generator=generator))
        heads.append(head)
    batch = Data.on_device(task.train, "cpu").batch(
        next(iter(method.steps(task, plan, 1, generator)))
    )
    hypers = [
        {key: torch.tensor(value * (1 + 0.1 * k)) for key, value in method.hyper().items()}
        for k in range(3)
    ]
    states = [method.init(plan) for _ in range(3)]

    def one(
        parameters: dict[str, torch.Tensor],
        buffers: dict[str, torch.Tensor],
        state: Any,
        hyper: Any,
    ) -> torch.Tensor:
        module = Loss(heads[0], method, batch)
        prefixed = {f"head.{key}": value for key, value in (parameters | buffers).items()}
        found: torch.Tensor = functional_call(module, prefixed, (state, hyper))
        return found

    parameters, buffers = stack_module_state(heads)
    stacked = [
        pytree.tree_map(lambda *parts: torch.stack(parts), *each) for each in (states, hypers)
    ]
    found = vmap(one, randomness="error")(parameters, buffers, *stacked)
    alone = [
        method.loss(head, state, batch, hyper)[0].detach()
        for head, state, hyper in zip(heads, states, hypers, strict=True)
    ]
    torch.testing.assert_close(found, torch.stack(alone), rtol=1e-4, atol=1e-5)


class Loss(torch.nn.Module):
    """A method's loss as a module, so that a head's tensors can be put in from outside."""

    def __init__(self, head: torch.nn.Module, method: Gradient, batch: Any) -> None:
        super().__init__()
        self.head, self.method, self.batch = head, method, batch

    def forward(self, state: Any, hyper: Any) -> torch.Tensor:
        return self.method.loss(self.head, state, self.batch, hyper)[0]  # type: ignore[arg-type]
