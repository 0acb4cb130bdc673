"""A recipe that is run: ours beside theirs, caches that are not there, and what is shown."""

from __future__ import annotations

import json
import math
import re
import shutil
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
from embedcal.evaluate import overlap
from embedcal.explaining import Sources, aiou
from embedcal.explaining.explanation import each_aiou
from embedcal.reproducing import recipe, recipe_names, recipes
from embedcal.reproducing.judging import Cell
from embedcal.reproducing.reading import FOLDER
from embedcal.reproducing.running import Reproduction, reproduce
from embedcal.reproducing.supply import differences
from embedcal.runs import load_run
from embedcal.workbench import Workbench

QUICK = (FOLDER / "birds-quick.toml").read_text()


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


def test_a_run_has_its_own_rule_also_one_that_is_kept_on_demand(again: Any) -> None:
    found = again(QUICK.replace('select = "val.mean"', 'select = "val.env"', 1))
    erm = next(one for one in found.measured if one.run == "erm")
    assert (erm.selection, erm.why) == ("val.env", "")
    assert not math.isnan(cell(found, "erm").ours)
    rest = {one.selection for one in found.measured if one.run != "erm"}
    assert rest == {"none", "val.worst_group"}


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


# AIOU


AIOU = (FOLDER / "birds-aiou.toml").read_text()


@pytest.fixture(scope="module")
def pictures(birds: Path) -> Path:
    return birds.parents[1] / "birds" / "rows-600-seed-77"


def test_aiou_of_the_small_world_is_what_was_recorded(
    again: Any, cache: FeatureCache, pictures: Path, runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = again(AIOU, root=pictures)
    assert found.ok, [(c.row, c.column, c.published, c.ours) for c in found.cells]
    assert found.counts == {"within": 6}
    one = cell(found, "group-dro", "AIoU average")
    assert 0 < one.ours < 1
    # It is that of the head which the rule keeps, over the masks.
    dro = next(m for m in found.measured if m.run == "group-dro")
    own = aiou(load_run(runs / dro.runs[0]), cache, sources=Sources(root=pictures, region="mask"))
    assert one.ours == pytest.approx(own.mean)
    assert cell(found, "group-dro", "AIoU worst group").ours == pytest.approx(own.worst_group)
    assert "AIoU average" in text_of(found)
    # Nothing is worked out twice, and another region is another number.
    with monkeypatch.context() as patch:
        patch.setattr("embedcal.reproducing.overlapping.each_aiou", None)
        assert [c.ours for c in again(AIOU).cells] == [c.ours for c in found.cells]
    boxes = again(AIOU.replace('region = "mask"', 'region = "box"'), root=pictures)
    assert cell(boxes, "group-dro", "AIoU average").ours != pytest.approx(one.ours, abs=1e-4)


def test_aiou_without_images_says_what_is_missing(again: Any, tmp_path: Path) -> None:
    """A judged number that could not be measured is not within anything."""
    found = again(AIOU, out=tmp_path / "runs")
    assert not found.ok
    assert found.counts == {"within": 2, "unmeasured": 4}
    assert "name it with --root" in cell(found, "zeroshot", "AIoU average").why
    assert "unmeasured: AIoU average; AIoU worst group: expected the images" in text_of(found)
    assert next(m for m in found.measured).no_overlap
    json.dumps(found.record, allow_nan=False)


def test_a_doubtful_column_is_shown(again: Any, pictures: Path) -> None:
    text = AIOU
    for metric in ("aiou", "aiou_worst_group"):
        text = text.replace(f'metric = "{metric}"', f'metric = "{metric}"\ndoubt = "not said how"')
    found = again(text.replace("0.459", "0.1"), root=pictures)
    assert found.ok
    assert found.counts == {"within": 2, "shown": 4}
    assert cell(found, "zeroshot", "AIoU worst group").why == "not said how"


def test_the_heads_rule_decides_whose_map_it_is(
    again: Any, cache: FeatureCache, pictures: Path, runs: Path
) -> None:
    """A run's own rule may be another than the recipe's, and then keep another epoch."""
    text = AIOU.replace('method = "group-dro"', 'method = "group-dro"\nselect = "last"')
    found = again(text, root=pictures)
    dro = next(m for m in found.measured if m.run == "group-dro")
    assert dro.selection == "last"
    head = load_run(runs / dro.runs[0]).head("last")
    values, cells = each_aiou(head, Workbench(cache), sources=Sources(root=pictures))
    assert cell(found, "group-dro", "AIoU average").ours == pytest.approx(
        overlap(values, cells).mean
    )


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
    assert {c.status for c in found.cells if c.part == "RN50"} == {"left out"}
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
