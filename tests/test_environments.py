"""The rule val.env: its cells by loops, what it equals, what it reads, who keeps heads for it."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from embedcal.answers.runs import run_report
from embedcal.cache import FeatureCache, import_features, open_cache
from embedcal.comparing import compare
from embedcal.environments import FOLDER, PROBE, SMALL, infer
from embedcal.evaluate import RULES, evaluate, rule
from embedcal.fitting import Place, configure, environments_of, fit, fit_on
from embedcal.grids import grid, load
from embedcal.heads import predict
from embedcal.methods import labels_of
from embedcal.methods.evals import EVALS
from embedcal.records import kept_under, score_of
from embedcal.runs import load_run, run_id
from embedcal.tables import show
from embedcal.types import EmbedcalError
from embedcal.workbench import Workbench

ERM: dict[str, Any] = {"epochs": 6, "lr": 3e-2, "batch_size": 32}


def arrays(rows: int = 480, classes: int = 2, seed: int = 3) -> dict[str, np.ndarray]:
    """Features with a weak core axis and a strong spurious one a class; a third a split."""
    rng = np.random.default_rng([seed, classes])
    split = np.arange(rows) % 3
    y = rng.integers(classes, size=rows)
    a = np.where(rng.random(rows) < np.where(split == 0, 0.12, 0.5), (y + 1) % classes, y)
    x = rng.normal(size=(rows, 12)).astype(np.float32)
    x[np.arange(rows), y] += 1.5
    x[np.arange(rows), classes + a] += 2.5
    return {"x": x, "y": y, "a": a, "split": split}


def made(folder: Path, name: str, data: dict[str, np.ndarray], *, groups: bool = True) -> Path:
    labels = {"cue": data["a"]} if groups else {}
    return import_features(data["x"], data["y"], data["split"], labels, out=folder / f"{name}.h5")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made(tmp_path_factory.mktemp("world"), "world", arrays())


@pytest.fixture
def cache(world: Path) -> Any:
    with open_cache(world) as opened:
        yield opened


# -- the cells -------------------------------------------------------------------------------------


def slow_cells(logits: np.ndarray, y: np.ndarray, classes: int) -> dict[tuple[int, int], list[int]]:
    """Rows by (class, environment), small classes whole: the sign of the slope of the loss."""
    cells: dict[tuple[int, int], list[int]] = {}
    for c in range(classes):
        parts: tuple[list[int], list[int]] = ([], [])
        for i in np.flatnonzero(y == c):
            p = [float(np.exp(v - max(logits[i]))) for v in logits[i]]
            mean = sum(q * float(v) for q, v in zip(p, logits[i])) / sum(p)
            parts[int(mean - float(logits[i][c]) > 0)].append(int(i))
        if min(map(len, parts)) < SMALL:
            parts = ([*parts[0], *parts[1]], [])
        cells |= {(c, e): rows for e, rows in enumerate(parts)}
    return {cell: rows for cell, rows in cells.items() if rows}


@pytest.mark.parametrize(("classes", "noise"), [(2, 0.5), (2, 2.0), (3, 1.5), (5, 0.9)])
def test_the_worst_cell_by_loops(classes: int, noise: float) -> None:
    rng = np.random.default_rng(classes)
    y = rng.integers(classes, size=150)
    logits = noise * rng.normal(size=(150, classes)) + 1.5 * np.eye(classes)[y]
    found, cells = infer(logits, y, classes, "probe"), slow_cells(logits, y, classes)
    assert found.sizes.sum() == 150
    assert set(found.joined) == {c for c in range(classes) if (c, 1) not in cells}
    for seed in range(20):
        guess = np.random.default_rng(seed).integers(classes, size=150)
        shares = [sum(guess[i] == y[i] for i in rows) / len(rows) for rows in cells.values()]
        assert found.accuracy(guess) == min(shares)


def test_some_of_these_worlds_have_small_cells_and_some_have_none() -> None:
    """So that the loops above have met both."""
    joined = []
    for classes, noise in [(2, 0.5), (2, 2.0), (3, 1.5)]:
        rng = np.random.default_rng(classes)
        y = rng.integers(classes, size=150)
        logits = noise * rng.normal(size=(150, classes)) + 1.5 * np.eye(classes)[y]
        joined.append(bool(infer(logits, y, classes, "probe").joined))
    assert set(joined) == {True, False}


def test_what_changes_no_cell() -> None:
    rng = np.random.default_rng(1)
    y, logits = rng.integers(2, size=80), rng.normal(size=(80, 2))
    found = infer(logits, y, 2, "probe")
    for other in (logits + 10 * rng.normal(size=(80, 1)), 3.7 * logits, logits.astype(np.float32)):
        assert np.array_equal(infer(other, y, 2, "probe").cells.cell, found.cells.cell)
    order = rng.permutation(80)
    again = infer(logits[order], y[order], 2, "probe")
    assert np.array_equal(again.cells.cell, found.cells.cell[order])
    assert np.array_equal(again.sizes, found.sizes)
    assert np.array_equal(found.cells.a, (logits.argmax(1) != y).astype(int))  # two classes: errors


def test_where_environments_are_the_attributes_it_is_the_worst_group() -> None:
    rng = np.random.default_rng(2)
    y, a = rng.integers(2, size=90), rng.integers(2, size=90)
    logits = np.eye(2)[np.where(a == 1, 1 - y, y)]  # wrong where a is 1
    found = infer(logits, y, 2, "probe")
    for seed in range(10):
        guess = np.random.default_rng(seed).integers(2, size=90)
        assert found.accuracy(guess) == evaluate(guess, y, a, 2, 2).worst_group


def test_a_probe_without_errors_leaves_the_worst_class(caplog: pytest.LogCaptureFixture) -> None:
    rng = np.random.default_rng(4)
    y, guess = rng.integers(3, size=60), rng.integers(3, size=60)
    with caplog.at_level(logging.INFO, logger="embedcal.environments"):
        found = infer(9 * np.eye(3)[y], y, 3, "probe")
    assert found.joined == (0, 1, 2)
    assert found.accuracy(guess) == evaluate(guess, y, None, 3, 0).worst_class
    assert caplog.messages[0].endswith(", ".join(f"{(y == c).sum()}+0" for c in range(3)))


def test_a_small_environment_is_joined_and_one_of_five_is_not() -> None:
    y = np.repeat([0, 1], 30)
    for errors in (SMALL - 1, SMALL):
        wrong = np.isin(np.arange(60), np.r_[0:errors, 30:50])
        found = infer(np.eye(2)[np.where(wrong, 1 - y, y)], y, 2, "probe")
        assert found.joined == ((0,) if errors < SMALL else ())
        assert found.sizes.tolist() == [[30 - errors, errors], [10, 20]]
        assert found.cells.sizes[0].tolist()[:2] == [30, 0] if errors < SMALL else [25, 5]


# -- a run -----------------------------------------------------------------------------------------


def test_where_the_probes_errors_are_the_groups_both_rules_keep_the_same(
    cache: FeatureCache, tmp_path: Path
) -> None:
    """The same features under an attribute that says where the probe errs: every epoch agrees."""
    fit("erm", cache, select="val.env", out=tmp_path / "first", **ERM)
    (probe,) = load(tmp_path / "first" / FOLDER).records.values()
    stored = load_run(tmp_path / "first" / FOLDER / probe["id"])
    assert stored is not None
    data = arrays()
    val = data["split"] == 1
    wrong = stored.logits("last", "val").argmax(1) != data["y"][val]
    data["a"][val] = wrong
    with open_cache(made(tmp_path, "other", data)) as other:
        run = fit("erm", other, select="val.env", out=tmp_path / "second", **ERM)
    assert run.record["environments"]["joined"] == []
    for point in run.record["curve"]:
        assert point["val.worst_env"] == point["val.worst_group"]
    by_env, by_group = (run.record["rules"][name] for name in ("val.env", "val.worst_group"))
    assert by_env["epoch"] == by_group["epoch"]
    assert by_env["val"] == by_group["val"]
    heads = [run.head(name).state_dict() for name in ("val.env", "val.worst_group")]
    assert all(torch.equal(value, heads[1][key]) for key, value in heads[0].items())


def test_the_kept_epoch_is_the_first_best_and_its_score_is_recounted(
    cache: FeatureCache, tmp_path: Path
) -> None:
    run = fit("erm", cache, select="val.env", out=tmp_path, **ERM)
    curve = [point["val.worst_env"] for point in run.record["curve"]]
    entry = run.record["rules"]["val.env"]
    assert entry["epoch"] == 1 + int(np.argmax(curve))
    assert run.val["worst_env"] == entry["val"]["worst_env"] == max(curve)
    probe = load_run(tmp_path / FOLDER / run.record["environments"]["stage"])
    assert probe is not None
    cells = slow_cells(probe.logits("last", "val"), cache.split("val", "embedding").y, 2)
    for name, kept in run.record["rules"].items():
        right = run.logits(name, "val").argmax(1) == cache.split("val", "embedding").y
        assert kept["val"]["worst_env"] == min(right[rows].mean() for rows in cells.values())
    sizes = [[len(cells[c, e]) for e in range(2)] for c in range(2)]
    assert run.record["environments"] == {
        "stage": probe.id, "min_cell": SMALL, "sizes": sizes, "joined": [],
    }  # fmt: skip
    assert json.loads((run.folder / "run.json").read_text()) == json.loads(json.dumps(run.record))
    logits = predict(run.head(), torch.tensor(cache.split("val", "embedding").x))
    assert torch.equal(logits, run.predictions()["val"])


def test_what_is_read(cache: FeatureCache, tmp_path: Path) -> None:
    """Labels as declared; and without any group label the same epochs, to the bit."""
    assert configure("evals", {}).stage == PROBE == EVALS().stage
    first = configure(PROBE.method, PROBE.options)
    labels = {need for need in labels_of(first) if need.endswith((".y", ".g", ".a"))}
    assert labels | rule(PROBE.select).needs | {"val.y"} == rule("val.env").needs
    run = fit("erm", cache, select="val.env", out=tmp_path / "a", **ERM)
    assert run.record["labels_used"] == ["train.y", "val.y"]
    assert not run.record["oracle"]
    with open_cache(made(tmp_path, "bare", arrays(), groups=False)) as bare:
        other = fit("erm", bare, select="val.env", out=tmp_path / "b", **ERM)
    assert other.record["rules"]["val.env"]["epoch"] == run.record["rules"]["val.env"]["epoch"]
    assert torch.equal(other.predictions()["test"], run.predictions()["test"])
    assert other.record["environments"]["sizes"] == run.record["environments"]["sizes"]


def test_runs_without_the_rule_are_what_they_were(cache: FeatureCache, tmp_path: Path) -> None:
    """Their id is a hash of the same facts as before there was the rule, and they fit no probe."""
    run = fit("erm", cache, out=tmp_path, **ERM)
    record = run.record
    assert run.id == run_id(
        {
            "cache": cache.fingerprint,
            "attributes": ["cue"],
            "method": "erm",
            "source": "",
            "variant": "paper",
            "head": "linear",
            "options": record["options"],
            "seed": 0,
            "revision": [1, 1],
        }
    )
    assert set(record["rules"]) == {"val.worst_group", "val.worst_class", "val.mean", "last"}
    assert not {"environments", "found"} & set(record)
    assert not (tmp_path / FOLDER).exists()
    assert "val.worst_env" not in record["curve"][0]
    assert kept_under(record, "val.env") is score_of(record, "val.env") is None


def test_a_finished_run_is_trained_once_more_for_it_and_then_never(
    cache: FeatureCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bare = fit("erm", cache, out=tmp_path, **ERM)
    asked = fit("erm", cache, out=tmp_path, select="val.env", **ERM)
    assert asked.id == bare.id
    assert not asked.reused
    for name, entry in bare.record["rules"].items():  # the others have not moved
        again = dict(asked.record["rules"][name])
        again["val"] = {k: v for k, v in again["val"].items() if k != "worst_env"}
        assert again == entry
    peek = fit("erm", cache, out=tmp_path, select="oracle.worst_group", **ERM)
    assert set(peek.record["rules"]) == {each.name for each in RULES}  # nothing is lost
    monkeypatch.setattr("embedcal.train.train", lambda *a, **k: pytest.fail("trained again"))
    for name in ("val.env", "val.worst_group", "oracle.worst_group", "val.env"):
        found = fit("erm", cache, out=tmp_path, select=name, **ERM)
        assert found.reused
        assert found.record["selection"] == name
        assert "worst_env" in found.val


def test_a_solver_is_judged_again_and_not_solved(
    cache: FeatureCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"c": (1.0,), "refits": 1}
    first = fit("dfr", cache, out=tmp_path, **options)
    assert kept_under(first.record, "val.worst_class") is not None
    assert kept_under(first.record, "val.env") is None
    monkeypatch.setattr("embedcal.methods.dfr.DFR.solve", lambda *a: pytest.fail("solved again"))
    run = fit("dfr", cache, out=tmp_path, select="val.env", **options)
    assert run.id == first.id
    assert run.record["selection"] == first.record["selection"]
    assert run.record["labels_used"] == first.record["labels_used"]
    probe = load_run(tmp_path / FOLDER / run.record["environments"]["stage"])
    assert probe is not None
    y = cache.split("val", "embedding").y
    cells = slow_cells(probe.logits("last", "val"), y, 2)
    right = run.predictions()["val"].numpy().argmax(1) == y
    expected = min(right[rows].mean() for rows in cells.values())
    assert run.val["worst_env"] == score_of(run.record, "val.env") == expected
    assert fit("dfr", cache, out=tmp_path, select="val.env", **options).reused
    assert load(tmp_path).records[run.id]["rules"] == run.record["rules"]


def test_the_probe_itself_may_be_chosen_by_it(cache: FeatureCache, tmp_path: Path) -> None:
    """It holds the claim on its own run while it asks for its twin's."""
    run = fit("erm", cache, out=tmp_path, select="val.env", **PROBE.options)
    assert run.record["environments"]["stage"] == run.id
    assert "val.env" in run.record["rules"]
    twin = load_run(tmp_path / FOLDER / run.id)
    assert twin is not None
    assert torch.equal(twin.all_predictions()["last/val"], run.all_predictions()["last/val"])


