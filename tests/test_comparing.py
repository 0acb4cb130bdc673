"""A comparison of made-up runs: what is chosen, averaged, ranked, shown, and what is refused."""

import json
import math
import sys
import time
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

sys.path.insert(0, str(Path(__file__).parent))
from made_runs import Grid, cells_of

from embedcal import scored
from embedcal.answers.comparison import comparison_report, latex, markdown
from embedcal.comparing import compare, sensitivity
from embedcal.comparing.choosing import mean_ranks
from embedcal.comparing.recorded import collect
from embedcal.evaluate import bootstrap
from embedcal.evaluate.paired import holm, paired
from embedcal.runs import load_run
from embedcal.types import EmbedcalError

GOOD, MIDDLE, POOR = (0.92, 0.88, 0.85, 0.9), (0.93, 0.84, 0.74, 0.9), (0.98, 0.75, 0.45, 0.95)


def near(accuracies, seed, by=0.01):
    moved = np.asarray(accuracies) + by * np.random.default_rng(seed).standard_normal(4)
    return tuple(moved.clip(0, 1).tolist())


@pytest.fixture
def grid(tmp_path):
    return Grid(tmp_path / "grid")


@pytest.fixture
def filled(grid):
    """erm with two learning rates, group-dro, dfr (a solver, in-sample), zeroshot; one failed."""
    for seed in range(3):
        for lr, val in ((1e-3, 0.50), (1e-4, 0.60)):
            better_on_test = POOR if lr == 1e-4 else MIDDLE
            grid.run(
                "erm",
                seed,
                near(better_on_test, seed),
                val=near((0.9, 0.8, val, 0.9), seed),
                options={"lr": lr, "wd": 0.1},
            )
        grid.run("group-dro", seed, near(GOOD, seed), options={"lr": 1e-3}, labels=("train.g",))
        grid.run("dfr", seed, near(GOOD, 50 + seed), rules=("own.worst_group",), in_sample=True)
    grid.run("zeroshot", 0, POOR, rules=("none",), labels=())
    grid.fail("erm", 0, {"lr": 1.0, "wd": 0.1})
    return grid


def only(comparison):
    (block,) = comparison.blocks
    return block, {row.label: row for row in block.rows}


def test_the_configuration_is_chosen_on_validation_and_never_on_test(filled):
    block, rows = only(compare(filled.folder))
    erm = rows["erm"]
    assert (erm.options, erm.chosen, erm.configurations) == (
        {"lr": 1e-4, "wd": 0.1},
        {"lr": 1e-4},
        2,
    )
    assert erm.mean < 0.5  # the other configuration reaches 0.74 on test
    assert erm.failed == 1
    block, rows = only(compare(filled.folder, select="oracle.worst_group", oracle=True))
    assert "erm" not in rows  # none kept the oracle's epoch
    assert (
        "9 runs left out: kept nothing under oracle.worst_group (erm 6, group-dro 3); fit again "
        "with --select oracle.worst_group"
    ) in block.notes


def test_an_oracle_chooses_on_test_and_is_marked(grid):
    for lr, test in ((1e-3, GOOD), (1e-4, POOR)):
        val = POOR if test is GOOD else GOOD
        rules = ("val.worst_group", "oracle.worst_group")
        grid.run("erm", 0, test, val=val, options={"lr": lr}, rules=rules)
    with pytest.raises(EmbedcalError, match="which looks at test: give --oracle"):
        compare(grid.folder, select="oracle.worst_group")
    comparison = compare(grid.folder, select="oracle.worst_group", oracle=True)
    _, rows = only(comparison)
    assert rows["erm"].options == {"lr": 1e-3}
    for text in (printed(comparison), markdown(comparison), latex(comparison)):
        assert "(oracle)" in text
    assert only(compare(grid.folder))[1]["erm"].options == {"lr": 1e-4}


def test_numbers_are_those_of_the_records(filled):
    block, rows = only(compare(filled.folder))
    records = [
        json.loads(line) for line in (filled.folder / "results.jsonl").read_text().splitlines()
    ]
    dro = [r["rules"]["val.worst_group"]["test"] for r in records if r["method"] == "group-dro"]
    row = rows["group-dro"]
    worst = [m["worst_group"] for m in dro]
    assert row.values == pytest.approx(worst)
    assert row.mean == pytest.approx(np.mean(worst))
    assert row.deviation == pytest.approx(np.std(worst, ddof=1))
    assert row.metrics["groups"] == pytest.approx(np.mean([m["groups"] for m in dro], axis=0))
    assert row.metrics["train_weighted"] == pytest.approx(
        np.mean([m["train_weighted"] for m in dro])
    )
    assert row.seeds == (0, 1, 2)
    assert row.labels_used == ("train.g",)
    assert math.isnan(rows["zeroshot"].deviation)
    assert rows["dfr"].in_sample
    assert rows["dfr"].selection == "own.worst_group"
    assert [r.mean for r in block.rows] == sorted((r.mean for r in block.rows), reverse=True)


