"""What a report holds: the numbers of the comparison, the right images, the right commands."""

from __future__ import annotations

import io
import json
import math
import shlex
import shutil
import time
from base64 import b64decode
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import typer
from made_runs import Grid
from pages_for_tests import tree
from PIL import Image
from typer.testing import CliRunner

from embedcal.annotating import annotate, remove
from embedcal.cache import open_cache
from embedcal.cli import app
from embedcal.commands.reporting import register
from embedcal.comparing import compare
from embedcal.comparing.recorded import collect
from embedcal.datasets.places import remember
from embedcal.evaluate import bootstrap
from embedcal.fitting import fit
from embedcal.reporting import ReportOptions, behind, made_by, report
from embedcal.reporting.gathering import gather
from embedcal.reporting.page import render
from embedcal.reporting.plots import pareto
from embedcal.reporting.thumbnails import Thumbnails, thumbnails
from embedcal.runs import load_run
from embedcal.tables import percent
from embedcal.types import SPLITS, EmbedcalError


@pytest.fixture
def made(tmp_path):
    """Two methods, one with settings, over a cache that is gone."""
    grid = Grid(tmp_path / "grid")
    for lr, neg, seed in product((1, 2), ("rns", "nns"), range(2)):
        worst = 0.5 + 0.1 * lr + 0.02 * seed
        grid.run("cfr", seed, (0.9, 0.8, worst, 0.9), options={"lr": lr, "neg": neg})
    grid.run("zeroshot", 0, (0.9, 0.5, 0.6, 0.9), rules=("none",), labels=())
    grid.fail("erm", 0)
    return grid


def cells(node):
    return [
        cell.text.strip().replace("\xa0", " ")
        for cell in node.children
        if getattr(cell, "tag", "") in ("td", "th")
    ]


def table(root, caption):
    (found,) = [t for t in root.all("table") if caption in t.all("caption")[0].text]
    return [cells(row) for row in found.all("tr")]


def test_runs_without_their_cache_make_a_page_that_says_what_it_lacks(made, tmp_path):
    found = report(made.folder, tmp_path / "deep" / "page.html")
    html = found.path.read_text()
    assert found.bytes == len(html.encode())
    assert found.runs == 9
    assert any("the cache is not at /nowhere/c0.h5" in note for note in found.notes)
    assert not list(tmp_path.rglob("*.part"))
    root = tree(html)
    assert not root.all("img")
    comparison = compare(made.folder)
    (block,) = comparison.blocks
    text = root.text
    for line in (block.summary, block.scored, *block.notes, *(p.sentence for p in block.pairs)):
        assert line in text
    head, *rows = table(root, "Accuracy on test, %")
    assert head[:3] == ["Row", "Worst group", "95 %"]
    for cell, row in zip(rows, block.rows, strict=True):
        assert cell[0] == row.label
        assert cell[1].startswith(percent(row.mean))
        assert cell[2] == f"{percent(row.interval[0])}–{percent(row.interval[1])}"
        assert cell[4] == percent(row.metrics["train_weighted"])
    sizes = table(root, "Rows of each group")
    assert [row[1:] for row in sizes[1:]] == [
        ["3,498", "120", "300"], ["184", "110", "280"], ["56", "60", "140"], ["1,057", "60", "130"],
    ]  # fmt: skip
    settings = table(root, "Every setting")
    assert len(settings) == 1 + 5
    assert [row[2] for row in settings[1:]].count("✓ yes") == 2
    assert "erm: its only run failed" in text


def test_the_same_runs_give_the_same_bytes(made, tmp_path):
    one = report(made.folder, tmp_path / "one.html").path.read_bytes()
    assert report(made.folder, tmp_path / "two.html").path.read_bytes() == one


def test_intervals_are_those_of_the_runs_behind_a_row(made):
    (part,) = gather(made.folder, ReportOptions()).parts
    for line in part.lines:
        ends = line.intervals
        loaded = [load_run(made.folder / name) for name in line.row.runs]
        right = np.stack(
            [
                run.logits(line.row.selection, "test").argmax(1) == run.strata("test").y
                for run in loaded
            ]
        )
        assert ends == bootstrap(right, loaded[0].strata("test"))
        assert line.row.interval == ends.worst_group
        assert line.average_interval == ends.train_weighted
    chosen = [each for each in part.configurations.shown if each.chosen]
    assert {each.interval for each in chosen} == {line.row.interval for line in part.lines}
    assert all(each.interval is not None for each in part.configurations.shown)
    scores = [each.validation for each in part.configurations.shown]
    assert scores == sorted(scores, reverse=True)