# -- grids -----------------------------------------------------------------------------------------

SPECS = ("erm:lr=1e-2,1e-1:epochs=4", "jtt:epochs=2:stage_epochs=1", "dfr:c=1:refits=1")


@pytest.mark.parametrize("engine", ["batched", pytest.param("processes", marks=pytest.mark.slow)])
def test_engines_agree_and_fit_one_probe(engine: str, world: Path, tmp_path: Path) -> None:
    folders = {name: tmp_path / name for name in ("sequential", engine)}
    with open_cache(world) as cache:
        for name, folder in folders.items():
            found = grid(
                SPECS,
                cache,
                seeds=2,
                select="val.env",
                engine=name,
                jobs=2,
                out=folder,
                device="cpu",
            )
            assert len(found.done) == 8
            again = grid(SPECS, cache, seeds=2, select="val.env", engine=name, jobs=2, out=folder)
            assert again.reused == 8
    one, other = (load(folder) for folder in folders.values())
    assert len((folders[engine] / FOLDER / "results.jsonl").read_text().splitlines()) == 1
    assert one.asked.keys() == other.asked.keys()
    for name, record in one.asked.items():
        theirs = other.asked[name]
        assert record["environments"] == theirs["environments"]
        assert record["labels_used"] == theirs["labels_used"]
        assert set(record["rules"]) == set(theirs["rules"])
        slack = 0.0 if engine == "processes" else 0.06
        for kept in record["rules"]:
            mine, its = (each["rules"][kept]["val"]["worst_env"] for each in (record, theirs))
            assert mine == pytest.approx(its, abs=slack)