def test_intervals_and_differences_are_those_of_the_predictions(filled):
    block, rows = only(compare(filled.folder, baseline="erm"))
    cells = cells_of("test")

    def correct(row):
        runs = [load_run(filled.folder / name) for name in row.runs]
        return np.stack([r.logits(row.selection, "test").argmax(1) == cells.y for r in runs])

    right = {label: correct(row) for label, row in rows.items()}
    for label, row in rows.items():
        assert row.interval == bootstrap(right[label], cells).worst_group
    found = {pair.a: pair for pair in block.pairs}
    assert set(found) == {"group-dro", "dfr", "zeroshot"}
    wanted = {a: paired(right[a], right["erm"], cells) for a in found}
    assert {a: pair.difference for a, pair in found.items()} == wanted
    adjusted = holm([wanted[pair.a].p_value for pair in block.pairs])
    assert tuple(pair.adjusted for pair in block.pairs) == adjusted
    assert found["group-dro"].holds
    assert not found["zeroshot"].holds
    assert found["group-dro"].sentence.startswith("group-dro beats erm by ")
    assert found["group-dro"].sentence.endswith("3 seeds each): the difference holds.")
    assert "no difference is shown by these test rows and seeds" in found["zeroshot"].sentence
    assert block.summary == "Against erm: 2 better, 0 worse, 1 not shown to differ."


def test_a_reference_picked_on_test_pays_for_every_pair(filled):
    block, _ = only(compare(filled.folder))
    assert block.reference == block.rows[0].label
    assert block.comparisons == 6
    assert {pair.a for pair in block.pairs} == {block.reference}
    smallest = min(pair.difference.p_value for pair in block.pairs)
    assert min(pair.adjusted for pair in block.pairs) == pytest.approx(6 * smallest)
    named, _ = only(compare(filled.folder, baseline=block.reference))
    assert named.comparisons == 3


def test_one_seed_is_said(grid):
    grid.run("erm", 0, POOR)
    grid.run("group-dro", 0, GOOD)
    block, _ = only(compare(grid.folder))
    (pair,) = block.pairs
    assert "one seed of group-dro and of erm, so other seeds are not answered for" in pair.sentence


def test_rows_by_options_and_other_facts(filled):
    _, rows = only(compare(filled.folder, by="method,lr"))
    assert set(rows) == {"erm lr=0.001", "erm lr=0.0001", "group-dro lr=0.001", "dfr", "zeroshot"}
    assert rows["erm lr=0.001"].configurations == 1
    _, rows = only(compare(filled.folder, by="head, backbone"))
    assert set(rows) == {"projection tiny"}
    assert rows["projection tiny"].configurations == 5
    for by, match in (("metod", "did you mean method"), ("method,l_r", "lr"), ("", "--by method")):
        with pytest.raises(EmbedcalError, match=match):
            compare(filled.folder, by=by)


def test_a_lucky_single_seed_does_not_compete(grid):
    for seed in range(3):
        grid.run("erm", seed, MIDDLE, options={"lr": 1e-3})
    grid.run("erm", 0, GOOD, options={"lr": 1e-4})
    block, rows = only(compare(grid.folder))
    assert rows["erm"].options == {"lr": 1e-3}
    assert rows["erm"].configurations == 2
    assert "erm: 1 configuration of 2 not in the choice, having fewer seeds than 3" in block.notes


def test_what_no_seed_changes_competes_with_its_one_run(grid):
    for scope, accuracies in (("image", GOOD), ("split", POOR), ("random", MIDDLE)):
        for seed in range(3 if scope == "random" else 1):
            grid.run("sage", seed, accuracies, options={"scope": scope}, rules=("none",))
    grid.run("linear-probe", 0, MIDDLE, rules=("none",), labels=("train.y",))
    block, rows = only(compare(grid.folder))
    assert rows["sage"].options == {"scope": "image"}
    assert rows["sage"].configurations == 3
    assert not [note for note in block.notes if "fewer seeds" in note]
    (pair,) = block.pairs  # neither draws anything, whatever labels it reads
    assert "other seeds" not in pair.sentence


