"""Studies: every preset runs end to end, and every sentence is what its numbers say."""

from __future__ import annotations

import json
import math
import sys
from dataclasses import replace
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from embedcal.answers.studies import studies_record, studies_report, study_report
from embedcal.cache import import_features, open_cache
from embedcal.evaluate.paired import Difference
from embedcal.fitting import Place, configure
from embedcal.identification import identified
from embedcal.methods import names as method_names
from embedcal.studies import Block, Row, Score, preset, studies, study
from embedcal.studies.cutting import cut
from embedcal.studies.findings import across, findings, rank_correlation
from embedcal.studies.looking import calibration, operations
from embedcal.studies.preset import names
from embedcal.studies.rows import Court, Draft, Judge
from embedcal.types import EmbedcalError
from embedcal.workbench import Workbench

sys.path.insert(0, str(Path(__file__).parent))

from made_runs import Grid, cells_of

MINE = """
title = "Mine"
question = "Is a longer run a better one?"
figure = "lines"
x = ["epochs"]
seeds = 1

[[runs]]
method = "erm"
epochs = [1, 2]

[names]
"epochs=1" = "one"
"""


def quick(name: str | Path, path: Path, **options: object):
    with open_cache(path) as cache:
        return study(name, [cache], quick=True, engine="sequential", **options)


def imported(folder: Path, attributes: int) -> Path:
    """Features (240, 6) of two classes with so many attributes, no text."""
    rng = np.random.default_rng(0)
    y = np.arange(240) % 2
    marks = {f"mark {i}": (y ^ (rng.random(240) < 0.3)).astype(int) for i in range(attributes)}
    x = rng.normal(size=(240, 6)).astype(np.float32)
    x[:, 0] += 2 * y
    for i, values in enumerate(marks.values(), start=1):
        x[:, i] += 2 * values
    split = np.repeat([0, 1, 2], 80)
    return import_features(x, y, split, marks, out=folder / f"marks-{attributes}.h5")


# -- every preset --------------------------------------------------------------------------------

LONG = {
    "cfr-negatives",
    "cost",
    "samplers",
    "spurious-terms",
    "templates",
    "text-scope",
    "variants",
}
OF_BIRDS = [name for name in names() if name != "several-attributes"]


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=pytest.mark.slow if n in LONG else ()) for n in OF_BIRDS],
)
def test_every_study_runs_on_birds(name: str, birds: Path, tmp_path: Path) -> None:
    found = quick(name, birds, out=tmp_path)
    (block,) = found.blocks
    assert {row.label for row in block.rows} <= set(preset(name).labels().values())
    assert block.metrics == ("worst_group", "train_weighted")
    assert block.rule == "val.worst_group"
    for row in block.rows:
        for score in row.scores.values():
            assert score.interval[0] <= score.mean <= score.interval[1]
        assert (row.scores["worst_group"].difference is None) == (row.label == row.reference)
    assert found.cost.failed == sum(row.failed for row in block.rows) or block.notes
    assert json.loads((tmp_path / "study.json").read_text()) == found.record
    page = (tmp_path / "study.md").read_text()
    assert found.question in page.replace("\\", "")
    assert "mean nothing" in page
    for figure in block.figures:
        assert figure.stat().st_size > 1000
    assert shown(study_report(found)).count("\n") > len(block.rows)
    again = quick(name, birds, out=tmp_path)
    assert again.cost.reused == again.cost.runs
    assert [row.scores for row in again.blocks[0].rows] == [row.scores for row in block.rows]


def test_several_attributes_are_judged_by_each(tmp_path: Path) -> None:
    found = quick("several-attributes", imported(tmp_path, 2), out=tmp_path / "out")
    (block,) = found.blocks
    assert block.metrics == ("worst_group", "worst_group by mark 0", "worst_group by mark 1")
    assert len(block.rows) == 12
    for row in block.rows:
        method = row.label.split(",")[0]
        assert row.reference == f"{method}, groups of all"
        # The worst of the finer groups is no better than the worst of either coarser ones.
        worst = row.scores["worst_group"].mean
        assert worst <= min(score.mean for score in row.scores.values()) + 1e-12
    with open_cache(imported(tmp_path, 2)) as cache:
        own = Workbench(cache, "mark 1").split("test", "embedding")
    row = next(row for row in block.rows if row.label == "erm, groups of mark 1")
    (run,) = row.runs
    record = json.loads(next(tmp_path.rglob(f"{run}/run.json")).read_text())
    assert record["attributes"] == ["mark 1"]
    assert record["test"]["worst_group"] == pytest.approx(row.scores["worst_group by mark 1"].mean)
    assert record["test"]["group_sizes"] == np.bincount(own.g, minlength=4).tolist()