def test_pareto_is_what_no_other_point_beats():
    rng = np.random.default_rng(3)
    for n in (1, 2, 7, 40):
        points = [tuple(p) for p in rng.integers(0, 12, (n, 2)).tolist()]
        kept = {points[i] for i in pareto(points)}
        for x, y in points:
            beaten = any(a >= x and b >= y and (a, b) != (x, y) for a, b in points)
            assert ((x, y) in kept) == (not beaten)
        line = [points[i] for i in pareto(points)]
        assert line == sorted(line)
        assert len(set(line)) == len(line)


def test_sections_appear_where_there_is_something_to_show(page):
    (part,) = page.parts
    assert [key for key, _ in part.sections] == [
        "verdict", "setup", "methods", "by-group", "training", "configurations", "sensitivity",
        "map", "gradcam", "errors", "attributes", "commands",
    ]  # fmt: skip
    assert not [note for note in part.notes if note.startswith("no ")]
    assert part.facts["Rows"].startswith("600 (")
    assert {curve.label for curve in part.curves} == {"erm", "group-dro"}
    assert all(curve.epochs == 3 and len(curve.worst) == 2 for curve in part.curves)
    (effects, _) = part.effects[0]
    assert effects.method == "erm"


def test_galleries_show_the_worst_errors_of_the_worst_groups(page, runs, birds):
    (part,) = page.parts
    run = load_run(runs / part.lines[0].row.runs[0])
    logits = run.logits(part.lines[0].row.selection, "test")
    with open_cache(birds) as cache:
        samples = cache.samples
        rows = np.flatnonzero((samples.split == SPLITS.index("test")) & (samples.status == 0))
        place = samples.attributes["place"]
        wanted = []
        for y, a in product(range(2), range(2)):
            own = [i for i, r in enumerate(rows) if samples.y[r] == y and place[r] == a]
            margins = [(logits[i, y] - logits[i, 1 - y], i) for i in own]
            wrong = sorted((m, i) for m, i in margins if m < 0)
            name = cache.group_names()[2 * y + a]
            if wrong:
                accuracy = 1 - len(wrong) / len(own)
                ids = [samples.ids[rows[i]] for _, i in wrong[:12]]
                wanted.append((accuracy, name, ids, wrong[0][0]))
    wanted.sort(key=lambda each: each[0])
    assert wanted
    for gallery, (accuracy, name, ids, margin) in zip(part.galleries, wanted[:3], strict=True):
        assert gallery.title == name
        assert percent(accuracy) in gallery.note
        assert [shot.id for shot in gallery.shots] == ids
        assert gallery.shots[0].margin == pytest.approx(margin)
        assert not any(shot.right for shot in gallery.shots)
        assert all(shot.picture.startswith("data:image/jpeg;base64,") for shot in gallery.shots)


def test_attributes_to_judge_have_images_that_show_them_and_not(page, birds):
    detected = page.parts[0].detected
    assert {"land", "water"} & {each.attribute for each in detected.judged}
    with open_cache(birds) as cache:
        for each in detected.judged:
            if each.attribute in ("land", "water"):
                code = cache.meta.attributes[0][1].index(each.attribute)
                place = cache.samples.attributes["place"]
                assert all(place[shot.row] == code for shot in each.present)
                assert all(place[shot.row] != code for shot in each.absent)
            assert len(each.present) > 0
            assert len(each.absent) > 0


def test_the_command_of_a_run_finds_that_run_again(page, runs, birds):
    commands = page.parts[0].commands
    assert commands.total == len(commands.runs) == 7
    for name, text in commands.runs[:4]:
        words = shlex.split(text)
        assert words[0] == "embedcal"
        done = CliRunner().invoke(app, [*words[1:], "--out", str(runs), "--json"])
        record = json.loads(done.stdout)
        assert record["id"] == name
        assert record["reused"] is True, "it was fitted again: another run"


def test_the_command_of_a_grid_asks_for_the_same_runs(page, runs):
    (text,) = page.parts[0].commands.grids
    before = len((runs / "results.jsonl").read_text().splitlines())
    done = CliRunner().invoke(app, [*shlex.split(text)[1:], "--json"])
    assert done.exit_code == 0, done.output
    assert len((runs / "results.jsonl").read_text().splitlines()) == before
    asked = {
        "runs": [["dfr", {"c": [[1.0, 0.1]], "lr": "0.1..1"}]],
        "seeds": [0],
        "select": "last",
        "budget": 3,
        "search": "random",
    }
    written = made_by._grid(asked, "birds.h5", Path("out"), ["place"])
    assert written == (
        "embedcal grid dfr:c=1.0+0.1:lr=0.1..1 --seeds 0, --select last --budget 3 --search random "
        "--attribute place --cache birds.h5 --out out"
    )