def test_one_seed_of_what_draws_without_labels_is_said(grid):
    grid.run("sage", 0, GOOD, options={"scope": "random"}, rules=("none",), labels=())
    grid.run("zeroshot", 0, POOR, rules=("none",), labels=())
    (pair,) = only(compare(grid.folder))[0].pairs
    assert "; one seed of sage, so other seeds are not answered for" in pair.sentence


def test_a_record_runs_no_file(grid, tmp_path):
    file = tmp_path / "planted.py"
    file.write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    grid.run(str(file), 0, GOOD)
    grid.run("zeroshot", 0, POOR, rules=("none",), labels=())
    compare(grid.folder)
    assert not (tmp_path / "ran").exists()


def test_a_score_on_rows_that_were_fitted_beats_no_other(grid):
    for method, val, fitted in (("erm", POOR, False), ("rwg", MIDDLE, False), ("dfr", GOOD, True)):
        rules = ("own.worst_group",) if fitted else ("val.worst_group", "oracle.worst_group")
        grid.run(method, 0, GOOD if fitted else val, val=val, rules=rules, in_sample=fitted)
    block, rows = only(compare(grid.folder, by="head"))
    assert rows["projection"].method == "rwg"
    assert rows["projection"].configurations == 3
    said = "projection: 1 configuration of 3 not in the choice, having fitted the validation rows"
    assert said in block.notes
    assert only(compare(grid.folder))[1]["dfr"].in_sample  # among its own it does choose
    _, rows = only(compare(grid.folder, by="head", select="oracle.worst_group", oracle=True))
    assert rows["projection"].method == "dfr"  # nobody has fitted test


def test_of_equal_scores_the_first_wins(grid):
    for lr in (3, 1, 2):
        grid.run("erm", 0, GOOD, val=POOR, options={"lr": lr})
    assert only(compare(grid.folder))[1]["erm"].options == {"lr": 3}


def test_last_scores_nothing_and_says_how_it_chose(grid):
    grid.run("erm", 0, GOOD, val=POOR, options={"lr": 1})
    grid.run("erm", 0, POOR, val=GOOD, options={"lr": 2})
    block, rows = only(compare(grid.folder, select="last"))
    assert rows["erm"].options == {"lr": 2}
    assert "erm: 'last' scores nothing: chosen by val.worst_group" in block.notes


def test_caches_are_never_pooled(tmp_path, grid):
    other = Grid(tmp_path / "other", cache="c1")
    for seed in range(2):
        grid.run("erm", seed, POOR)
        other.run("erm", seed, GOOD)
        other.run("dfr", seed, GOOD)
    comparison = compare([grid.folder, other.folder], baseline="dfr")
    assert [len(block.rows) for block in comparison.blocks] == [1, 2]
    assert "nothing is compared across them" in comparison.notes[0]
    assert "'dfr' has no runs here" in comparison.blocks[0].notes[0]
    assert comparison.blocks[0].pairs == ()


def test_equal_ids_count_once_and_a_finished_run_replaces_a_failed_one(tmp_path, grid):
    again = Grid(tmp_path / "again")
    grid.fail("erm", 1)
    for seed in range(2):
        again.run("erm", seed, POOR)
    grid.run("erm", 0, POOR)
    results = again.folder / "results.jsonl"
    _, rows = only(compare([grid.folder, results, again.folder]))
    assert rows["erm"].seeds == (0, 1)
    assert rows["erm"].failed == 0
    run = collect(results)[0].done[0]
    assert only(compare(run.folder))[1]["erm"].seeds == (run.record["seed"],)


def test_runs_that_a_grid_made_only_as_stages_are_left_out(filled):
    ids = [run.id for run in collect(filled.folder)[0].done if run.record["method"] != "erm"]
    (filled.folder / "grid.json").write_text(json.dumps({"asked": ids}))
    assert "erm" not in only(compare(filled.folder))[1]


def test_torn_lines_and_other_rules_are_passed_over(grid):
    grid.run("erm", 0, POOR)
    grid.run("cfr", 0, GOOD, rules=("val.mean",))
    with (grid.folder / "results.jsonl").open("a") as file:
        file.write('{"id": "torn", "met\n[1, 2]\n{"id": "x"}\n')
    block, rows = only(compare(grid.folder))
    assert set(rows) == {"erm"}
    assert "1 run left out: kept nothing under val.worst_group (cfr 1)" in block.notes
    with pytest.raises(EmbedcalError, match="runs that kept the rule 'oracle"):
        compare(grid.folder, select="oracle.worst_group", oracle=True)


