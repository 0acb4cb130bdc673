"""Shares of the spread against analyses of variance by hand, and worlds whose answer is known."""

import json
import math
import sys
from io import StringIO
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from scipy.stats import f

sys.path.insert(0, str(Path(__file__).parent))
from made_runs import Grid

from embedcal.answers.effects import sensitivity_report
from embedcal.comparing.effects import decompose, sensitivity
from embedcal.types import EmbedcalError


def balanced(levels, seeds, value):
    """y, option codes and cells of a full grid; ``value(codes, rng)`` is each run's result."""
    rng = np.random.default_rng(0)
    configurations = list(product(*map(range, levels)))
    codes = np.repeat(configurations, seeds, axis=0)
    y = np.array([value(row, rng) for row in codes])
    names = "abc"[: len(levels)]
    cells = np.repeat(np.arange(len(configurations)), seeds)
    return y, {name: codes[:, k] for k, name in enumerate(names)}, cells


def test_a_balanced_two_way_analysis_by_hand():
    y, options, cells = balanced(
        (3, 2), 4, lambda c, rng: c[0] ** 2 + 2 * c[1] + c[0] * c[1] + rng.standard_normal()
    )
    table = y.reshape(3, 2, 4)
    grand = table.mean()
    total = ((table - grand) ** 2).sum()
    of_a = 2 * 4 * ((table.mean((1, 2)) - grand) ** 2).sum()
    of_b = 3 * 4 * ((table.mean((0, 2)) - grand) ** 2).sum()
    within = ((table - table.mean(2, keepdims=True)) ** 2).sum()
    between = 4 * ((table.mean(2) - grand) ** 2).sum()
    found = decompose(y, options, cells)
    assert found.shares == pytest.approx({"a": of_a / total, "b": of_b / total})
    assert found.seeds == pytest.approx(within / total)
    assert found.interactions == pytest.approx((between - of_a - of_b) / total)
    assert found.interactions_by_chance == pytest.approx(2 * within / 18 / total)
    assert found.shared == pytest.approx(0, abs=1e-12)
    error = (total - of_a - of_b) / (24 - 4)
    assert found.error == pytest.approx(error)
    assert found.p_values["a"] == pytest.approx(f.sf(of_a / 2 / error, 2, 20))
    assert found.by_chance["a"] == pytest.approx(2 * error / total)
    parts = [*found.shares.values(), found.shared, found.interactions, found.seeds]
    assert sum(parts) == pytest.approx(1)


def test_in_an_additive_world_nothing_interacts():
    y, options, cells = balanced((4, 3, 2), 1, lambda c, _: 3.0 * c[0] - c[1] ** 2 + 0.5 * c[2])
    found = decompose(y, options, cells)
    assert found.interactions == pytest.approx(0, abs=1e-12)
    assert found.seeds is None
    assert sum(found.shares.values()) == pytest.approx(1)
    assert found.shares["a"] > found.shares["b"] > found.shares["c"] > 0


def test_a_world_of_one_interaction_has_no_main_effects():
    y, options, cells = balanced((2, 2), 3, lambda c, _: float(c[0] != c[1]))
    found = decompose(y, options, cells)
    assert found.shares == pytest.approx({"a": 0, "b": 0}, abs=1e-12)
    assert found.interactions == pytest.approx(1)
    assert found.seeds == pytest.approx(0, abs=1e-12)


def test_in_a_world_of_noise_shares_are_those_of_chance():
    shares, chance, small = [], [], 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        _, options, cells = balanced((3, 2), 5, lambda *_: 0.0)
        found = decompose(rng.standard_normal(30), options, cells)
        shares.append(found.shares["a"])
        chance.append(found.by_chance["a"])
        small += found.p_values["a"] < 0.05
    assert np.mean(shares) == pytest.approx(2 / 29, rel=0.15)
    assert np.mean(chance) == pytest.approx(np.mean(shares), rel=0.15)
    assert 2 <= small <= 20  # 10 expected


def test_an_unbalanced_grid_gives_each_option_what_only_it_explains():
    """Against the residuals of ordinary regressions with and without the option."""
    rng = np.random.default_rng(3)
    a, b = rng.integers(0, 3, 40), rng.integers(0, 2, 40)
    b = np.where(rng.random(40) < 0.6, a > 0, b).astype(int)
    y = a + b + rng.standard_normal(40)
    cells = np.unique(np.stack([a, b]), axis=1, return_inverse=True)[1].reshape(-1)

    def residual(*columns):
        x = np.stack([np.ones(40), *columns], axis=1).astype(float)
        return ((y - x @ np.linalg.solve(x.T @ x, x.T @ y)) ** 2).sum()

    full, total = residual(a == 1, a == 2, b == 1), residual()
    found = decompose(y, {"a": a, "b": b}, cells)
    wanted = {"a": residual(b == 1) - full, "b": residual(a == 1, a == 2) - full}
    assert found.shares == pytest.approx({k: v / total for k, v in wanted.items()})
    assert found.shared == pytest.approx(1 - full / total - sum(found.shares.values()))
    assert abs(found.shared) > 0.05


def test_options_that_vary_together_have_no_share_of_their_own():
    a = np.repeat([0, 1], 4)
    found = decompose(np.arange(8.0), {"a": a, "b": a}, a)
    assert found.aliased == ("a", "b")
    assert found.shares == {"a": 0.0, "b": 0.0}
    assert math.isnan(found.p_values["a"])
    assert found.shared == pytest.approx(1 - found.seeds)


def test_equal_results_have_no_spread():
    y, options, cells = balanced((2, 2), 2, lambda *_: 0.7)
    found = decompose(y, options, cells)
    assert set(found.shares.values()) == {0.0}
    assert found.seeds == found.interactions == found.shared == 0.0
    assert found.p_values["a"] == 1.0


