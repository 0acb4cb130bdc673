"""Calibrating runs: what is learnt from which rows, what is stored, and what is said of it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from made_runs import Grid
from PIL import Image

import embedcal
from embedcal.annotating import annotate, remove
from embedcal.predicting import calibrate, draw, fit_temperature, stored_temperature
from embedcal.predicting.calibration import FILE
from embedcal.predicting.temperature import nll
from embedcal.runs import Run, load_run
from embedcal.types import EmbedcalError


def copied(run: Run, folder: Path) -> Run:
    found = load_run(shutil.copytree(run.folder, folder / run.id))
    assert found is not None
    return found


def test_it_is_learnt_on_val_and_judged_on_test(flock, tmp_path: Path) -> None:
    run = copied(flock.runs["projection"], tmp_path)
    found = calibrate(run, draws=20)
    rule = run.record["selection"]
    val, test = (run.logits(rule, split).astype(np.float64) for split in ("val", "test"))
    y = {split: run.strata(split).y for split in ("val", "test")}
    assert found.temperature == fit_temperature(val, y["val"]).value
    assert (found.fitted.split, len(found.fitted)) == ("val", len(val))
    assert (found.judged.split, len(found.judged)) == ("test", len(test))
    every = found.judged.rows[0]
    assert every.after["nll"].value == pytest.approx(nll(test, y["test"], found.temperature).mean())
    assert every.accuracy == pytest.approx(run.test["mean"])
    fitted = found.fitted.rows[0]
    assert fitted.after["nll"].value <= fitted.before["nll"].value
    names = ["landbird | land", "landbird | water", "waterbird | land", "waterbird | water"]
    assert [each.name for each in found.judged.rows] == ["all", *names]
    assert [each.n for each in found.judged.rows[1:]] == list(run.test["group_sizes"])
    assert found.labels_used == ("val.y",)
    assert not found.in_sample


def test_what_is_learnt_is_stored_beside_the_run_and_is_no_part_of_it(
    flock, tmp_path: Path
) -> None:
    run = copied(flock.runs["adapter"], tmp_path)
    before = (run.folder / "run.json").read_bytes()
    assert stored_temperature(run) is None
    assert calibrate(run, draws=2, store=False).file is None
    assert not (run.folder / FILE).exists()
    found = calibrate(run, draws=2)
    assert found.file == run.folder / FILE
    assert stored_temperature(run) == found.temperature
    record = json.loads(found.file.read_text())
    assert record["run"] == run.id
    assert (record["split"], record["labels_used"], record["in_sample"]) == (
        "val",
        ["val.y"],
        False,
    )
    assert (run.folder / "run.json").read_bytes() == before
    ruled = Run(folder=run.folder, record={**run.record, "selection": "last"})
    assert stored_temperature(ruled) is None  # another head


@pytest.mark.parametrize(
    "text",
    ["", "[]", "null", "{}", '{"format": "x", "temperature": 2, "run": "r", "rule": "r"}', "\xff",
     "[" * 100_000],
)  # fmt: skip
def test_a_damaged_file_is_one_line(flock, tmp_path: Path, text: str) -> None:
    run = copied(flock.runs["linear"], tmp_path)
    (run.folder / FILE).write_text(text, encoding="latin-1")
    with pytest.raises(EmbedcalError, match="delete the file and calibrate again") as told:
        stored_temperature(run)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("value", [0, -1, float("inf"), "2", None, True])
def test_a_temperature_that_is_none_is_damage(flock, tmp_path: Path, value: object) -> None:
    run = copied(flock.runs["linear"], tmp_path)
    found = calibrate(run, draws=2)
    assert found.file is not None
    record = json.loads(found.file.read_text())
    found.file.write_text(json.dumps({**record, "temperature": value}))
    with pytest.raises(EmbedcalError, match="delete the file and calibrate again"):
        stored_temperature(run)


def test_val_that_was_fitted_is_called_in_sample_and_test_halves_are_not(
    flock, tmp_path: Path
) -> None:
    run = copied(flock.runs["in_sample"], tmp_path)
    assert calibrate(run, draws=2).in_sample
    found = calibrate(run, split="test", draws=2, seed=3)
    assert not found.in_sample
    assert found.labels_used == ("test.y",)
    whole = run.strata("test")
    assert len(found.fitted) + len(found.judged) == len(whole)
    of_class = whole.sizes.sum(1)
    np.testing.assert_array_equal(found.fitted.cells.sizes.sum(1), of_class // 2)
    np.testing.assert_array_equal(found.fitted.cells.sizes + found.judged.cells.sizes, whole.sizes)
    logits = run.logits(run.record["selection"], "test")
    both = np.concatenate([found.fitted.logits, found.judged.logits])
    np.testing.assert_array_equal(
        np.sort(both.round(5), axis=0), np.sort(logits.astype(np.float64).round(5), axis=0)
    )
    again = calibrate(run, split="test", draws=2, seed=3)
    assert again.temperature == found.temperature
    assert calibrate(run, split="test", draws=2, seed=4).temperature != found.temperature


def made(folder: Path, accuracy: tuple[float, ...], **kwargs) -> Run:
    record = Grid(folder, **kwargs).run("erm", 0, accuracy)
    found = load_run(folder / record["id"])
    assert found is not None
    return found


def test_val_without_an_error_has_no_temperature_to_store(tmp_path: Path) -> None:
    run = made(tmp_path, (1.0, 1.0, 1.0, 1.0))
    (run.folder / FILE).write_text("what was there before")
    found = calibrate(run, draws=2)
    assert (found.where, found.file) == ("lowest", None)
    assert not (run.folder / FILE).exists()


def test_without_the_cache_groups_have_numbers(tmp_path: Path) -> None:
    run = made(tmp_path / "a", (0.9, 0.5, 0.4, 0.8))
    names = [each.name for each in calibrate(run, draws=2).judged.rows]
    assert names[:3] == ["all", "class 0 | value 0", "class 0 | value 1"]
    run = made(tmp_path / "b", (0.9, 0.5, 0.4, 0.8), attributes=False)
    assert [each.name for each in calibrate(run, draws=2).judged.rows] == [
        "all", "class 0", "class 1"
    ]  # fmt: skip


def test_without_the_annotation_groups_have_numbers(flock, tmp_path: Path) -> None:
    with embedcal.open(shutil.copy(flock.cache, tmp_path / "own.h5")) as cache:
        annotate(cache, "odd", "spurious", (np.arange(len(cache)) % 2).astype(np.int8))
        run = embedcal.fit("erm", cache, attribute="odd", epochs=1, out=tmp_path)
        named = calibrate(run, cache, draws=2).judged.rows
        assert named[1].name == "landbird | no odd"
        remove(cache, "odd")
        rows = calibrate(run, cache, draws=2).judged.rows
    assert [each.name for each in rows[1:3]] == ["class 0 | value 0", "class 0 | value 1"]
    assert [each.after for each in rows] == [each.after for each in named]


def test_mistakes_are_one_line(flock, tmp_path: Path) -> None:
    run = copied(flock.runs["linear"], tmp_path)
    with pytest.raises(EmbedcalError, match="expected to calibrate on val or test, found 'train'"):
        calibrate(run, split="train")  # type: ignore[arg-type]
    other = made(tmp_path / "other", (0.9, 0.5, 0.4, 0.8))
    with (
        embedcal.open(flock.cache) as cache,
        pytest.raises(EmbedcalError, match=r"expected a run over .* name that with --cache"),
    ):
        calibrate(other, cache)
    (run.folder / "predictions.safetensors").unlink()
    with pytest.raises(EmbedcalError, match=r"expected predictions\.safetensors"):
        calibrate(run)


def test_the_diagram_shows_both_sides_and_no_markup(flock, tmp_path: Path) -> None:
    found = calibrate(copied(flock.runs["projection"], tmp_path), draws=2)
    figure = draw(found)
    top = figure.axes[:2]
    assert [axes.get_title().split(":")[0] for axes in top] == ["before", "after"]
    assert f"T = {found.temperature:.3g}" in top[1].get_title()
    for side, axes in zip(("before", "after"), top):
        assert f"{100 * getattr(found.judged.rows[0], side)['ece'].value:.1f} %" in axes.get_title()
        whole = next(line for line in axes.lines if line.get_label() == "all rows")
        p = np.exp(found.judged.logits / (1 if side == "before" else found.temperature))
        sure = (p / p.sum(1, keepdims=True)).max(1)
        right = found.judged.logits.argmax(1) == found.judged.cells.y
        places = np.ceil(sure * 15).astype(int)
        np.testing.assert_allclose(
            whole.get_ydata(), [right[places == m].mean() for m in np.unique(places)]
        )
    figure.savefig(tmp_path / "out.png")
    with Image.open(tmp_path / "out.png") as image:
        assert image.width > 600
