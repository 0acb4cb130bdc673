"""What a method marks as rare, recounted by loops against groups that it never sees."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from embedcal.answers.runs import run_report
from embedcal.cache import import_features, open_cache
from embedcal.fitting import Place, configure, fit, fit_on, task_of
from embedcal.grids import grid, load
from embedcal.heads import LinearHead
from embedcal.identification import identified, rare_groups
from embedcal.methods._heldout import Linear
from embedcal.methods.base import Marks, Solved, Solver, cut_by_class
from embedcal.methods.erm import ERM
from embedcal.tables import show
from embedcal.types import EmbedcalError, Task
from embedcal.workbench import Workbench

QUICK: dict[str, dict[str, Any]] = {
    "jtt": {"epochs": 1, "stage_epochs": 1},
    "cfr": {"epochs": 1},
    "cnc": {"epochs": 1, "stage_epochs": 3},
    "ppa": {"crossfit": 3},
    "self": {"stage_epochs": 12, "n": 15, "steps": 5},
    "evals": {"stage_epochs": 12, "k": (4, 7), "epochs": 3},
    "lfr": {"stage_epochs": 12, "k": (3,), "epochs": 3, "cells": "class"},
}


# -- which groups are rare -------------------------------------------------------------------------


def slow_rare(counts: list[list[int]]) -> list[bool]:
    found = []
    for row in counts:
        there = [n for n in row if n > 0]
        mean = sum(there) / len(there) if there else 0
        found += [n < mean / 2 for n in row]
    return found


@pytest.mark.parametrize(
    ("counts", "rare"),
    [
        ([[3498, 184], [56, 1057]], [1, 2]),  # Waterbirds
        ([[71629, 66874], [22880, 1387]], [3]),  # CelebA
        ([[50, 50], [50, 50]], []),
        ([[75, 25], [76, 24]], [3]),  # a quarter of two groups is not yet rare
        ([[100, 0], [0, 0]], [1]),  # none of a class that is there; nothing of one that is not
        ([[60, 6, 0, 6], [1, 1, 1, 1]], [1, 2, 3]),
    ],
)
def test_rare_groups(counts: list[list[int]], rare: list[int]) -> None:
    assert np.flatnonzero(rare_groups(np.array(counts))).tolist() == rare
    assert slow_rare(counts) == rare_groups(np.array(counts)).tolist()


def test_rare_groups_of_any_counts() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        counts = rng.integers(0, 12, (3, 4)) * rng.integers(0, 2, (3, 4))
        assert rare_groups(counts).tolist() == slow_rare(counts.tolist())
        assert np.array_equal(rare_groups(7 * counts), rare_groups(counts))


# -- recall and precision --------------------------------------------------------------------------


def build(folder: Path, name: str = "world", *, known: float = 1.0, groups: bool = True) -> Path:
    """360 rows, a third a split; the cue agrees with the class in nine of ten training rows."""
    rng = np.random.default_rng(11)
    split = np.arange(360) % 3
    y = rng.integers(2, size=360)
    cue = np.where(rng.random(360) < np.where(split == 0, 0.1, 0.5), 1 - y, y)
    x = rng.normal(size=(360, 10)).astype(np.float32)
    x[np.arange(360), y] += 1.2
    x[np.arange(360), 2 + cue] += 2.5
    cue = np.where(rng.random(360) < known, cue, -1)
    labels = {"cue": cue} if groups else {}
    return import_features(x, y, split, labels, out=folder / f"{name}.h5")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("world"))


@pytest.fixture
def on(world: Path) -> Any:
    with open_cache(world) as opened:
        yield Workbench(opened)


@pytest.fixture
def prompted(birds: Path) -> Any:
    with open_cache(birds) as opened:
        yield Workbench(opened)


def slow_found(
    on: Workbench, split: Any, marked: set[int], among: set[int], rare: set[int]
) -> dict[str, Any]:
    g = on.split(split, "embedding").g.tolist()
    hits = sum(1 for i in marked if g[i] in rare)
    there = sum(1 for i in among if g[i] in rare)
    known = [i for i in marked if g[i] >= 0]
    all_known = sum(1 for i in among if g[i] >= 0)
    return {
        "split": split,
        "marked": len(marked),
        "among": len(among),
        "rare_groups": sorted(rare),
        "rare": there,
        "recall": hits / there if there else None,
        "precision": hits / len(known) if known else None,
        "share": there / all_known if all_known else None,
    }


@pytest.mark.parametrize("split", ["train", "val"])
@pytest.mark.parametrize("known", [1.0, 0.6])
def test_marks_by_loops(split: Any, known: float, tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    with open_cache(build(tmp_path, known=known)) as cache:
        on = Workbench(cache)
        for size in (0, 1, 30, 120):
            marked = rng.permutation(120)[:size]
            among = np.union1d(marked, rng.permutation(120)[:50])
            for chosen in (None, among):
                marks = Marks(split=split, rows=np.r_[marked, marked[:1]], among=chosen)
                every = set(range(120)) if chosen is None else set(chosen.tolist())
                wanted = slow_found(on, split, set(marked.tolist()), every, {1, 2})
                assert identified(marks, ERM(), on) == wanted


def test_positions_are_those_that_the_method_sees(tmp_path: Path) -> None:
    """A method that reads groups sees rows of known group alone."""
    with open_cache(build(tmp_path, known=0.5)) as cache:
        on = Workbench(cache)
        method = configure("group-dro", {}).resolve(on.offer)
        g = on.split("train", "embedding").g
        seen = np.flatnonzero(g >= 0)
        rows = np.array([0, 5, len(seen) - 1])
        found = identified(Marks(split="train", rows=rows), method, on)
        assert found["among"] == len(seen) == len(on.task(method).train)
        assert found["precision"] == np.isin(g[seen[rows]], [1, 2]).mean()
        with pytest.raises(EmbedcalError, match=f"0 to {len(seen) - 1}, found"):
            identified(Marks(split="train", rows=np.array([len(seen)])), method, on)


def test_without_groups_the_marks_are_counted_alone(tmp_path: Path) -> None:
    with open_cache(build(tmp_path, groups=False)) as cache:
        run = fit("jtt", cache, out=tmp_path / "runs", **QUICK["jtt"])
    assert set(run.record["found"]) == {"split", "marked", "among"}
    assert run.record["found"]["among"] == 120


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (np.array([120]), "from 120 to 120"),
        (np.array([3, -1]), "from -1 to 3"),
        (np.zeros(120, bool), "found bool"),
        (np.array([1.0]), "found float64"),
    ],
)
def test_marks_that_are_no_positions(rows: np.ndarray, words: str, on: Workbench) -> None:
    for marks in (Marks(split="val", rows=rows), Marks(split="val", rows=rows[:0], among=rows)):
        with pytest.raises(EmbedcalError, match=rf"marks of erm .* in val.*{words}") as error:
            identified(marks, ERM(), on)
        assert "\n" not in str(error.value)


# -- what each method marks ------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(QUICK))
def test_a_run_says_how_well_it_found_the_rare_groups(
    name: str, on: Workbench, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Recounted from what the method returns, over a task that holds no group label."""
    if name in ("ppa", "cfr"):  # they need class prompts
        on = request.getfixturevalue("prompted")
    run = fit_on(on, name, QUICK[name], seed=3, out=tmp_path)
    method = configure(name, QUICK[name]).resolve(on.offer)
    assert not any(need.endswith((".g", ".a")) for need in method.needs)
    task = task_of(method, Place(on=on, seed=3, runs=tmp_path, device="cpu"))
    assert "g" not in task.train
    assert "g" not in task.val
    solves = isinstance(method, Solver)
    marks = method.solved(task, 3).marks if solves else method.marks(task)
    assert marks is not None
    n = len(on.split(marks.split, "embedding"))
    among = range(n) if marks.among is None else marks.among.tolist()
    counts = on.strata("test", "embedding").train_group_counts
    assert counts is not None
    rare = {g for g, is_rare in enumerate(slow_rare(counts.tolist())) if is_rare}
    wanted = slow_found(on, marks.split, set(marks.rows.tolist()), set(among), rare)
    assert run.record["found"] == wanted
    assert run.record["found"]["marked"] > 0
    stored = json.loads((run.folder / "run.json").read_text())
    assert stored["found"] == run.record["found"]
    assert fit_on(on, name, QUICK[name], seed=3, out=tmp_path).record["found"] == stored["found"]