def accuracies(worst):
    return (0.95, 0.9, worst, 0.9)


@pytest.fixture
def filled(tmp_path):
    """lr matters on validation, neg does not; on test it is the other way round."""
    grid = Grid(tmp_path / "grid")
    for lr, neg, seed in product((1e-4, 1e-3, 1e-2), ("rns", "nns"), range(3)):
        val = 0.5 + 0.1 * math.log10(lr * 1e4) + 0.01 * seed
        test = 0.5 + 0.2 * (neg == "nns") + 0.01 * seed
        options = {"lr": lr, "neg": neg, "epochs": 5}
        grid.run("cfr", seed, accuracies(test), val=accuracies(val), options=options)
    grid.fail("cfr", 9, {"lr": 1.0, "neg": "rns", "epochs": 5})
    return grid


def test_runs_are_taken_apart_on_validation_and_on_test_if_asked(filled):
    (part,) = sensitivity(filled.folder).methods
    assert [effect.option for effect in part.options] == ["lr", "neg"]
    lr = part.options[0]
    assert [value.value for value in lr.values] == ["0.0001", "0.001", "0.01"]
    assert [value.mean for value in lr.values] == pytest.approx([0.51, 0.61, 0.71], abs=0.01)
    assert [value.effect for value in lr.values] == pytest.approx([-0.1, 0, 0.1], abs=0.01)
    assert lr.range == pytest.approx(0.2, abs=0.01)
    assert lr.share > 0.95
    assert lr.p_value < 1e-6
    assert (part.runs, part.configurations, part.failed, part.balanced) == (18, 6, 1, True)
    assert "1 failed run left out" in part.notes[0]
    assert part.sentence.startswith("lr explains 9")
    assert "neg 0 % (no more than chance); interactions" in part.sentence.replace(", int", "; int")
    (on_test,) = sensitivity(filled.folder, split="test").methods
    assert on_test.options[0].option == "neg"
    assert on_test.mean == pytest.approx(part.other_mean)


def test_standard_errors_are_those_of_the_additive_model(filled):
    (part,) = sensitivity(filled.folder).methods
    left = (part.interactions + part.seeds) * part.deviation**2 * 17
    error = math.sqrt(left / (18 - 4) / 6)
    assert [value.error for value in part.options[0].values] == pytest.approx([error] * 3)


def test_many_numbers_are_cut_at_quartiles(tmp_path):
    grid = Grid(tmp_path / "g")
    rng = np.random.default_rng(0)
    for k in range(40):
        lr = float(10 ** rng.uniform(-5, -1))
        worst = 0.4 + 0.08 * (math.log10(lr) + 5)
        grid.run(
            "erm", k % 2, accuracies(worst), options={"lr": lr, "wd": k % 3}, predictions=False
        )
    (part,) = sensitivity(grid.folder).methods
    lr = next(effect for effect in part.options if effect.option == "lr")
    assert [value.runs for value in lr.values] == [10, 10, 10, 10]
    means = [value.mean for value in lr.values]
    assert means == sorted(means)
    assert lr.share > 0.7
    assert part.seeds is None
    assert "interactions and seeds" in part.sentence
    assert not part.balanced
    assert "lr has many values: cut at its quartiles" in part.notes


def test_the_report_and_the_record(filled):
    found = sensitivity(filled.folder)
    console = Console(width=80, file=StringIO(), color_system=None)
    console.print(sensitivity_report(found))
    text = console.file.getvalue()
    for word in (
        "cfr: worst group on val",
        "val.worst_group",
        "interactions",
        "seeds",
        "by chance",
    ):
        assert word in text
    record = json.loads(json.dumps(found.record, allow_nan=False))
    assert record["methods"][0]["options"][0]["option"] == "lr"


def test_what_cannot_be_taken_apart(tmp_path, filled):
    with pytest.raises(EmbedcalError, match="did you mean cfr"):
        sensitivity(filled.folder, method="cfrr")
    with pytest.raises(EmbedcalError, match="--split val or test, found 'train'"):
        sensitivity(filled.folder, split="train")
    with pytest.raises(EmbedcalError, match="give --oracle"):
        sensitivity(filled.folder, select="oracle.worst_group")
    grid = Grid(tmp_path / "one")
    for seed in range(3):
        grid.run("erm", seed, accuracies(0.5), options={"lr": 1})
    with pytest.raises(EmbedcalError, match="run a grid over the values of an option"):
        sensitivity(grid.folder, method="erm")


def test_what_a_rule_never_judged_is_said(tmp_path):
    grid = Grid(tmp_path / "grid")
    kept = ("val.worst_group", "val.env")
    for lr, seed in product((1e-3, 1e-2), range(3)):
        worst = 0.5 + 10 * lr + 0.01 * seed
        options = {"lr": lr}
        grid.run("cfr", seed, accuracies(worst), options=options, rules=kept, worst_env=0.3)
        grid.run("jtt", seed, accuracies(worst), options=options)
    (part,) = sensitivity(grid.folder, select="val.env").methods
    told = "6 runs left out: kept nothing under val.env (jtt 6); fit again with --select val.env"
    assert part.method == "cfr"
    assert told in part.notes
    assert len(sensitivity(grid.folder).methods) == 2
    (alone,) = sensitivity(grid.folder, select="val.env", method="cfr").methods
    assert alone.notes == ()
    with pytest.raises(EmbedcalError, match="found none among 6 runs of jtt: fit them again"):
        sensitivity(grid.folder, select="val.env", method="jtt")