JUDGED = ("val.worst_group", "val.worst_class", "val.mean", "last", "val.env")


def test_what_environments_never_judged_is_counted_and_named(grid):
    """Also a solver, whose one head stands under every rule that has judged it."""
    for seed in range(2):
        grid.run("erm", seed, POOR, rules=JUDGED, worst_env=0.4)
        grid.run("jtt", seed, GOOD)
        for c in (1, 2):
            grid.run("dfr", seed, GOOD, rules=("own.worst_group",), options={"c": c})
    for c, worst in ((1, 0.3), (2, 0.2)):  # the worse on test is the better by environments
        test = POOR if c == 1 else GOOD
        grid.run("ppa", 0, test, rules=("none",), worst_env=worst, options={"c": c})
    comparison = compare(grid.folder, select="val.env")
    block, rows = only(comparison)
    assert {label: row.validation for label, row in rows.items()} == {"erm": 0.4, "ppa": 0.3}
    assert rows["ppa"].options == {"c": 1}
    whole = "6 runs left out: kept nothing under val.env (jtt 2, dfr 4); fit again with --select"
    assert f"{whole} val.env" in block.notes
    assert sum("left out" in note for note in block.notes) == 1
    cells = "val.env judged val rows by class and environment: 170+60, 116+4 (judged whole)"
    assert cells in block.notes
    assert whole in " ".join(printed(comparison).split())
    for other in ("val.worst_group", "last"):
        block, rows = only(compare(grid.folder, select=other))
        assert set(rows) == {"erm", "jtt", "dfr", "ppa"}
        assert not any("left out" in note or "judged" in note for note in block.notes)


def test_where_environments_judged_nothing_it_is_one_line(grid):
    grid.run("jtt", 0, GOOD)
    grid.run("dfr", 0, GOOD, rules=("own.worst_group",))
    expected = r"kept the rule 'val\.env', found none among 2 runs of jtt, dfr: fit them again with"
    for ask in (compare, sensitivity):
        with pytest.raises(EmbedcalError, match=expected) as error:
            ask(grid.folder, select="val.env")
        assert "\n" not in str(error.value)


def test_cells_of_two_probes_are_said(grid):
    grid.run("erm", 0, GOOD, rules=JUDGED, worst_env=0.5)
    record = grid.run("jtt", 0, GOOD, rules=JUDGED, worst_env=0.5)
    grid.append({**record, "environments": {"sizes": [[200, 30], [120, 0]], "joined": []}})
    block, _ = only(compare(grid.folder, select="val.env"))
    assert sum("judged val rows" in note for note in block.notes) == 2
    assert any(note.startswith("2 probes judged under val.env") for note in block.notes)


def test_without_predictions_there_are_means_and_no_intervals(grid):
    grid.run("erm", 0, POOR)
    grid.run("cfr", 0, GOOD, predictions=False)
    (grid.folder / grid.run("dfr", 0, GOOD)["id"] / "predictions.safetensors").write_bytes(b"torn")
    block, rows = only(compare(grid.folder))
    assert rows["cfr"].interval is rows["dfr"].interval is None
    assert rows["erm"].interval is not None
    assert rows["cfr"].mean == pytest.approx(0.85, abs=0.01)
    assert "no intervals for cfr, dfr: no predictions of these test rows" in block.notes
    assert "–" in markdown(compare(grid.folder))


def test_what_was_not_tested_is_not_beaten(grid):
    for seed in range(3):
        grid.run("cfr", seed, GOOD)
        grid.run("erm", seed, POOR)
        grid.run("jtt", seed, MIDDLE, predictions=False)
    block, _ = only(compare(grid.folder))
    assert (
        block.summary == "cfr has the highest mean and beats 1 of 2 others; not shown to beat jtt."
    )
    block, _ = only(compare(grid.folder, baseline="erm"))
    assert block.summary == "Against erm: 1 better, 0 worse, 1 not shown to differ."


def test_without_attributes(tmp_path):
    grid = Grid(tmp_path / "g", attributes=False)
    for seed in range(2):
        grid.run("erm", seed, POOR, rules=("val.worst_class", "last"))
        grid.run("rwy", seed, GOOD, rules=("val.worst_class", "last"))
    block, rows = only(compare(grid.folder))
    assert (block.metric, block.rule, block.group_names) == ("worst_class", "val.worst_class", ())
    assert "train_weighted" not in rows["erm"].metrics
    printed(compare(grid.folder))
    with pytest.raises(EmbedcalError, match="attribute labels for 'worst_group'"):
        compare(grid.folder, metric="worst_group")