def test_a_moved_cache_is_named_and_another_refused(made, runs, birds, tmp_path):
    moved = tmp_path / "moved.h5"
    moved.write_bytes(birds.read_bytes())
    with pytest.raises(EmbedcalError, match=r"expected the cache that these runs were fitted over"):
        report(made.folder, tmp_path / "a.html", ReportOptions(cache=moved))
    page = gather(runs, ReportOptions(cache=moved, images=False))
    assert page.parts[0].facts["Cache"] == str(moved)
    assert page.parts[0].galleries
    assert "no images, as asked (--no-images)" in page.parts[0].notes
    assert not any(shot.picture for gallery in page.parts[0].galleries for shot in gallery.shots)


def test_runs_are_judged_by_another_attribute_as_compare_judges_them(runs, birds, tmp_path):
    moved = tmp_path / "moved.h5"
    moved.write_bytes(birds.read_bytes())
    with open_cache(moved) as cache:
        annotate(cache, "odd", "spurious", (np.arange(len(cache)) % 2).astype(np.int8))
    options = ReportOptions(attribute=("odd",), cache=moved, images=False)
    (part,) = gather(runs, options).parts
    (block,) = compare(runs, attribute="odd", cache=moved).blocks
    assert part.block == block
    assert part.block.judged
    assert part.groups.names == block.group_names
    assert "odd" in block.group_names[0]
    assert list(part.groups.counts) == ["train", "test"]
    for line in part.lines:
        assert line.intervals.worst_group == line.row.interval
    chosen = {each.worst for each in part.configurations.shown if each.chosen}
    assert chosen == {row.mean for row in block.rows}
    assert part.galleries[0].title in block.group_names
    assert all("--attribute place" in text for _, text in part.commands.runs)
    assert len(part.effects) == 1


def test_an_annotation_that_is_gone_costs_what_needs_it_and_no_more(birds, home, tmp_path):
    own = shutil.copy(birds, tmp_path / "own.h5")
    with open_cache(own) as cache:
        annotate(cache, "odd", "spurious", (np.arange(len(cache)) % 2).astype(np.int8))
        fit("erm", cache, attribute="odd", epochs=1, out=tmp_path / "runs")
        remove(cache, "odd")
    (part,) = gather(tmp_path / "runs", ReportOptions(images=False)).parts
    assert part.lines[0].row.mean == compare(tmp_path / "runs").blocks[0].rows[0].mean
    assert not part.galleries
    assert part.mapped is None
    (note,) = [each for each in part.notes if each.startswith("no images, galleries, maps")]
    assert "expected an attribute of own.h5, found 'odd'" in note


def command(*words):
    app = typer.Typer()
    register(app)
    app.callback()(lambda: None)
    return CliRunner().invoke(app, ["report", *map(str, words)])


def test_the_command_names_runs_as_compare_does_and_by_id(page, runs, birds, tmp_path, monkeypatch):
    monkeypatch.setenv("EMBEDCAL_HOME", str(tmp_path))
    assert "expected runs, found none named" in str(command().exception)
    remember("grid", runs)
    out = tmp_path / "page.html"
    done = command("-o", out, "--no-images", "--json")
    record = json.loads(done.stdout)
    assert record["page"] == str(out)
    assert record["runs"] == 7
    assert record["bytes"] == out.stat().st_size
    name = page.parts[0].lines[0].row.runs[0]
    text = command(name[:8], "--cache", birds, "-o", out, "--no-images").stdout
    assert "1" in text
    assert str(out) in "".join(text.split())  # a long path is folded
    assert tree(out.read_text()).text.count(name) >= 1
    wrong = command(runs, "--select", "oracle.worst_group").exception
    assert "--oracle" in str(wrong)
    assert "found none called 'nope'" in str(command("nope", "--cache", birds).exception)


def test_two_caches_make_two_parts_with_ids_of_their_own(made, tmp_path):
    other = Grid(tmp_path / "other", cache="c1", attributes=False)
    other.run("erm", 0, (0.9, 0.8, 0.7, 0.9), rules=("val.worst_class", "last"))
    page = gather([made.folder, other.folder], ReportOptions())
    assert [part.block.fingerprint for part in page.parts] == ["c0" * 8, "c1" * 8]
    assert [len(part.effects) for part in page.parts] == [1, 0]
    root = tree(render(page))
    ids = [node.get("id") for node in root.all() if "id" in node.attributes]
    assert len(ids) == len(set(ids))
    assert len(root.all("h2")) == 3


