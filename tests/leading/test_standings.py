"""Where each method stands: chosen on validation, ranked by what can be told, with its price."""

from __future__ import annotations

import json
import math
from types import SimpleNamespace

import grids_for_tests
import numpy as np
import pytest

from embedcal.answers.leaderboard import markdown
from embedcal.cache import Names, import_features, open_cache
from embedcal.comparing import compare
from embedcal.comparing.budgets import CLASSES, NOTHING, TRAIN_GROUPS, VAL_GROUPS, kind
from embedcal.environments import FOLDER
from embedcal.evaluate import bootstrap, holm, paired, rule, strata
from embedcal.grids import Setting, parse
from embedcal.grids import grid as run_grid
from embedcal.leading import leaderboard
from embedcal.leading.entrants import Entrant
from embedcal.leading.standings import Done, bids, ranks, reads
from embedcal.runs import load_run
from embedcal.types import EmbedcalError

QUICK = {"seeds": 2, "engine": "sequential", "options": {"epochs": "2"}}
FEW = ("erm", "group-dro", "jtt", "linear-probe", "evals", "zeroshot")
WORST_GROUP, WORST_CLASS = rule("val.worst_group"), rule("val.worst_class")


def board(cache, out, methods=FEW, **given):
    return leaderboard(cache, methods, out=out, **{**QUICK, **given})


def places(found):
    return [(standing.row.method, standing.kind) for standing in found.standings]


def entrant(settings=1, *, needs=(), judged=False):
    return Entrant(
        method="m",
        settings=tuple(Setting(method="m", options={"k": k}) for k in range(settings)),
        needs=frozenset(needs),
        judged=judged,
        fits_val=False,
    )


def test_the_choice_of_an_epoch_and_of_a_setting_is_read() -> None:
    def of(who, by=WORST_GROUP):
        return kind(reads(who, by, by_groups=True))

    assert of(entrant()) == NOTHING
    assert of(entrant(2)) == VAL_GROUPS
    assert of(entrant(2), WORST_CLASS) == CLASSES
    assert of(entrant(2), rule("last")) == VAL_GROUPS  # the default rule chooses among settings
    assert of(entrant(needs=["train.y"], judged=True)) == VAL_GROUPS
    assert of(entrant(needs=["train.y"], judged=True), WORST_CLASS) == CLASSES
    assert of(entrant(needs=["train.y"])) == CLASSES  # a solver that nothing chooses
    assert of(entrant(needs=["train.g"]), WORST_CLASS) == TRAIN_GROUPS
    assert kind(reads(entrant(2), rule("last"), by_groups=False)) == CLASSES


def test_what_reads_nothing_stands_there_untuned_too() -> None:
    def of(who, rules):
        return [(len(own.settings), by.name) for own, by in bids(who, rules, by_groups=True)]

    both = (WORST_CLASS, WORST_GROUP)
    tuned = [(2, "val.worst_class"), (2, "val.worst_group")]
    assert of(entrant(2), both) == [*tuned, (1, "val.worst_group")]
    assert of(entrant(2, needs=["train.y"]), both) == tuned  # val.worst_class costs no more
    assert of(entrant(2, needs=["train.y"]), both[1:]) == [*tuned[1:], (1, "val.worst_group")]
    assert of(entrant(2, needs=["train.y"], judged=True), both[1:]) == tuned[1:]
    assert of(entrant(1), both[:1]) == [(1, "val.worst_class")]


CELLS = strata(np.repeat([0, 1], 300), np.tile([0, 1], 300), 2, 2)


def drawn(accuracy, seed, runs=8):
    return np.random.default_rng(seed).random((runs, len(CELLS))) < accuracy


def test_ranks_are_what_pairs_show_counted_slowly() -> None:
    correct = [drawn(p, s) for s, p in enumerate([0.5, 0.9, 0.55, 0.88, 0.7])]
    found = ranks(correct, CELLS, "worst_group")
    pairs = [(a, b) for a in range(5) for b in range(a + 1, 5)]
    tests = [paired(correct[a], correct[b], CELLS, draws=2000) for a, b in pairs]
    shown = dict(zip(pairs, zip(tests, holm([t.p_value for t in tests])), strict=True))
    for row, (best, worst) in enumerate(found):
        above = below = 0
        for (a, b), (test, p) in shown.items():
            if row not in (a, b) or p >= 0.05:
                continue
            ahead = test.difference if row == a else -test.difference
            above += ahead < 0
            below += ahead > 0
        assert (best, worst) == (1 + above, 5 - below)
    assert found[1][0] == 1
    assert found[0][0] > found[4][0]  # 0.5 is shown to be below 0.7