def test_ranks_by_hand():
    rows = [{0: 0.9, 1: 0.8, 2: 0.5}, {0: 0.7, 1: 0.8}, {0: 0.8}, {7: 0.9}]
    found = mean_ranks(rows)
    assert found[:3] == [pytest.approx((1 + 1.5) / 2), pytest.approx((3 + 1.5) / 2), 2.0]
    assert math.isnan(found[3])


def test_how_often_test_was_scored(filled):
    fingerprint = collect(filled.folder)[0].fingerprint
    for name in ("a", "b", "a"):
        scored.log(fingerprint, name, ["val.worst_group"])
    scored.log(fingerprint, "c", ["val.mean"])
    for name in ("own.worst_group", "none"):  # of solvers: one choice, under every rule
        scored.log(fingerprint, name, [name])
    block, _ = only(compare(filled.folder))
    assert block.scored == (
        "test rows of this cache have been scored under val.worst_group 5 times, for 4 runs"
    )


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"select": "val.worst_grup"}, "did you mean val.worst_group"),
        ({"metric": "worst_grup"}, "did you mean worst_group"),
        ({"baseline": "em"}, "did you mean erm"),
        ({"by": "wdd"}, "did you mean wd"),
    ],
)
def test_unknown_names_come_with_the_nearest(filled, options, match):
    with pytest.raises(EmbedcalError, match=match):
        compare(filled.folder, **options)


def test_nothing_to_compare(tmp_path, grid):
    for runs, match in (
        ([], "at least one folder"),
        (tmp_path / "none", "found nothing at"),
        (tmp_path, "found neither: name a folder"),
    ):
        with pytest.raises(EmbedcalError, match=match):
            compare(runs)
    grid.fail("erm", 0)
    with pytest.raises(EmbedcalError, match="found 1 that failed, the first with: diverged"):
        compare(grid.folder)
    with pytest.raises(EmbedcalError, match=f"did you mean {grid.folder}"):
        compare(tmp_path)


def printed(comparison) -> str:
    console = Console(width=80, file=StringIO(), color_system=None)
    for part in comparison_report(comparison).renderables:
        console.print(part, soft_wrap=isinstance(part, str))
    return console.file.getvalue()


def test_the_report_says_rule_and_labels_in_every_form(filled):
    comparison = compare(filled.folder)
    for text in (printed(comparison), markdown(comparison), latex(comparison)):
        plain = text.replace("\\", "")
        for word in ("val.worst_group", "own.worst_group", "train g", "zeroshot", "worst group"):
            assert word in plain
    tables = [line for line in printed(comparison).splitlines() if "beats" not in line]
    assert "tried" in " ".join(tables)
    assert max(len(line) for line in tables if " ─" in line) <= 80
    assert json.loads(json.dumps(comparison.record, allow_nan=False))["blocks"][0]["rule"]


def test_foreign_text_does_nothing(grid):
    name = "[red]x[/red]|&<b>_\x1b[2J\\end{table}%"
    grid.run(name, 0, GOOD)
    grid.run("erm", 0, POOR, options={"o": "a\nb"})
    comparison = compare(grid.folder, by="method,o")
    text = printed(comparison)
    assert "\x1b" not in text
    assert "[red]x" in "".join(text.split())
    for line in markdown(comparison).splitlines():
        assert line.replace("\\|", "").count("|") in (0, 10)
    assert "<b>" not in markdown(comparison)
    code = [line for line in latex(comparison).splitlines() if not line.startswith("%")]
    assert "".join(code).count("\\end{table}") == 1
    assert r"\textbackslash{}end\{table\}\%" in latex(comparison)


@pytest.mark.slow
def test_ten_thousand_records_take_less_than_three_seconds(tmp_path):
    grid = Grid(tmp_path / "g")
    grid.run("cfr", 0, GOOD)
    record = json.loads((grid.folder / "results.jsonl").read_text())
    lines = []
    for k in range(10_000):
        own = record | {"id": f"{k:012x}", "seed": k % 5, "options": {"lr": k // 50, "wd": 0.1}}
        lines.append(json.dumps(own | {"method": f"m{k // 5 % 10}"}))
    (grid.folder / "results.jsonl").write_text("\n".join(lines) + "\n")
    start = time.process_time()
    block, _ = only(compare(grid.folder))
    assert time.process_time() - start < 3
    assert len(block.rows) == 10