def task_for(name: str, on: Workbench, folder: Path) -> Task:
    method = configure(name, QUICK[name]).resolve(on.offer)
    return task_of(method, Place(on=on, seed=0, runs=folder, device="cpu"))


def test_jtt_marks_its_error_set(on: Workbench, tmp_path: Path) -> None:
    task = task_for("jtt", on, tmp_path)
    method = configure("jtt", QUICK["jtt"]).resolve(on.offer)
    wrong = [i for i in range(120) if int(task.stage.logits[i].argmax()) != task.train.y[i]]
    marks = method.marks(task)
    assert marks is not None
    assert (marks.split, marks.rows.tolist(), marks.among) == ("train", wrong, None)
    plan = method.prepare(task, torch.Generator())  # type: ignore[attr-defined]
    assert np.flatnonzero(plan.numpy() > 1).tolist() == wrong


def slowly_wrong(task: Task, calibration: str) -> list[int]:
    """Rows that a model gets wrong, one after another in float64."""
    wrong, projection, bank = [], task.projection, task.bank("class").embedding.astype(float)
    text = [np.mean([each / np.linalg.norm(each) for each in prompt], axis=0) for prompt in bank]
    for i, x in enumerate(task.train.x.astype(float)):
        image = projection.image_weight.astype(float) @ x + projection.image_bias
        scores = [image @ row / np.linalg.norm(row) for row in text]
        if calibration == "erm":
            scores = task.stage.logits[i].tolist()
        wrong += [i] if int(np.argmax(scores)) != task.train.y[i] else []
    return wrong