def test_ranks_of_what_is_equal_lost_or_alone_tell_nothing() -> None:
    same = drawn(0.8, 0)
    assert ranks([same, same, same], CELLS, "worst_group") == [(1, 3)] * 3
    assert ranks([same, None], CELLS, "worst_group") == [(1, 2)] * 2
    assert ranks([same], CELLS, "worst_group") == [(1, 1)]
    assert ranks([None], None, "worst_group") == [(1, 1)]
    clear = ranks([drawn(0.5, 1), drawn(0.99, 2), drawn(0.75, 3)], CELLS, "mean")
    assert clear == [(3, 3), (1, 1), (2, 2)]


def test_seconds_count_every_first_run_once() -> None:
    records = {
        "a": {"seconds": 1.0, "stage": "s"},
        "b": {"seconds": 2.0, "stage": "s"},
        "c": {"seconds": 4.0, "stage": None},
        "s": {"seconds": 8.0, "stage": "t"},
        "t": {"seconds": 16.0},
    }
    done = Done(pool=SimpleNamespace(), settings={}, records=records)
    assert done.seconds(["a", "b", "c"]) == 31
    assert done.seconds(["b"]) == 26
    assert done.seconds(["c"]) == 4
    assert done.seconds(["s", "a"]) == 25  # asked for, and a first run: once


def test_each_method_stands_in_every_budget_that_a_rule_brings_it_to(cache, tmp_path) -> None:
    found = board(cache, tmp_path, budget=3)
    assert set(places(found)) == {
        ("erm", CLASSES), ("erm", VAL_GROUPS), ("jtt", CLASSES), ("jtt", VAL_GROUPS),
        ("linear-probe", CLASSES), ("linear-probe", VAL_GROUPS), ("evals", CLASSES),
        ("group-dro", TRAIN_GROUPS),
    }  # fmt: skip
    assert list(found.refused) == ["zeroshot"]
    assert found.rules == ("val.worst_class", "val.worst_group")
    kept = {"erm": 3, "jtt": 3, "linear-probe": 3, "group-dro": 3, "evals": 1}
    for standing in found.standings:
        row = standing.row
        assert row.configurations == kept[row.method]
        assert row.in_sample == (row.method == "evals")
        assert bool(standing.rule) == (kept[row.method] > 1)
        assert kind(standing.reads) == standing.kind
        assert standing.seconds > 0
        assert standing.search_seconds >= standing.seconds * len(row.runs)
    (dro,) = (s for s in found.standings if s.row.method == "group-dro")
    assert dro.row.selection == "val.worst_group"  # of two rules that cost it the same
    json.dumps(found.record, allow_nan=False)


def test_the_setting_is_chosen_on_validation_and_the_rest_are_its_runs(cache, tmp_path) -> None:
    found = board(cache, tmp_path, ["erm"], budget=4)
    for standing in found.standings:
        name = standing.row.selection
        statistic = name.removeprefix("val.")
        by_setting: dict[str, list] = {}
        lines = (tmp_path / "results.jsonl").read_text().splitlines()
        for record in map(json.loads, lines):
            by_setting.setdefault(json.dumps(record["options"]), []).append(record)
        assert len(by_setting) == 4
        scores = {
            key: np.mean([r["rules"][name]["val"][statistic] for r in records])
            for key, records in by_setting.items()
        }
        chosen = by_setting[max(scores, key=lambda key: scores[key])]
        row = standing.row
        assert set(row.runs) == {record["id"] for record in chosen}
        worst = [record["rules"][name]["test"]["worst_group"] for record in chosen]
        assert row.mean == pytest.approx(np.mean(worst))
        assert row.deviation == pytest.approx(np.std(worst, ddof=1))
        runs = [load_run(tmp_path / run) for run in row.runs]
        cells = runs[0].strata("test")
        right = np.stack([run.logits(name, "test").argmax(1) == cells.y for run in runs])
        assert row.interval == bootstrap(right, cells).worst_group
        assert standing.seconds == pytest.approx(np.mean([r["seconds"] for r in chosen]))
        every = [record["seconds"] for records in by_setting.values() for record in records]
        assert standing.search_seconds == pytest.approx(sum(every))


def test_what_is_there_is_not_done_again_and_more_is_added(cache, tmp_path) -> None:
    small = board(cache, tmp_path, ["erm", "jtt"], quick=True)
    assert (small.runs, small.reused) == (4, 0)
    large = board(cache, tmp_path, ["erm", "jtt"], budget=3)
    assert (large.runs, large.reused) == (12, 4)
    again = board(cache, tmp_path, ["erm", "jtt"], budget=3)
    assert (again.runs, again.reused) == (12, 12)
    assert again.standings == large.standings
    assert board(cache, tmp_path, ["erm", "jtt"], quick=True).standings == small.standings
    narrow = board(cache, tmp_path, ["erm"], quick=True, select="val.mean")
    assert (narrow.runs, narrow.reused) == (2, 2)  # every run keeps what every rule chose
    assert places(narrow) == [("erm", CLASSES)]