@pytest.mark.parametrize("name", names())
def test_features_alone_get_an_error_or_what_runs(name: str, tmp_path: Path) -> None:
    path = imported(tmp_path, 1)
    if name == "cost":
        found = quick(name, path, out=tmp_path / "out").blocks[0]
        assert {"erm", "group-dro", "dfr"} <= {row.label for row in found.rows}
        assert any(note.startswith("cfr left out: expected a cache") for note in found.notes)
        return
    with pytest.raises(EmbedcalError, match=f"for the study {name}, found") as error:
        quick(name, path, out=tmp_path / "out")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


def test_every_method_is_in_the_study_of_cost() -> None:
    assert {setting.method for setting in preset("cost").settings} == set(method_names())


def test_the_list_has_every_study() -> None:
    listed = studies()
    assert [one.name for one in listed] == names()
    assert len(listed) >= 12
    assert {one.name: one.runs for one in listed}["cfr-sampling"] == 18
    assert all(one.question.endswith("?") for one in listed)
    assert list(studies_record(listed)["studies"]) == names()
    assert "cfr-sampling" in shown(studies_report(listed))


# -- files of one's own --------------------------------------------------------------------------


def test_a_file_is_a_study(birds: Path, tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(MINE)
    with open_cache(birds) as cache:
        found = study(file, [cache], seeds=[5], select="val.mean", engine="sequential")
    assert found.name == "mine"
    (block,) = found.blocks
    assert [row.label for row in block.rows] == ["one", "epochs=2"]
    assert [row.seeds for row in block.rows] == [(5,), (5,)]
    assert {row.selection for row in block.rows} == {"val.mean"}
    assert found.cost.runs == 2


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("cfr-samplng", "did you mean cfr-sampling"),
        ("nothing.toml", "nothing.toml"),
    ],
)
def test_unknown_studies_get_the_nearest_names(name: str, words: str, birds: Path) -> None:
    with pytest.raises(EmbedcalError, match=words) as error:
        quick(name, birds)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('tittle = "x"', "did you mean title"),
        ('figure = "bar"', "points, lines, scatter, found 'bar': leave figure out, or choose one"),
        ('figure = "line"', "did you mean lines"),
        ('needs = ["luck"]', "found 'luck': leave out"),
        ('needs = ["attribute"]', "did you mean attributes"),
        ("seeds = 0", "seeds in .* a whole number from 1 on, found 0: write, say, seeds = 3"),
        ('x = "epochs"', r"x in .* a list of text, found 'epochs': write, say, x = \["),
        ("title = 3", "title in .* to be text, found 3"),
        (
            'figure = "lines"',
            r"expected x in .*'lines' is drawn over, found none: write, say, x = \[",
        ),
        ('figure = "scatter"\nx = []', r'drawn over, found none.* x = \["seconds"\]'),
    ],
)
def test_a_wrong_key_is_named(line: str, words: str, tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(f'{line}\n[[runs]]\nmethod = "erm"\n')
    with pytest.raises(EmbedcalError, match=words):
        preset(file)


def test_no_rule_that_looks_at_test(birds: Path) -> None:
    with pytest.raises(EmbedcalError, match="looks at test"):
        quick("cfr-sampling", birds, select="oracle.worst_group")


def test_several_caches_are_blocks_of_their_own(birds: Path, tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(MINE)
    with open_cache(birds) as one, open_cache(imported(tmp_path, 1)) as two:
        found = study(file, [one, two, one], quick=True, out=tmp_path, engine="sequential")
    assert [block.backbone for block in found.blocks] == ["tiny", "imported"]
    assert "on all 2 caches" in found.found[-1]
    assert {path.name for block in found.blocks for path in block.figures} == {
        "figure-1.svg", "figure-1.png", "figure-2.svg", "figure-2.png",
    }  # fmt: skip


# -- numbers and words ---------------------------------------------------------------------------


def made(folder: Path) -> tuple[Row, ...]:
    """Three rows of made-up runs: the second far above the first, the third level with it."""
    runs = Grid(folder)
    drafts = []
    for label, accuracies in (
        ("plain", (0.98, 0.60, 0.55, 0.97)),
        ("mended", (0.95, 0.90, 0.88, 0.95)),
        ("level", (0.98, 0.60, 0.56, 0.97)),
    ):
        records = [runs.run("erm", s, accuracies, options={"l": label}) for s in range(3)]
        drafts.append(
            Draft(
                label=label, series=label, method="erm", options={"l": label},
                records=tuple(records), reference="plain",
            )
        )  # fmt: skip
    judges = tuple(
        Judge(name=name, cells=cells_of("test"), statistic=name)
        for name in ("worst_group", "train_weighted")
    )
    return Court(folder=folder, select="val.worst_group", judges=judges).rows(drafts)


def block_of(rows: tuple[Row, ...]) -> Block:
    return Block(
        cache=Path("c.h5"), fingerprint="f", dataset="birds", backbone="tiny",
        attributes=("background",), rule="val.worst_group", test_rows=850,
        metrics=("worst_group", "train_weighted"), rows=rows, found=(), notes=(),
    )  # fmt: skip


def test_rows_are_means_and_differences_of_their_runs(tmp_path: Path) -> None:
    plain, mended, level = made(tmp_path)
    assert plain.scores["worst_group"].mean == pytest.approx(0.55)
    assert plain.scores["worst_group"].difference is None
    difference = mended.scores["worst_group"].difference
    assert difference is not None
    assert difference.difference == pytest.approx(mended.scores["worst_group"].mean - 0.55)
    assert mended.scores["worst_group"].holds
    assert not level.scores["worst_group"].holds
    weights = np.array([3498, 184, 56, 1057]) / 4795
    accuracies = np.round(np.array([0.95, 0.90, 0.88, 0.95]) * [300, 280, 140, 130])
    average = (weights * accuracies / [300, 280, 140, 130]).sum()
    assert mended.scores["train_weighted"].mean == pytest.approx(average)
    assert mended.seconds == 1.5


def test_sentences_say_what_is_shown_and_what_is_not(tmp_path: Path) -> None:
    rows = made(tmp_path)
    said = findings(preset("cfr-sampling"), block_of(rows))
    (worst,) = (text for text in said if text.startswith("Worst group"))
    assert "plain has 55.0 %" in worst
    assert "shown to be higher, in points: mended by" in worst
    assert "no difference is shown for level" in worst
    assert "lower" not in worst
    (choice,) = (text for text in said if text.startswith("Validation chooses"))
    assert choice.startswith("Validation chooses mended")
    assert "2 comparisons a metric" in " ".join(said)


def test_a_difference_that_goes_down_is_called_lower() -> None:
    def score(mean: float, by: float | None, p: float = 0.01) -> Score:
        ends = (mean - 0.02, mean + 0.02)
        if by is None:
            return Score(mean=mean, values=(mean,), deviation=math.nan, interval=ends)
        moved = Difference(
            statistic="worst_group", difference=by, interval=(by - 0.01, by + 0.02),
            p_value=0.01, probability=0.0, runs=(3, 3),
        )  # fmt: skip
        return Score(
            mean=mean, values=(mean,), deviation=math.nan, interval=ends, difference=moved,
            adjusted=p,
        )  # fmt: skip

    row = Row(
        label="a", series="a", method="erm", options={}, reference="a", labels_used=(),
        selection="val.mean", seeds=(0, 1), runs=("x", "y"), validation=0.5, in_sample=False,
        seconds=1.0, failed=0,
        scores={"worst_group": score(0.6, None), "train_weighted": score(0.9, None)},
    )  # fmt: skip
    low = replace(
        row, label="b", validation=0.9, in_sample=True,
        scores={"worst_group": score(0.5, -0.1), "train_weighted": score(0.8, -0.1)},
    )  # fmt: skip
    said = " ".join(findings(preset("cfr-sampling"), block_of((row, low))))
    assert "shown to be lower, in points: b by 10.0 (8.0 to 11.0)" in said
    assert "higher" not in said
    assert "Validation chooses a" in said  # b fitted it
    assert "since they fitted validation: b" in said
    weak = replace(low, scores={**low.scores, "worst_group": score(0.5, -0.1, 0.06)})
    said = " ".join(findings(preset("cfr-sampling"), block_of((row, weak))))
    assert "not shown once all comparisons are counted: b by -10.0 (-11.0 to -8.0)" in said


def test_what_holds_on_all_caches_was_measured_on_all(tmp_path: Path) -> None:
    plain, mended, level = made(tmp_path)
    wide, narrow = block_of((plain, mended, level)), block_of((plain, level))
    chosen = preset("cfr-sampling")
    both, one = across(chosen, (wide, wide)), across(chosen, (wide, narrow))
    assert "1 of 2 differences measured on all 2 caches hold" in both[-1]
    assert "(mended)" in both[-1]
    assert "0 of 1 difference measured on all 2 caches hold" in one[-1]
    assert "mended" not in one[-1]


def test_worst_groups_of_other_groups_are_no_choice(tmp_path: Path) -> None:
    block = block_of(made(tmp_path))
    chosen = replace(preset("cfr-sampling"), attributes="each")
    said = [*findings(chosen, block), *across(chosen, (block, block))]
    assert not [text for text in said if "Validation chooses" in text]


def test_rank_correlation_is_spearman_and_its_p_value_that_of_permutations() -> None:
    from itertools import permutations

    from scipy.stats import spearmanr

    rng = np.random.default_rng(1)
    for x, y in (
        (rng.normal(size=6), rng.normal(size=6)),
        (np.array([1, 1, 2, 3, 5.0]), np.arange(5.0)),
    ):
        rho, p = rank_correlation(x, y)
        assert rho == pytest.approx(spearmanr(x, y).statistic)
        every = [abs(spearmanr(one, y).statistic) for one in permutations(x)]
        exact = np.mean(np.array(every) >= abs(rho) - 1e-9)
        assert p == pytest.approx(exact, abs=0.02)
    assert all(math.isnan(value) for value in rank_correlation(np.ones(5), np.arange(5.0)))


def test_names_that_are_not_different_fall_back_on_full_ones(tmp_path: Path) -> None:
    file = tmp_path / "same.toml"
    file.write_text('[[runs]]\nmethod = "erm"\nepochs = [1, 2]\n[names]\n"epochs=2" = "epochs=1"\n')
    assert list(preset(file).labels().values()) == ["erm epochs=1", "erm epochs=2"]


# -- what is looked at ---------------------------------------------------------------------------


def test_calibration_sets_are_counted_as_a_loop_counts_them(birds: Path, tmp_path: Path) -> None:
    with open_cache(birds) as cache:
        on = Workbench(cache)
        train = on.split("train", "pooled")
        place = Place(on=on, seed=0, runs=tmp_path, device="cpu")
        found = {}
        for size in (0, 5):
            method = configure("cfr", {"calibration_size": size}).resolve(on.offer)
            found[size] = calibration(method, place)
            rows = method.calibration_rows(on.task(method), seed=0)
            rare = [i for i in rows if train.g[i] in (1, 2)]
            every = [i for i in range(len(train)) if train.g[i] in (1, 2)]
            assert found[size]["rows"] == len(rows)
            assert found[size]["precision"] == pytest.approx(len(rare) / len(rows))
            assert found[size]["recall"] == pytest.approx(len(rare) / len(every))
        none = configure("cfr", {"calibration": "none"}).resolve(on.offer)
        assert calibration(none, place)["rows"] == 0
    assert found[5]["rows"] == 5 < found[0]["rows"]


def test_what_is_rare_is_what_the_record_of_a_run_calls_so(
    birds: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_cache(birds) as cache:
        on = Workbench(cache)
        place = Place(on=on, seed=0, runs=tmp_path, device="cpu")
        method = configure("cfr", {}).resolve(on.offer)
        found = calibration(method, place)
        noted = identified(method.marks(on.task(method)), method, on)
        assert [found["precision"], found["recall"]] == [noted["precision"], noted["recall"]]
        monkeypatch.setattr(
            "embedcal.studies.looking.rare_groups", lambda counts: counts.ravel() > 0
        )
        assert calibration(method, place)["precision"] == 1


def test_operations_are_those_of_the_products(birds: Path, tmp_path: Path) -> None:
    """ERM of a linear head: 2 b d C forward, as many for the weights' gradient, every batch."""
    options = {"head": "linear", "epochs": 3, "batch_size": 0}
    with open_cache(birds) as cache:
        on = Workbench(cache)
        place = Place(on=on, seed=0, runs=tmp_path, device="cpu")
        n, d = on.split("train", "embedding").x.shape

        def count(name: str, **options: object) -> float:
            return operations(configure(name, options).resolve(on.offer), place)["operations"]

        once = 4 * n * d * 2
        assert count("erm", **options) == 3 * once
        assert count("erm", **{**options, "epochs": 6}) == 6 * once
        assert count("zeroshot") == 0
        assert math.isnan(count("dfr"))
        staged = count("cfr", calibration="erm", epochs=2, stage_epochs=1)
        longer = count("cfr", calibration="erm", epochs=2, stage_epochs=3)
        assert longer - staged == pytest.approx(count("erm", epochs=2, head="projection"), rel=1e-6)


def test_what_is_not_there_is_not_tried_again(birds: Path, tmp_path: Path) -> None:
    with open_cache(birds) as cache:
        on = Workbench(cache)
        chosen, notes = cut(preset("cfr-calibration-size"), on)
        method = configure("cfr", {}).resolve(on.offer)
        most = len(method.calibration_rows(on.task(method), seed=0))
        sizes = [s.options.get("calibration_size", -1) for s in chosen.settings]
        assert sizes == [0, *(size for size in (256, 64, 16, 4) if size < most), -1]
        assert any(f"there are {most} rows" in note for note in notes)


def shown(report: object) -> str:
    out = StringIO()
    Console(file=out, width=160).print(report)
    return out.getvalue()
