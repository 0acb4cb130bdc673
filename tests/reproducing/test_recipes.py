"""Recipes as data: what they say, how a file is read, and how one number is judged."""

from __future__ import annotations

import math
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from embedcal.errors import EmbedcalError
from embedcal.fitting import configure
from embedcal.grids.settings import settings_of
from embedcal.methods.base import Offer
from embedcal.reproducing import recipe, recipe_names, recipes
from embedcal.reproducing.judging import decimals, judge, percent_of
from embedcal.reproducing.measuring import Course
from embedcal.reproducing.reading import FOLDER, parse
from embedcal.reproducing.supply import command

QUICK = (FOLDER / "birds-quick.toml").read_text()
TRAIN = (3498, 184, 56, 1057)  # Waterbirds' training groups


# The recipes of the package


def test_published_numbers_agree_with_each_other() -> None:
    """Zero-shot's groups give the average and the worst group of the other table."""
    groups = {row.part: row.values for row in recipe("yang2023-table2").rows}
    table = recipe("yang2023-table4")
    first = {row.part: row.values for row in table.rows if row.run == "zeroshot"}
    weighted = sum(n * value for n, value in zip(TRAIN, groups["RN50"])) / sum(TRAIN)
    assert round(weighted, 1) == first["RN50"][0]
    for part, values in groups.items():
        known = [value for value in values if not math.isnan(value)]
        assert round(min(known), 1) == pytest.approx(first[part][1])
    assert [column.metric for column in table.columns[:2]] == ["train_weighted", "worst_group"]
    assert [column.metric for column in table.columns[2:]] == ["aiou", "aiou_worst_group"]
    assert all(column.doubt for column in table.columns[2:])


@pytest.mark.parametrize("name", recipe_names())
def test_a_recipe_says_where_its_numbers_are_from_and_why_it_judges_so(name: str) -> None:
    found = recipe(name)
    assert found.verified
    assert found.ran
    assert found.arxiv or "birds" in name
    assert all(len(tolerance.reason) > 20 for tolerance in found.tolerances)
    assert (found.judged > 0) == (name not in ("afr-readme", "con-adapter-log"))


def test_only_what_was_verified_is_judged() -> None:
    judged = {found.name: found.judged for found in recipes()}
    assert judged["yang2023-table2"] == 6  # two of the eight could not be read
    assert judged["yang2023-table4"] == 2 * 6 * 2  # AIoU is shown beside them
    assert judged["yang2023-table5"] == 5 * 2
    assert judged["birds-aiou"] == 2 * 3


def test_published_aiou_is_a_fraction_in_order() -> None:
    """Their gain: of six methods on RN50 the losses on language have the largest AIoU."""
    for name in ("yang2023-table4", "yang2023-table5"):
        rows = [row for row in recipe(name).rows if row.part == "RN50"]
        assert all(0 < value < 1 for row in rows for value in row.values[2:])
        best = max(rows, key=lambda row: row.values[2])
        assert best.run.startswith(("vs", "ls"))


OFFER = Offer(
    levels=frozenset({"pooled", "embedding", "tokens"}),
    banks=frozenset({"class", "attribute", "context"}),
    projection=True,
    attributes=True,
    attnpool=True,
)


@pytest.mark.parametrize("name", recipe_names())
def test_every_run_of_a_recipe_can_be_configured(name: str) -> None:
    found = recipe(name)
    for part in found.parts:
        course = Course(recipe=found, part=part, cache=None, folder=Path())  # type: ignore[arg-type]
        wanted = {row.run for row in found.rows if row.part == part.name and row.run}
        assert {run.name for run in course.planned} == wanted
        for run in course.planned:
            for setting in settings_of(course.spaces(run)):
                configure(setting.method, setting.options).resolve(OFFER)


def test_options_of_the_papers_reach_the_runs() -> None:
    found = recipe("yang2023-table4")
    of_part = {part.name: part for part in found.parts}
    for name, head, batch in (("RN50", "attnpool", 128), ("ViT-L/14@336px", "projection", 32)):
        course = Course(recipe=found, part=of_part[name], cache=None, folder=Path())  # type: ignore[arg-type]
        by_name = {run.name: settings_of(course.spaces(run)) for run in course.planned}
        assert len(by_name["zeroshot"]) == 1
        for label, settings in by_name.items():
            if label == "zeroshot":
                continue
            pairs = {(s.options["lr"], s.options["weight_decay"]) for s in settings}
            assert pairs == {(1e-5, 1e-4), (1e-4, 1e-5)}
            for setting in settings:
                assert setting.options["head"] == head
                assert setting.options["batch_size"] == batch
                assert setting.options["epochs"] == 300
                assert setting.options["optimizer"] == "sgd"
        assert all(s.options["sampler"] == "group" for s in by_name["ls, code"])
        assert all("sampler" not in s.options for s in by_name["ls, paper"])


def test_the_nearest_word_on_an_option_counts() -> None:
    """The recipe's, over it the part's, over it what is tried, over all the run's own."""
    text = QUICK.replace(
        "seeds = 1", "seeds = 1\ntrained = { lr = 1.0, epochs = 1, head = 'linear' }"
    )
    text = text.replace('attribute = "place"', "trained = { lr = 2.0, epochs = 2, batch_size = 2 }")
    text += "\n[[tried]]\nlr = 3.0\nepochs = 3\n"
    found = parse(text, name="mine", source="mine.toml")
    course = Course(recipe=found, part=found.parts[0], cache=None, folder=Path())  # type: ignore[arg-type]
    (zeroshot,), (erm,), _ = (settings_of(course.spaces(run)) for run in course.planned)
    assert zeroshot.options == {}
    assert erm.options == {"lr": 3.0, "epochs": 10, "head": "linear", "batch_size": 2}