@pytest.mark.parametrize(
    "options",
    [
        {"calibration": "zeroshot"},
        {"calibration": "zeroshot", "correct": "erm"},
        {"calibration": "erm"},
        {"calibration": "erm", "start": "stage"},
        {"calibration": "erm", "variant": "official"},
    ],
)
def test_cfr_marks_its_calibration_set(
    options: dict[str, Any], prompted: Workbench, tmp_path: Path
) -> None:
    quick = {"stage_epochs": 1, **options}
    method: Any = configure("cfr", quick).resolve(prompted.offer)
    task = task_of(method, Place(on=prompted, seed=3, runs=tmp_path, device="cpu"))
    wrong = slowly_wrong(task, options["calibration"])
    assert 5 < len(wrong) < len(task.train) - 5
    marks = method.marks(task)
    assert (marks.split, marks.rows.tolist(), marks.among) == ("train", wrong, None)
    assert method.calibration_rows(task, 3).tolist() == wrong
    few = replace(method, calibration_size=5)  # of the same errors some are used
    assert few.marks(task).rows.tolist() == wrong
    assert set(few.calibration_rows(task, 3)) < set(wrong)


def test_cfr_without_a_calibration_set_marks_nothing(prompted: Workbench, tmp_path: Path) -> None:
    run = fit_on(prompted, "cfr", {"calibration": "none", "epochs": 1}, out=tmp_path)
    assert "found" not in run.record


def test_cnc_marks_what_its_tuples_have_for_positives_and_hard_negatives(
    on: Workbench, tmp_path: Path
) -> None:
    task = task_for("cnc", on, tmp_path)
    method: Any = configure("cnc", QUICK["cnc"]).resolve(on.offer)
    h = [int(task.stage.logits[i].argmax()) for i in range(120)]
    strange = [i for i in range(120) if h[i] != task.train.y[i]]
    marks = method.marks(task)
    assert (marks.split, marks.rows.tolist(), marks.among) == ("train", strange, None)
    generator = torch.Generator().manual_seed(0)
    plan, seen = method.prepare(task, generator), {}
    for epoch in range(1, 30):
        for step in method.steps(task, plan, epoch, generator):
            for name, places in step.drawn.items():
                seen.setdefault(name, set()).update(step.batch[places].flatten().tolist())
    assert seen["positives"] == seen["negatives"] == set(strange)  # of two classes; all in time
    assert not (seen["anchors"] | seen["easy"]) & set(strange)
    mixture = configure("cnc", {"slices": "umap_gmm"}).resolve(on.offer)
    assert mixture.marks(task) is None


@pytest.mark.parametrize("pseudo", ["error", "predicted"])
def test_ppa_marks_what_its_biased_head_gets_wrong(pseudo: str, prompted: Workbench) -> None:
    method: Any = configure("ppa", {"crossfit": 3, "pseudo": pseudo}).resolve(prompted.offer)
    task = prompted.task(method)
    solved = method.solved(task, 0)
    wrong = np.flatnonzero(method._biased(task) != task.train.y)
    assert np.array_equal(solved.marks.rows, wrong)
    assert (solved.marks.split, solved.marks.among) == ("train", None)
    assert torch.equal(solved.head.weight, method.solve(task, 0).weight)


@pytest.mark.parametrize("name", ["evals", "lfr"])
def test_the_tails_mark_the_rows_of_high_loss_that_were_fitted(
    name: str, on: Workbench, tmp_path: Path
) -> None:
    task = task_for(name, on, tmp_path)
    method: Any = configure(name, QUICK[name]).resolve(on.offer)
    solved = method.solved(task, 0)
    fitted, _ = cut_by_class(task.val.y, 0.5, np.random.default_rng([0, 0]))
    assert np.array_equal(solved.marks.among, fitted)
    counts = np.bincount(task.val.y[solved.marks.rows])
    assert counts[0] == counts[1]
    assert counts[0] in method.k
    x = torch.tensor(task.val.x)
    with torch.no_grad():
        loss = torch.nn.functional.cross_entropy(
            task.stage.head(x), torch.tensor(task.val.y), reduction="none"
        ).numpy()
    wrong = task.stage.head(x).argmax(1).numpy() != task.val.y
    for c in range(2):
        own = [i for i in fitted if task.val.y[i] == c and (name == "evals" or wrong[i])]
        high = sorted(own, key=lambda i: -loss[i])[: counts[c]]
        assert {i for i in solved.marks.rows.tolist() if task.val.y[i] == c} == set(high)