def test_runs_without_predictions_have_no_intervals_and_a_note(tmp_path):
    grid = Grid(tmp_path / "grid")
    grid.run("erm", 0, (0.9, 0.8, 0.7, 0.9), predictions=False)
    found = report(grid.folder, tmp_path / "page.html")
    assert any("no predictions" in note for note in found.notes)
    assert "nothing to be compared" not in found.path.read_text()
    assert "erm reaches 70.0 % worst group accuracy" in found.path.read_text()


@pytest.mark.parametrize(
    ("out", "said"),
    [
        ("page.pdf", r"end in \.html, found 'page.pdf'"),
        ("file/page.html", "choose another place"),
        ("folder.html", "choose another place"),
    ],
)
def test_a_page_that_cannot_be_written_is_one_line_before_any_work(
    made, tmp_path, monkeypatch, out, said
):
    monkeypatch.delattr("embedcal.reporting.writing.gather")
    (tmp_path / "file").write_text("")
    (tmp_path / "folder.html").mkdir()
    with pytest.raises(EmbedcalError, match=said) as raised:
        report(made.folder, tmp_path / out)
    assert "\n" not in str(raised.value)
    assert not list(tmp_path.rglob("*.part"))


def test_thumbnails_are_small_bare_and_of_the_cached_bytes(birds, at_home, tmp_path):
    with open_cache(birds) as cache:
        row = int(np.flatnonzero(cache.samples.split == 2)[0])
        found = thumbnails(cache, [row], None, wanted=True)
        assert found.note == ""
        kind, data = found.of(row).split(",", 1)
        assert kind == "data:image/jpeg;base64"
        with (
            Image.open(io.BytesIO(b64decode(data))) as small,
            Image.open(found.pictures.file(row)) as whole,
        ):
            assert max(small.size) <= 144
            assert small.size[0] / small.size[1] == pytest.approx(whole.size[0] / whole.size[1])
            assert not small.getexif()
            near = np.asarray(whole.convert("RGB").resize(small.size), float)
            assert np.abs(np.asarray(small, float) - near).mean() < 8
        # A file that was changed since is not shown as if it were the one that was encoded.
        pictures = type(found.pictures)(cache, tmp_path)
        other = tmp_path / cache.samples.paths[row]
        other.parent.mkdir(parents=True, exist_ok=True)
        other.write_bytes(found.pictures.file(row).read_bytes() + b"\0")
        changed = Thumbnails(cache, pictures)
        assert changed.of(row) == ""
        assert "found others" in changed.note


def test_ten_thousand_runs_make_a_page(tmp_path):
    grid = Grid(tmp_path / "grid")
    first = grid.run("cfr", 0, (0.9, 0.8, 0.7, 0.9), options={"lr": 0.0}, predictions=False)
    lines = []
    for number in range(1, 10_000):
        record = {**first, "id": f"{number:012x}", "options": {"lr": number / 1e4}}
        lines.append(json.dumps(record))
    with (grid.folder / "results.jsonl").open("a") as file:
        file.write("\n".join(lines) + "\n")
    start = time.perf_counter()
    found = report(grid.folder, tmp_path / "page.html")
    took = time.perf_counter() - start
    assert found.runs == 10_000
    assert found.bytes < 4e6
    assert took < 120, f"{took:.0f} s"
    assert any(note.startswith("1,000 of 10,000 configurations are listed") for note in found.notes)
    root = tree(found.path.read_text())
    assert len(table(root, "Every setting")) == 1001
    assert "100 of 10,000" in root.text


def test_margins_and_predictions_of_a_run(made):
    run = load_run(made.folder / compare(made.folder).blocks[0].rows[0].runs[0])
    pool = collect(made.folder)[0]
    of = behind.source(pool, pool.rule(None, oracle=False), "worst_group")
    told = of.tested(run, "val.worst_group")
    logits, y = told.logits, told.cells.y
    for i in range(0, len(y), 97):
        others = [logits[i, c] for c in range(logits.shape[1]) if c != y[i]]
        assert told.margin[i] == pytest.approx(logits[i, y[i]] - max(others))
    assert of.tested(run, "no such rule") is None
    assert math.isfinite(told.margin.sum())