def test_an_interrupted_leaderboard_goes_on(cache, tmp_path) -> None:
    def stop(tally):
        if tally.done >= 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        board(cache, tmp_path, ["erm", "rwg"], budget=2, seeds=3, watch=stop)
    found = board(cache, tmp_path, ["erm", "rwg"], budget=2, seeds=3)
    assert found.runs == 12
    assert 2 <= found.reused <= 12  # a fast machine may be done when it is told
    undisturbed = board(cache, tmp_path / "other", ["erm", "rwg"], budget=2, seeds=3)
    assert [(s.row.values, s.rank) for s in undisturbed.standings] == [
        (s.row.values, s.rank) for s in found.standings
    ]


def test_a_method_whose_runs_all_fail_is_listed_with_the_reason(cache, tmp_path) -> None:
    spaces = [parse("erm:optimizer=sgd:lr=1e38:epochs=3"), parse("rwg:epochs=1")]
    found = board(cache, tmp_path, None, grid=spaces, options=None)
    assert found.failed == 2
    assert [s.row.method for s in found.standings] == ["rwg", "rwg"][: len(found.standings)]
    (reason,) = found.refused.values()
    assert reason.startswith("all of its 2 runs failed: ")
    some = [parse("erm:optimizer=sgd:lr=1e-2,1e38:epochs=3")]
    found = board(cache, tmp_path, None, grid=some, options=None)
    assert any("2 of 4 runs failed, the first with" in note for note in found.notes)
    assert all(standing.row.failed == 2 for standing in found.standings)


def test_without_attributes_classes_are_what_is_ranked_by(tmp_path) -> None:
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, 240)
    x = rng.normal(size=(240, 8)).astype(np.float32) + y[:, None]
    path = import_features(
        x, y, np.arange(240) % 3, {}, names=Names(dataset="plain"), out=tmp_path / "plain.h5"
    )
    with open_cache(path) as cache:
        found = board(cache, tmp_path / "runs", ["erm", "group-dro", "dfr"], quick=True)
    assert found.rules == ("val.worst_class",)
    assert found.metric == "worst_class"
    assert {method for method, _ in places(found)} == {"erm", "dfr"}
    assert "attribute labels for group-dro" in found.refused["group-dro"]
    assert "dfr" in found.refused  # as it is, while balance=class takes part
    assert {kind for _, kind in places(found)} == {CLASSES}


def test_groups_that_no_test_row_is_in_rank_nothing(tmp_path) -> None:
    path = grids_for_tests.make_cache(tmp_path / "early.h5", placeless=[2])
    with open_cache(path) as cache:
        for metric in ("worst_group", "train_weighted"):
            with pytest.raises(
                EmbedcalError, match=f"'{metric}', found none in .*test of early.h5"
            ):
                board(cache, tmp_path / "runs", metric=metric)
        assert not (tmp_path / "runs").exists()
        found = board(cache, tmp_path / "runs", ["erm", "dfr"], quick=True)
    assert found.rules == ("val.worst_class", "val.worst_group")
    assert found.metric == "worst_class"
    for standing in found.standings:
        tests = [load_run(found.folder / run).test for run in standing.row.runs]
        assert standing.row.mean == pytest.approx(np.mean([t["worst_class"] for t in tests]))
    heads = next(line for line in markdown(found).splitlines() if line.startswith("|"))
    assert "mean" in heads
    assert "train" not in heads
    (block,) = compare(found.folder).blocks
    assert (block.metric, block.rule, block.group_names) == ("worst_class", "val.worst_group", ())
    with pytest.raises(
        EmbedcalError, match="'group_mean', found none in test of the runs over made"
    ):
        compare(found.folder, metric="group_mean")


