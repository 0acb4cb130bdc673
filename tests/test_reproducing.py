"""Published tables, run again: recipes, tolerances, what is missing, and a world that is run."""

from __future__ import annotations

import json
import math
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from embedcal.answers.reproducing import (
    number,
    recipes_record,
    recipes_report,
    reproduction_markdown,
    reproduction_report,
)
from embedcal.cache import FeatureCache, open_cache
from embedcal.errors import EmbedcalError
from embedcal.fitting import configure
from embedcal.grids.settings import settings_of
from embedcal.methods.base import Offer
from embedcal.reproducing import recipe, recipe_names, recipes
from embedcal.reproducing.judging import Cell, decimals, judge, percent_of
from embedcal.reproducing.measuring import Course
from embedcal.reproducing.reading import FOLDER, parse
from embedcal.reproducing.running import Reproduction, reproduce
from embedcal.reproducing.supply import command, differences

QUICK = (FOLDER / "birds-quick.toml").read_text()
TRAIN = (3498, 184, 56, 1057)  # Waterbirds' training groups


@pytest.fixture(scope="module")
def cache(birds: Path) -> Iterator[FeatureCache]:
    with open_cache(birds) as opened:
        yield opened


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder of runs for this file, so that each is fitted once."""
    return tmp_path_factory.mktemp("reproduced")


@pytest.fixture(scope="module")
def quick(cache: FeatureCache, runs: Path) -> Reproduction:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EMBEDCAL_HOME", str(runs))
        return reproduce("birds-quick", cache=cache, out=runs)


@pytest.fixture
def again(quick: Reproduction, cache: FeatureCache, runs: Path, tmp_path: Path) -> Any:
    """Reproduce a changed text of birds-quick from the runs that are there."""

    def run(text: str, **more: Any) -> Reproduction:
        path = tmp_path / "mine.toml"
        path.write_text(text)
        return reproduce(path, **{"cache": cache, "out": runs, **more})

    return run


def cell(found: Reproduction, row: str, column: str = "worst group", part: str = "birds") -> Cell:
    return next(c for c in found.cells if (c.row, c.column, c.part) == (row, column, part))


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
    assert all(column.unmeasured for column in table.columns[2:])


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
    assert judged["yang2023-table4"] == 2 * 6 * 2  # AIoU is not measured
    assert judged["yang2023-table5"] == 5 * 2


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
    for name in ("groups.1", "groups.2", "mean", "train_weighted"):
        assert math.isnan(percent_of(metrics, name))
    columns = ([90.0], [93.44, 90.0], [0.65, 0.507], [math.nan])
    assert [decimals(values) for values in columns] == [1, 2, 3, 1]


# A table that is run


def test_the_small_world_gives_what_was_recorded(quick: Reproduction) -> None:
    assert quick.ok, [(c.row, c.column, c.published, c.ours) for c in quick.cells]
    assert quick.counts == {"within": 6}
    erm = next(one for one in quick.measured if one.run == "erm")
    assert erm.selection == "val.mean"
    assert erm.labels_used == ("train.y", "val.y")
    assert quick.record["cells"][0]["difference"] == pytest.approx(
        quick.cells[0].ours - quick.cells[0].published
    )
    json.dumps(quick.record, allow_nan=False)


def test_ours_are_the_metrics_of_the_stored_runs(quick: Reproduction, runs: Path) -> None:
    lines = [json.loads(line) for line in (runs / "results.jsonl").read_text().splitlines()]
    by_id = {line["id"]: line for line in lines}
    for one, row in zip(quick.measured, ("zeroshot", "erm", "group-dro")):
        kept = by_id[one.runs[0]]["rules"][one.selection]["test"]
        assert cell(quick, row).ours == pytest.approx(100 * kept["worst_group"])
        assert cell(quick, row, "train-weighted").ours == pytest.approx(
            100 * kept["train_weighted"]
        )


def test_a_changed_expectation_fails_and_says_where(again: Any) -> None:
    found = again(QUICK.replace("values = [97.1, 28.1]", "values = [97.1, 31.4]"))
    assert not found.ok
    assert found.counts == {"within": 5, "beyond": 1}
    assert cell(found, "zeroshot").status == "beyond"
    assert cell(found, "zeroshot").difference == pytest.approx(-3.275)
    assert "5 of 6 judged numbers" in text_of(found)
    assert "BEYOND" in text_of(found)


def test_a_doubtful_number_is_shown_and_never_fails(again: Any) -> None:
    changed = 'doubt = "a note"\nvalues = [1.0, 2.0]'
    found = again(QUICK.replace("values = [97.1, 28.1]", changed))
    assert found.ok
    assert found.counts == {"shown": 2, "within": 4}
    assert cell(found, "zeroshot").ours == pytest.approx(28.125)
    assert "shown: zeroshot: a note" in text_of(found)


def test_numbers_that_cannot_be_read_or_measured(again: Any) -> None:
    text = QUICK.replace("values = [97.1, 28.1]", "values = [nan, 28.1]")
    text = text.replace('run = "erm"\n', 'unmeasured = "it needs more"\n')
    found = again(text)
    assert found.ok
    assert cell(found, "zeroshot", "train-weighted").status == "shown"
    assert cell(found, "zeroshot", "train-weighted").why == "it cannot be read"
    assert cell(found, "erm").status == "unmeasured"
    assert math.isnan(cell(found, "erm").ours)
    assert [one.run for one in found.measured] == ["zeroshot", "group-dro"]


def test_a_metric_that_the_runs_lack_fails(again: Any) -> None:
    found = again(QUICK.replace('metric = "worst_group"', 'metric = "groups.4"'))
    assert not found.ok
    assert cell(found, "erm").status == "failed"
    assert cell(found, "erm").why == "the runs have no groups.4"


def test_a_group_and_a_class_have_their_own_numbers(again: Any) -> None:
    text = QUICK.replace("train_weighted", "groups.2")
    found = again(text.replace('metric = "worst_group"', 'metric = "worst_group_of_class.1"'))
    assert cell(found, "erm", "train-weighted").ours == cell(found, "erm").ours


def test_the_configuration_is_chosen_on_validation(again: Any, quick: Reproduction) -> None:
    """Of a learning rate that moves nothing and the usual one, the usual one is chosen."""
    tried = "[[tried]]\nlr = 1e-9\n\n[[tried]]\nlr = 1e-3\n\n[[columns]]"
    found = again(QUICK.replace("[[columns]]", tried, 1))
    dro = next(one for one in found.measured if one.run == "group-dro")
    assert dro.chosen == {"lr": 1e-3}
    assert dro.configurations == 2
    assert cell(found, "group-dro").ours == cell(quick, "group-dro").ours
    assert next(one for one in found.measured if one.run == "zeroshot").configurations == 1


def test_seeds_are_averaged(again: Any, quick: Reproduction) -> None:
    found = again(QUICK, seeds=2)
    erm, zeroshot = cell(found, "erm"), cell(found, "zeroshot")
    assert len(erm.values) == 2
    assert erm.values[0] == cell(quick, "erm").ours
    assert erm.ours == pytest.approx(sum(erm.values) / 2)
    assert erm.deviation == pytest.approx(abs(erm.values[0] - erm.values[1]) / math.sqrt(2))
    assert len(zeroshot.values) == 1  # nothing in it is random


def test_a_run_that_fails_is_in_the_table_with_its_reason(again: Any) -> None:
    broken = QUICK.replace("options = { epochs = 10 }", "options = { epochs = 1, lr = 1e30 }", 1)
    found = again(broken)
    assert not found.ok
    assert cell(found, "erm").status == "failed"
    assert re.match("1 of 1 runs failed, the first with: expected", cell(found, "erm").why)
    assert cell(found, "zeroshot").status == "within"
    doubted = again(re.sub(r"values = \[98.6, 34.4\]", r'doubt = "so"\n\g<0>', broken))
    assert doubted.ok
    assert cell(doubted, "erm").status == "failed"


# Caches that are not there


def test_absent_data_says_what_to_get_and_what_to_type(own_home: Path) -> None:
    with pytest.raises(EmbedcalError) as caught:
        reproduce("yang2023-table4")
    message = str(caught.value)
    for part in (
        "https://nlp.stanford.edu/data/dro/waterbird_complete95_forest2water2.tar.gz",
        "embedcal cache waterbirds --backbone RN50 --keep tokens --root ~/data",
        "embedcal cache waterbirds --backbone ViT-L/14@336px --root ~/data",
        "OpenAI's weights",
    ):
        assert part in message
    assert "\n" not in message
    assert not (own_home / "reproduced").exists()


def test_a_root_without_the_data_is_answered_by_the_reader(tmp_path: Path) -> None:
    with pytest.raises(EmbedcalError, match=r"expected one of metadata\.csv"):
        reproduce("yang2023-table2", root=tmp_path)


def test_a_cache_that_does_not_fit_is_refused_with_the_differences(cache: FeatureCache) -> None:
    with pytest.raises(EmbedcalError, match="it is of birds, not waterbirds, it went through tiny"):
        reproduce("yang2023-table2", cache=cache)
    with pytest.raises(EmbedcalError, match="it has 600 rows, not 2,000"):
        reproduce("birds-demo", cache=[cache])
    with pytest.raises(EmbedcalError, match="an empty list"):
        reproduce("birds-demo", cache=[])


FITS = {
    "dataset": "waterbirds",
    "backbone": "RN50-quickgelu",
    "weights": "openai",
    "rows": 11788,
    "shapes": {"embedding": (1024,)},
    "levels": {"tokens": "float16", "embedding": "float32"},
    "attributes": (("place", ("land", "water")),),
}


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({}, ()),
        ({"weights": "RN50.pt"}, ()),
        ({"weights": "random:0"}, ("its weights are 'random:0', not openai or RN50.pt",)),
        ({"backbone": "RN50"}, ("it went through RN50, not RN50-quickgelu",)),
        ({"rows": 88}, ("it has 88 rows, not 11,788",)),
        ({"levels": {"embedding": "float32"}}, ("it has no tokens",)),
        ({"attributes": ()}, ("it has no attribute 'place'",)),
        ({"templates": ("a {}.",)}, ("it has 1 templates, not the 80 needed",)),
        ({"dataset": "w", "rows": 1}, ("it is of w, not waterbirds", "it has 1 rows, not 11,788")),
    ],
)
def test_what_a_cache_has_to_be(change: dict[str, Any], found: tuple[str, ...]) -> None:
    from embedcal.encoders.templates import templates

    meta = SimpleNamespace(**{**FITS, "templates": templates("openai"), **change})
    part = recipe("yang2023-table4").parts[0]
    assert differences(part, SimpleNamespace(meta=meta)) == found  # type: ignore[arg-type]


SECOND = """
[[parts]]
name = "other"
source = "waterbirds"
backbone = "RN50"