def test_what_is_to_be_typed_is_a_command_of_ours() -> None:
    from typer.main import get_command

    from embedcal.cli import app

    commands: Any = get_command(app)
    for found in recipes():
        for part in found.parts:
            program, name, *words = shlex.split(command(part))
            assert program == "embedcal"
            given = commands.commands[name].make_context(name, words).params
            assert bool(given.get("keep")) == part.tokens
            assert given.get("backbone", part.backbone) == part.backbone


def test_listing_recipes_does_not_import_torch() -> None:
    code = (
        "import sys; from embedcal.reproducing import recipes; recipes(); "
        "sys.exit(any(m in sys.modules for m in ('torch', 'open_clip', 'sklearn', 'pandas')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_an_unknown_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(EmbedcalError, match="did you mean yang2023-table4"):
        recipe("yang-table4")
    with pytest.raises(EmbedcalError, match="expected a recipe as TOML"):
        recipe("nothing.toml")


# Reading a recipe of one's own

ONE = '[[columns]]\nname = "train-weighted"\nmetric = "train_weighted"\n'


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("seeds = 1", "seed = 1", "found seed"),
        ("seeds = 1", "seeds = 1.5", "expected seeds of the top .* a whole number, found 1.5"),
        ("seeds = 1", "seeds = 0", "seeds of 1 or more"),
        ("seeds = 1", "seeds = ", "expected TOML"),
        ('title = "', '# "', "expected title"),
        ('method = "zeroshot"\n', "", r"expected method in \[\[runs\]\] number 1"),
        ("values = [97.1, 28.1]", "values = [97.1]", "2 values in the row 'zeroshot'"),
        ("values = [97.1, 28.1]", 'values = [97.1, "a"]', "a list, each a number"),
        ("values = [97.1, 28.1]", "values = [97.1, true]", "a list, each a number"),
        ('run = "zeroshot"', 'run = "other"', "a run for the row 'zeroshot'"),
        ('run = "zeroshot"', "", "a run for the row 'zeroshot'"),
        ('part = "birds"', 'part = "other"', "a part for the row 'zeroshot'"),
        ('tolerance = "encoding"', "", "a tolerance for the column 'train-weighted'"),
        ('metric = "worst_group"', 'metric = "adjusted"', "expected a metric"),
        ('metric = "worst_group"', 'metric = "groups"', "expected a metric"),
        ('metric = "worst_group"', 'metric = "worst_group.1"', "expected a metric"),
        ('metric = "worst_group"', "", "a metric for the column 'worst group'"),
        ("seeds = 1", 'seeds = 1\nregion = "rind"', "a region among auto, mask, box"),
        ('select = "val.mean"', 'select = "oracle.worst_group"', "which looks at test"),
        ('select = "val.mean"', 'select = "val.best"', "expected a selection rule"),
        ('name = "erm"\nmethod', 'name = "zeroshot"\nmethod', "'zeroshot' twice"),
        ('attribute = "place"', 'templates = ["a {}."]', "a command for the part 'birds'"),
        (QUICK, "parts = 3", r"expected \[\[parts\]\] tables"),
    ],
)
def test_a_recipe_that_is_not_right_ends_in_one_line(old: str, new: str, message: str) -> None:
    assert old in QUICK
    with pytest.raises(EmbedcalError, match=message) as caught:
        parse(QUICK.replace(old, new, 1), name="mine", source="mine.toml")
    assert "mine.toml" in str(caught.value) or "selection rule" in str(caught.value)
    assert "\n" not in str(caught.value)


# One number


@pytest.mark.parametrize(
    ("published", "ours", "tolerance", "status"),
    [
        (90.0, 90.0, 0.0, "within"),
        (90.0, 90.5, 0.5, "within"),
        (90.8, 90.3, 0.5, "within"),  # 0.5 and a rounding of binary fractions
        (90.0, 89.5, 0.5, "within"),
        (90.0, 90.50001, 0.5, "beyond"),
        (90.0, 89.49999, 0.5, "beyond"),
        (90.0, 10.0, None, "shown"),
        (math.nan, 10.0, 0.5, "shown"),
    ],
)
def test_the_edge_of_a_tolerance(
    published: float, ours: float, tolerance: float | None, status: str
) -> None:
    assert judge(published, ours, tolerance) == status


def test_metrics_by_name_and_index() -> None:
    metrics = {"worst_group": 0.25, "groups": [0.5, None], "mean": None}
    assert percent_of(metrics, "worst_group") == 25.0
    assert percent_of(metrics, "groups.0") == 50.0
    assert percent_of({"aiou": 0.25}, "aiou") == 0.25  # a fraction, as it is printed
    for name in ("groups.1", "groups.2", "mean", "train_weighted", "aiou", "aiou_worst_group"):
        assert math.isnan(percent_of(metrics, name))
    columns = ([90.0], [93.44, 90.0], [0.65, 0.507], [math.nan])
    assert [decimals(values) for values in columns] == [1, 2, 3, 1]