def test_a_grid_without_it_is_gone_over_again_and_the_best_is_chosen_by_it(
    cache: FeatureCache, tmp_path: Path
) -> None:
    for select, reused in (("val.mean", 0), ("val.env", 0), ("val.env", 6), ("val.mean", 6)):
        found = grid(
            ["erm:lr=1e-3,1e-1:epochs=3", "dfr:c=1:refits=1"],
            cache, seeds=2, select=select, engine="sequential", out=tmp_path, device="cpu",
        )  # fmt: skip
        assert found.reused == reused
        if select == "val.env":
            best = found.best
    scores: dict[str, list[float]] = {}
    for record in found.records:
        kept = record["rules"].get("val.env") or next(iter(record["rules"].values()))
        label = f"{record['method']} {record['options'].get('lr')}"
        scores.setdefault(label, []).append(kept["val"]["worst_env"])
    assert best is not None
    assert best[1] == pytest.approx(max(map(np.mean, scores.values())))
    (block,) = compare([tmp_path], select="val.env").blocks
    for row in block.rows:
        own = [float(np.mean(s)) for label, s in scores.items() if label.startswith(row.label)]
        assert row.validation == pytest.approx(max(own))
    erm = next(row for row in block.rows if row.label == "erm")
    assert set(erm.labels_used) == {"train.y", "val.y"}