[[rows]]
name = "zeroshot"
part = "other"
run = "zeroshot"
tolerance = "encoding"
values = [90.8, 44.9]
"""


def test_a_part_without_a_cache_is_missing_or_left_out(
    again: Any, birds: Path, own_home: Path
) -> None:
    """Missing where all were wanted, which is not all right; left out where a cache was named."""
    text = QUICK.replace('source = "birds"\n', 'source = "mine.csv"\ndataset = "birds"\n')
    text = text.replace('backbone = "tiny"', 'backbone = "tiny"\nweights = ["embedded"]') + SECOND
    assert again(text).ok
    assert again(text).counts == {"within": 6, "left out": 2}
    (own_home / "caches").mkdir()
    shutil.copy(birds, own_home / "caches" / "some.h5")
    (own_home / "caches" / "bad.h5").write_text("no cache")
    found = again(text, cache=None)
    assert found.counts == {"within": 6, "missing": 2}
    assert not found.ok
    report = text_of(found)
    assert "type: embedcal cache waterbirds --backbone RN50 --root ~/data" in report
    assert "MISSING" in report
    assert found.record["parts"][1]["cache"] is None


# What is shown


def text_of(found: Reproduction, width: int = 80) -> str:
    console = Console(width=width, no_color=True, highlight=False, record=True, file=None)
    with console.capture() as caught:
        for part in reproduction_report(found).renderables:  # type: ignore[attr-defined]
            console.print(part, soft_wrap=isinstance(part, str))
    return caught.get()


def made(name: str) -> Reproduction:
    """A published table with every cell measured, nothing run."""
    found = recipe(name)
    cells = tuple(
        Cell(
            part=row.part, row=row.name, column=column.name, metric=column.metric,
            published=value, ours=value - 1.25, values=(), deviation=12.5, tolerance=0.5,
            status="beyond", why="", decimals=3 if value < 1 else 2,
        )
        for row in found.rows
        for column, value in zip(found.columns, row.values)
    )  # fmt: skip
    return Reproduction(
        recipe=found, cells=cells, measured=(), places=(), notes=(), seeds=(0,),
        folder=Path("runs"), seconds=1.0,
    )  # fmt: skip


@pytest.mark.parametrize("name", recipe_names())
def test_a_table_fits_eighty_columns_with_every_word_whole(name: str) -> None:
    from embedcal.answers.reproducing import _cells

    found = made(name)
    console = Console(width=80, no_color=True)
    with console.capture() as caught:
        console.print(_cells(found.cells))
    lines = caught.get().splitlines()
    assert max(map(len, lines)) <= 80
    assert "…" not in caught.get()
    words = {word for column in found.recipe.columns for word in column.name.split()}
    assert words <= set(caught.get().split())
    assert all(number(c, c.ours) in caught.get() for c in found.cells if not math.isnan(c.ours))


def test_the_report_has_everything_that_a_reader_needs(quick: Reproduction) -> None:
    text = text_of(quick)
    for part in ("theirs", "ours", "diff.", "tol.", "28.1", "val.mean", "tolerance, training:"):
        assert part in text
    assert "6 of 6 judged numbers within their tolerance" in text
    lines = text.splitlines()
    sentences = ("numbers:", "checked:", "recipe run:", "tolerance,", "note:", "birds-quick:")
    assert max(len(line.rstrip()) for line in lines if not line.startswith(sentences)) <= 80


def test_markdown_has_a_table_and_no_open_cells(quick: Reproduction) -> None:
    strange = replace(quick.cells[0], row="a|b<i>\n")
    found = replace(quick, cells=(strange, *quick.cells[1:]))
    page = reproduction_markdown(found)
    table = [line for line in page.splitlines() if line.startswith("|")]
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in table} == {9}
    assert len(table) == 2 + len(found.cells)
    assert "<i>" not in page


def test_the_list_of_recipes() -> None:
    listed = {one["name"]: one for one in recipes_record(recipes())["recipes"]}
    assert set(listed) == set(recipe_names())
    assert listed["yang2023-table4"]["parts"] == ["RN50", "ViT-L/14@336px"]
    console = Console(width=80, no_color=True)
    with console.capture() as caught:
        console.print(recipes_report(recipes()))
    assert max(map(len, caught.get().splitlines())) <= 80


@pytest.mark.slow
def test_a_papers_recipe_runs_to_its_end(cache: FeatureCache, tmp_path: Path) -> None:
    """Table 4 through another encoder and for one epoch: every row is measured or says why not."""
    text = (FOLDER / "yang2023-table4.toml").read_text()
    for old, new in (
        ("epochs = 300", "epochs = 1"),
        ("rows = 11788\n", ""),
        ('source = "waterbirds"', 'source = "birds"\nrows = 600'),
        ('backbone = "ViT-L/14@336px"', 'backbone = "tiny"'),
        ('"ViT-L-14-336px.pt"', '"embedded"'),
    ):
        assert old in text
        text = text.replace(old, new)
    (tmp_path / "table.toml").write_text(text)
    found = reproduce(tmp_path / "table.toml", cache=cache, seeds=1, out=tmp_path / "runs")
    cells = [c for c in found.cells if c.part != "RN50"]
    assert {c.status for c in cells if c.tolerance is not None} <= {"within", "beyond"}
    assert {c.status for c in cells if c.tolerance is None} == {"shown", "unmeasured"}
    assert {c.status for c in found.cells if c.part == "RN50"} == {"left out", "unmeasured"}
    labels = {one.run: one.labels_used for one in found.measured}
    assert "train.g" in labels["ls, code"]
    assert "train.g" not in labels["ls, paper"]
    assert all(one.configurations == 2 for one in found.measured if one.run != "zeroshot")


@pytest.mark.slow
def test_the_demos_world_gives_what_was_recorded() -> None:
    """From nothing: drawn, cached, fitted, judged."""
    found = reproduce("birds-demo")
    assert found.ok, [(c.row, c.column, c.published, c.ours) for c in found.cells]
    assert found.counts == {"within": 8}