@pytest.mark.parametrize("chosen", [0, 1])
def test_the_tails_mark_the_k_that_was_chosen_and_not_one_that_was_tried(
    chosen: int, on: Workbench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every candidate but one ends in a layer that sees a single class."""
    task, turns = task_for("evals", on, tmp_path), iter(range(2))

    def descend(self: Any, x: Any, y: Any, start: Any, rng: Any) -> Any:
        layer = (start.weight, start.bias)
        if next(turns) != chosen:
            layer = (0 * start.weight, np.array([1.0, 0.0]))
        yield Linear(*(np.broadcast_to(v, (len(self.l1), *v.shape)) for v in layer))

    method: Any = configure("evals", QUICK["evals"] | {"cells": "class"}).resolve(on.offer)
    monkeypatch.setattr(type(method), "_descend", descend)
    assert len(method.solved(task, 0).marks.rows) == 2 * method.k[chosen]


def test_self_marks_the_rows_it_is_tuned_on(on: Workbench, tmp_path: Path) -> None:
    task = task_for("self", on, tmp_path)
    method: Any = configure("self", QUICK["self"]).resolve(on.offer)
    marks = method.solved(task, 0).marks
    assert np.array_equal(marks.rows, method.chosen(task, 0, np.random.default_rng([0, 0])))
    assert len(marks.among) == 60
    assert set(marks.rows) <= set(marks.among)


@dataclass(frozen=True, kw_only=True)
class _Marking(Solver):
    """Marks the first rows, for the tests of the mechanism; it has no name, so is no method."""

    level = "embedding"
    head_name = "linear"
    needs = frozenset({"train.x"})

    def solve(self, task: Task, seed: int) -> LinearHead:
        return LinearHead(torch.zeros(2, 10), torch.zeros(2), normalise=True, level="embedding")

    def marks(self, task: Task) -> Marks:
        return Marks(split="train", rows=np.arange(7))


def test_one_method_is_all_that_a_solver_needs(on: Workbench) -> None:
    method = _Marking()
    solved = method.solved(on.task(method), 0)
    assert isinstance(solved, Solved)
    assert solved.marks is not None
    assert identified(solved.marks, method, on)["marked"] == 7


def test_a_method_that_looks_for_nothing_says_nothing(on: Workbench, tmp_path: Path) -> None:
    for name in ("erm", "cb-llr"):
        assert "found" not in fit_on(on, name, {"epochs": 1}, out=tmp_path).record


def test_engines_agree(on: Workbench, tmp_path: Path) -> None:
    specs = [
        "jtt:epochs=1:stage_epochs=1,2",
        "evals:stage_epochs=5:k=4:epochs=2",
        "cnc:epochs=1:stage_epochs=3",
    ]
    found = []
    for engine in ("sequential", "batched"):
        grid(specs, on.cache, seeds=2, engine=engine, out=tmp_path / engine, device="cpu")
        asked = load(tmp_path / engine).asked
        found.append({name: record["found"] for name, record in asked.items()})
    one, other = found
    assert one.keys() == other.keys()
    assert len(one) == 8
    for name, theirs in other.items():
        assert one[name]["rare_groups"] == theirs["rare_groups"] == [1, 2]
        assert one[name]["recall"] == pytest.approx(theirs["recall"], abs=0.1)


def test_the_report_says_it(
    on: Workbench,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    run = fit_on(on, "jtt", QUICK["jtt"], out=tmp_path)
    names = on.cache.group_names()
    show(run_report(run, names))
    lines = capsys.readouterr().out
    assert max(map(len, lines.splitlines()[:8])) <= 60
    out, found = " ".join(lines.split()), run.record["found"]
    assert f"{found['marked']} of 120 train rows taken for rare" in out
    assert f"{100 * found['recall']:.1f} % of the rare ones" in out
    assert f"{100 * found['precision']:.1f} % of it is rare" in out
    assert all(names[g].split()[-1] in out for g in (1, 2))
    for less, words in (
        ({"rare": 0, "rare_groups": []}, "none of them is in a rare group"),
        ({"precision": None}, "– % of it is rare"),
    ):
        show(run_report(replace(run, record={**run.record, "found": {**found, **less}}), names))
        assert words in " ".join(capsys.readouterr().out.split())