def test_compare_says_what_keeps_nothing_under_it(cache: FeatureCache, tmp_path: Path) -> None:
    fit("erm", cache, out=tmp_path, **ERM)
    with pytest.raises(EmbedcalError, match=r"kept the rule 'val\.env'.*fit them again with"):
        compare([tmp_path], select="val.env")
    fit("erm", cache, out=tmp_path, seed=1, select="val.env", **ERM)
    (block,) = compare([tmp_path], select="val.env").blocks
    told = "1 run left out: kept nothing under val.env (erm 1); fit again with --select val.env"
    assert told in block.notes


def test_environments_that_were_sent_are_taken_as_they_are(
    cache: FeatureCache, tmp_path: Path
) -> None:
    """A node of a cluster has no folder with the probe, and asks for none."""
    rng = np.random.default_rng(0)
    given = infer(rng.normal(size=(40, 2)), rng.integers(2, size=40), 2, "elsewhere")
    place = Place(on=Workbench(cache), seed=0, runs=tmp_path, device="cpu", engine="ray")
    assert environments_of(RULES[:2], place) is None
    place = replace(place, environments=given)
    assert environments_of(RULES[:2], place) is None
    assert environments_of([rule("val.env")], place) is given
    assert not list(tmp_path.iterdir())


def test_the_report_shows_the_cells(
    cache: FeatureCache, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    on = Workbench(cache)
    run = fit_on(on, "erm", ERM, select="val.env", out=tmp_path)
    show(run_report(run, cache.group_names()))
    cells = ", ".join(f"{a}+{b}" for a, b in run.record["environments"]["sizes"])
    out = " ".join(capsys.readouterr().out.split())
    assert f"val rows by class: {cells}; worst_env {100 * run.val['worst_env']:.1f} %" in out
    whole = {**run.record, "environments": {**run.record["environments"], "joined": [1]}}
    show(run_report(replace(run, record=whole), cache.group_names()))
    assert f"{cells} (judged whole);" in " ".join(capsys.readouterr().out.split())
    assert "in every epoch" not in out
    none = {**run.record, "val": {**run.record["val"], "worst_env": 0.0}}
    show(run_report(replace(run, record=none), cache.group_names()))
    told = "worst_env 0.0 % in every epoch, so the first was kept: choose by val.worst_class"
    assert told in " ".join(capsys.readouterr().out.split())