def test_groups_that_no_validation_row_is_in_choose_nothing(tmp_path) -> None:
    path = grids_for_tests.make_cache(tmp_path / "late.h5", placeless=[1])
    folder = tmp_path / "runs"
    with open_cache(path) as cache:
        run_grid(["linear-probe:c=1e-6,1"], cache, out=folder, engine="sequential")
    (block,) = compare(folder).blocks
    assert (block.metric, block.rule) == ("worst_group", "val.worst_class")
    assert block.rows[0].options["c"] == 1
    assert not math.isnan(block.rows[0].validation)
    (block,) = compare(folder, select="val.worst_group").blocks
    assert (
        "linear-probe: none of 2 configurations has a val.worst_group to choose by: the first "
        "counts" in block.notes
    )


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"quick": True, "budget": 3}, "one of --quick, .*found --quick and --budget"),
        ({"budget": 0}, "--budget of 1 or more, found 0"),
        ({"methods": ["emr"]}, "did you mean"),
        ({"methods": []}, "expected methods, found none"),
        ({"methods": ["zeroshot", "cfr"]}, "that made.h5 can serve, found none.*zeroshot"),
        ({"select": "val.wurst_group"}, "expected a selection rule"),
        ({"select": []}, "expected a rule"),
        ({"select": "oracle.worst_group"}, "looks at test: give --oracle"),
        ({"metric": "wurst_group"}, "did you mean worst_group"),
        ({"grid": "nowhere.toml", "options": None, "methods": None}, "expected a grid in nowhere"),
        ({"grid": "some.toml"}, "found both"),
        ({"seeds": 0}, "expected one seed or more"),
    ],
)
def test_a_mistake_is_one_line_before_anything_is_run(cache, tmp_path, given, expected) -> None:
    with pytest.raises(EmbedcalError, match=expected) as error:
        board(cache, tmp_path, **{"methods": ["erm"], **given})
    assert "\n" not in str(error.value)
    assert not (tmp_path / "results.jsonl").exists()


def test_an_oracle_is_marked(cache, tmp_path) -> None:
    found = board(cache, tmp_path, ["erm"], quick=True, oracle=True)
    assert found.oracle
    assert found.rules == ("oracle.worst_group",)
    assert all(standing.row.oracle for standing in found.standings)


def test_one_seed_has_no_deviation_but_an_interval(cache, tmp_path) -> None:
    found = board(cache, tmp_path, ["erm"], quick=True, seeds=1)
    for standing in found.standings:
        assert math.isnan(standing.row.deviation)
        low, high = standing.row.interval
        assert low <= standing.row.mean <= high


def test_environments_choose_without_a_group_label(cache, tmp_path) -> None:
    found = board(cache, tmp_path, budget=2, select="val.env")
    assert found.rules == ("val.env",)
    assert found.failed == 0
    assert {kind for _, kind in places(found)} == {CLASSES, TRAIN_GROUPS}
    assert {method for method, _ in places(found)} == set(FEW) - {"zeroshot"}
    for standing in found.standings:
        runs = [load_run(tmp_path / run) for run in standing.row.runs]
        kept = [run.record["rules"][standing.row.selection]["val"]["worst_env"] for run in runs]
        assert standing.row.validation == pytest.approx(np.mean(kept))
        if standing.rule:
            assert standing.rule == "val.env"
            assert not any(name.endswith(".g") for name in standing.reads) or (
                standing.row.method == "group-dro"
            )
    lines = (tmp_path / FOLDER / "results.jsonl").read_text().splitlines()
    assert len(lines) == 1  # one probe for all
    sizes = runs[0].record["environments"]["sizes"]
    cells = ", ".join(f"{a}+{b}" for a, b in sizes)
    assert any(note.startswith("val.env judged val rows") and cells in note for note in found.notes)
    seconds = json.loads(lines[0])["seconds"]
    assert f"val.env: the probe of its environments took {seconds:.1f} s, counted nowhere" in (
        found.notes
    )
    json.dumps(found.record, allow_nan=False)
    again = board(cache, tmp_path, budget=2, select="val.env")
    assert again.reused == again.runs == found.runs
    assert again.standings == found.standings


def test_runs_that_were_there_are_judged_by_environments_too(cache, tmp_path) -> None:
    """Under the rules that every run keeps first, then asked for it: no run is lost or left out."""
    few = ("erm", "linear-probe", "dfr")
    board(cache, tmp_path, few, quick=True)
    found = board(cache, tmp_path, few, quick=True, select="val.env")
    assert {method for method, _ in places(found)} == set(few)
    assert found.failed == 0
    assert all(math.isfinite(standing.row.validation) for standing in found.standings)


def test_a_rule_on_demand_is_asked_for_before_those_that_every_run_keeps(cache, tmp_path) -> None:
    rules = ("val.mean", "val.worst_group", "val.env")
    found = board(cache, tmp_path, ["erm", "jtt"], quick=True, select=rules)
    assert found.rules == rules
    assert grids_for_tests.times_done(tmp_path).most_common(1)[0][1] == 1
    kinds = {standing.row.selection for standing in found.standings}
    assert kinds == {"val.worst_group", "val.env"}  # of two that read classes the last counts
