"""embedcal map: the answer as JSON and for people, points as CSV, and what a typo gets."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import typer
from PIL import Image
from typer.testing import CliRunner, Result

import embedcal
from embedcal.answers.mapping import save_points
from embedcal.commands.mapping import register
from embedcal.mapping import change, map_runs
from embedcal.runs import Run
from embedcal.types import EmbedcalError


def command(*words: str) -> Result:
    app = typer.Typer(pretty_exceptions_enable=False)
    app.callback()(lambda: None)  # so that one command is not the whole app
    register(app)
    return CliRunner().invoke(app, ["map", *words], env={"COLUMNS": "80", "NO_COLOR": "1"})


def test_the_record_the_points_and_the_report(
    birds: Path, fitted: dict[str, Run], tmp_path: Path
) -> None:
    out, points = tmp_path / "map.png", tmp_path / "points.csv"
    words = [str(fitted["erm"].folder), "zero-shot", "--cache", str(birds), "-o", str(out)]
    words += ["--points", "60", "--seed", "2", "--csv", str(points)]
    record = json.loads(command(*words, "--json").stdout)
    with embedcal.open(birds) as cache:
        maps = map_runs([fitted["erm"], None], cache, points=60, seed=2)
        ids = cache.samples.ids
    assert (record["rows"], record["points"], record["seed"]) == (maps[0].n, 60, 2)
    frozen, erm, zero = record["views"]
    assert (frozen["name"], erm["space"], zero["space"]) == ("frozen", "embedding", "logits")
    assert "change" not in frozen["class"]
    for kind in ("class", "attribute"):
        before, after = (getattr(v, f"by_{kind}") for v in (maps[0].before, maps[0].after))
        assert frozen[kind]["silhouette"] == before.mean
        assert erm[kind]["silhouette"] == after.mean
        assert erm[kind]["interval"] == list(after.interval)
        assert (erm[kind]["change"], tuple(erm[kind]["change_interval"])) == change(before, after)
        assert list(erm[kind]["values"].values()) == list(after.values)
    assert list(erm["attribute"]["values"]) == ["land", "water"]
    with Image.open(out) as figure:
        assert figure.width > 400

    with points.open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == 3 * 60
    own = [line for line in lines if line["view"] == erm["name"]]
    assert [int(line["row"]) for line in own] == maps[0].rows.tolist()
    assert [line["id"] for line in own] == [ids[row] for row in maps[0].rows]
    assert [line["class"] for line in own] == [
        ("landbird", "waterbird")[y] for y in maps[0].y.tolist()
    ]
    assert [line["attribute"] for line in own] == [("land", "water")[a] for a in maps[0].a.tolist()]
    assert [int(line["wrong"]) for line in own] == maps[0].after.wrong.astype(int).tolist()
    xy = np.array([[float(line["x"]), float(line["y"])] for line in own])
    np.testing.assert_allclose(xy, maps[0].points_after, rtol=1e-5)

    shown = command(*words).stdout
    assert f"{erm['class']['silhouette']:.2f}" in shown
    assert f"{erm['class']['change']:+.2f}" in shown
    assert f"{zero['name']}, by its logits: classes lie" in " ".join(shown.split())
    assert "60 images, drawn with seed 2" in " ".join(shown.split())
    assert max(map(len, shown.splitlines()[:7])) <= 80


@pytest.mark.parametrize(
    ("ends", "said"),
    [((0.1, 0.3), "further apart"), ((-0.3, -0.1), "closer together"), ((-0.1, 0.2), "no clear")],
)
def test_words_say_no_more_than_the_interval(ends: tuple[float, float], said: str) -> None:
    from embedcal.answers.mapping import _told

    found = {"change": sum(ends) / 2, "change_interval": ends}
    assert said in _told(found, "place", "attribute")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("nope", "-o", "x.png"), "none called 'nope'"),
        (("-o", "x.txt"), "expected a figure that ends in .png, .svg, .pdf, found x.txt: "),
        (("-o", "no/where/x.png"), "expected a folder for no/where/x.png, found none: "),
        (("-o", "x.png", "--csv", "no/x.csv"), "expected a folder for no/x.csv, found none: "),
        (("-o", "x.png", "--csv", "."), "choose another place with --csv"),
        (("-o", "x.png", "--points", "2"), "expected 4 points or more"),
    ],
)
def test_mistakes_are_one_line(
    birds: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    words: tuple[str, ...],
    said: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    done = command(*words, "--cache", str(birds))
    assert isinstance(done.exception, EmbedcalError)
    assert said in str(done.exception)
    assert "\n" not in str(done.exception)


def test_no_text_of_the_csv_is_a_formula_and_numbers_stay_numbers(tmp_path: Path) -> None:
    """A run, an id, a class and a value that begin as formulas do, at negative coordinates."""
    before = SimpleNamespace(name="frozen", wrong=None, points=np.array([[-1.5, 2.0], [0.0, -3.0]]))
    after = SimpleNamespace(name="=erm", wrong=np.array([True, False]), points=before.points)
    maps = [
        SimpleNamespace(
            before=before, after=after, rows=np.array([0, 1]), y=np.array([0, 1]),
            a=np.array([-1, 0]), values=("@land",),
        )
    ]  # fmt: skip
    cache = SimpleNamespace(
        samples=SimpleNamespace(ids=("=1+1", "a\nb")), meta=SimpleNamespace(classes=("-x", "+y"))
    )
    save_points(maps, cache, tmp_path / "points.csv")  # type: ignore[arg-type]
    with (tmp_path / "points.csv").open(newline="", encoding="utf-8") as file:
        _, *rows = csv.reader(file)
    assert rows == [
        ["frozen", "0", "'=1+1", "'-x", "", "", "-1.5", "2"],
        ["frozen", "1", "a\\nb", "'+y", "'@land", "", "0", "-3"],
        ["'=erm", "0", "'=1+1", "'-x", "", "1", "-1.5", "2"],
        ["'=erm", "1", "a\\nb", "'+y", "'@land", "0", "0", "-3"],
    ]
