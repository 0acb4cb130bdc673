"""Predictions from files are those from the cache; they can be stopped, and never mix two runs."""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import replace
from io import FileIO
from pathlib import Path

import numpy as np
import pytest
import torch
from filelock import FileLock

import embedcal
from embedcal.cache import import_features
from embedcal.cache.format import OK
from embedcal.heads import load_head
from embedcal.pictures import Pictures
from embedcal.predicting import Predictions, PredictOptions, calibrate, predict
from embedcal.predicting.scorer import Scorer
from embedcal.predicting.sheet import Sheet, Stamp, sheet
from embedcal.predicting.temperature import softmax
from embedcal.reencoding import Source
from embedcal.runs import NoRoomError, Run, load_run
from embedcal.types import EmbedcalError

HEADS = ("linear", "projection", "attnpool", "adapter", "zeroshot")
CLOSE = 1e-4  # of the largest logit: a batch of another size moves the last bits


@pytest.fixture
def photos(flock, tmp_path: Path) -> Path:
    """Twenty of the test images in a folder of their own, two folders deep."""
    with embedcal.open(flock.cache) as cache:
        samples = cache.samples
        rows = np.flatnonzero(samples.split == 2)[:20]
        for number, row in enumerate(rows):
            path = tmp_path / "photos" / f"{number % 3}" / f"{number:02d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(flock.images / samples.paths[row], path)
    return tmp_path / "photos"


def rows_of(flock, split: int) -> tuple[np.ndarray, list[str]]:
    with embedcal.open(flock.cache) as cache:
        samples = cache.samples
        rows = np.flatnonzero((samples.split == split) & (samples.status == OK))
        return rows, [samples.paths[row] for row in rows]


@pytest.mark.parametrize("head", HEADS)
def test_files_of_the_test_split_get_the_logits_that_the_run_stored(flock, head: str) -> None:
    run = flock.runs[head]
    rows, paths = rows_of(flock, 2)
    stored = run.logits(run.record["selection"], "test").astype(np.float64)
    found = predict(run, paths, options=PredictOptions(root=flock.images, batch_size=48))
    assert (found.predicted, found.unreadable, found.reused) == (len(rows), (), 0)
    assert [each.name for each in found.rows] == paths
    p = softmax(stored)
    top = np.sort(p, axis=1)
    np.testing.assert_allclose([each.probability for each in found.rows], top[:, -1], atol=2e-3)
    np.testing.assert_allclose(
        [each.margin for each in found.rows], top[:, -1] - top[:, -2], atol=4e-3
    )
    clear = np.abs(stored[:, 0] - stored[:, 1]) > CLOSE * np.abs(stored).max()
    assert clear.mean() > 0.95
    labels = np.array([each.label for each in found.rows])
    np.testing.assert_array_equal(labels[clear], stored.argmax(1)[clear])
    assert sum(found.counts.values()) == len(rows)

    with embedcal.open(flock.cache) as cache:
        encoder = Source().encoder(cache.meta)
        scorer = Scorer(cache, run.head(), encoder, "cpu")
        pixels = Pictures(cache, flock.images).pixels(rows[:32], scorer.prepare)
        logits = scorer.logits(scorer.features(pixels))
    np.testing.assert_allclose(logits, stored[:32], atol=CLOSE * np.abs(stored).max())


def test_zero_shot_needs_no_run(flock, photos: Path) -> None:
    with embedcal.open(flock.cache) as cache:
        by_name = predict(None, photos, cache=cache)
        assert len(cache) > 0  # it was open before, and is still
    by_run = predict(flock.runs["zeroshot"], photos)
    assert [each.label for each in by_name.rows] == [each.label for each in by_run.rows]
    np.testing.assert_allclose(
        [each.probability for each in by_name.rows],
        [each.probability for each in by_run.rows],
        atol=1e-5,
    )
    assert by_name.run.startswith("zero-shot ")
    with pytest.raises(EmbedcalError, match="found zero-shot, which has no folder"):
        predict(None, photos, cache=flock.cache, temperature="calibrated")


def test_nearest_training_rows_by_the_heads_own_embedding(flock) -> None:
    run = flock.runs["adapter"]
    rows, paths = rows_of(flock, 0)
    asked = [0, 7, 31]
    found = predict(
        run,
        [paths[i] for i in asked],
        neighbours=3,
        options=PredictOptions(root=flock.images),
    )
    with embedcal.open(flock.cache) as cache:
        x = torch.from_numpy(np.array(cache.split("train", "embedding").x))
        samples, classes = cache.samples, cache.meta.classes
        with torch.no_grad():
            z = run.head().eval().embed(x).numpy().astype(np.float64)
    for i, each in zip(asked, found.rows):
        cosine = z @ z[i]
        order = np.argsort(-cosine, kind="stable")[:3]
        assert [near.row for near in each.neighbours] == rows[order].tolist()
        assert each.neighbours[0].path == paths[i]  # itself
        assert each.neighbours[0].similarity == pytest.approx(1, abs=1e-5)
        for near, at in zip(each.neighbours, order):
            assert near.similarity == pytest.approx(cosine[at], abs=1e-4)
            assert near.id == samples.ids[near.row]
            assert near.class_name == classes[samples.y[near.row]]


def test_what_cannot_be_read_is_listed_and_the_rest_is_done(flock, photos: Path) -> None:
    run = flock.runs["linear"]
    whole = predict(run, photos)
    (photos / "0" / "00.png").write_bytes(b"")
    (photos / "0" / "03.png").write_bytes((photos / "0" / "06.png").read_bytes()[:200])
    (photos / "1" / "99.png").write_text("words")
    (photos / "words.md").write_text("no image by name")
    found = predict(run, photos)
    assert [name for name, _ in found.unreadable] == ["0/00.png", "0/03.png", "1/99.png"]
    assert dict(found.unreadable)["0/00.png"] == "the file is empty"
    assert (found.ok, found.passed_over, found.predicted) == (False, 1, 18)
    before = {each.name: each for each in whole.rows}
    for each in found.rows:
        assert each.label == before[each.name].label
        assert each.probability == pytest.approx(before[each.name].probability, abs=1e-5)


def test_features_that_are_not_finite_are_no_prediction(
    flock, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = Scorer.features

    def broken(self, pixels):
        found = own(self, pixels)
        found[2] = np.nan
        return found

    monkeypatch.setattr(Scorer, "features", broken)
    found = predict(flock.runs["linear"], photos)
    assert found.unreadable == (("0/06.png", "the encoder gave NaN or infinity"),)
    assert found.predicted == 19


def go(run: Run | None, photos: Path, out: Path, **kwargs) -> Predictions:
    return predict(
        run, photos, csv=out, neighbours=1, options=PredictOptions(batch_size=6), **kwargs
    )


def test_a_file_that_was_cut_anywhere_is_gone_on_with(flock, photos: Path, tmp_path: Path) -> None:
    run, out = flock.runs["projection"], tmp_path / "out.csv"
    first = go(run, photos, out)
    whole = out.read_bytes()
    assert whole.count(b"\n") == 21
    with out.open(newline="") as file:
        rows = list(csv.DictReader(file))
    with_rows = predict(run, photos, neighbours=1, options=PredictOptions(batch_size=6)).rows
    assert [row["path"] for row in rows] == [each.name for each in with_rows]
    assert [row["class"] for row in rows] == [each.class_name for each in with_rows]
    for row, each in zip(rows, with_rows):
        assert float(row["probability"]) == pytest.approx(each.probability, abs=1e-6)
        assert float(row["margin"]) == pytest.approx(each.margin, abs=1e-6)
        assert row["neighbour_1"] == each.neighbours[0].id
        assert (row["run"], row["rule"], row["temperature"]) == (run.id, first.rule, "1")
    rng = np.random.default_rng(0)
    ends = [0, 3, whole.index(b"\n"), whole.index(b"\n") + 1, len(whole) - 1, len(whole)]
    for end in [*ends, *rng.integers(0, len(whole), 6).tolist()]:
        out.write_bytes(whole[:end])
        again = go(run, photos, out)
        assert out.read_bytes() == whole, end
        assert again.predicted + again.reused == 20
        assert again.counts == first.counts
        assert again.reused == max(0, whole[:end].count(b"\n") - 1)


def test_what_is_done_is_not_opened_again_and_what_is_new_is_added(
    flock, photos: Path, tmp_path: Path
) -> None:
    run, out = flock.runs["linear"], tmp_path / "out.csv"
    (photos / "2" / "98.png").write_bytes(b"to be mended")
    found = go(run, photos, out)
    assert [name for name, _ in found.unreadable] == ["2/98.png"]
    whole = out.read_bytes()
    for path in photos.rglob("*.png"):  # all spoilt but one, which is mended
        good = path.read_bytes() if path.name == "00.png" else None
        if path.name != "98.png":
            path.write_bytes(b"spoilt")
        if good:
            shutil.copy(flock.images / rows_of(flock, 2)[1][0], photos / "2" / "98.png")
    found = go(run, photos, out)
    assert (found.predicted, found.reused, found.unreadable) == (1, 20, ())
    assert out.read_bytes().startswith(whole)
    assert out.read_bytes().count(b"2/98.png") == 1


def test_a_list_may_name_a_file_twice(flock, photos: Path, tmp_path: Path) -> None:
    run, out = flock.runs["linear"], tmp_path / "out.csv"
    paths = ["0/00.png", "1/01.png", "0/00.png"]
    options = PredictOptions(root=photos)
    predict(run, paths, csv=out, options=options)
    whole = out.read_bytes()
    out.write_bytes(whole[: whole.rindex(b"0/00.png")])
    assert predict(run, paths, csv=out, options=options).predicted == 1
    assert out.read_bytes().count(b"0/00.png") == 2


def test_images_of_one_name_in_two_folders_are_two(
    flock, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, days = flock.runs["linear"], tmp_path / "days"
    for name, rows in (("day1", slice(0, 2)), ("day2", slice(2, 4))):
        (days / name).mkdir(parents=True)
        for number, path in enumerate(rows_of(flock, 2)[1][rows]):
            shutil.copy(flock.images / path, days / name / f"{number}.png")
    monkeypatch.chdir(days)
    one_by_one = [go(run, Path(f"{day}/0.png"), Path("one.csv")) for day in ("day1", "day2")]
    assert [(each.predicted, each.reused) for each in one_by_one] == [(1, 0), (1, 1)]
    assert go(run, Path("./day1/0.png"), Path("one.csv")).predicted == 0

    go(run, Path("day1"), Path("all.csv"))
    whole = Path("all.csv").read_bytes()
    (days / "linked").symlink_to("day1")
    for spelt in (days / "day1", Path("day2/../day1/"), Path("linked")):
        assert go(run, spelt, Path("all.csv")).reused == 2
    Path("day2/list.txt").write_text("0.png\n")
    for other in ("day2", "day2/list.txt", "day2/0.png"):
        with pytest.raises(EmbedcalError, match=r"^expected paths that begin at .*--csv$"):
            go(run, Path(other), Path("all.csv"))
    assert Path("all.csv").read_bytes() == whole


def test_runs_rules_temperatures_and_other_files_never_mix(
    flock, photos: Path, tmp_path: Path
) -> None:
    run, out = flock.runs["linear"], tmp_path / "out.csv"
    go(run, photos, out)
    whole = out.read_bytes()
    other = load_run(shutil.copytree(flock.runs["projection"].folder, tmp_path / "copy"))
    assert other is not None
    ruled = Run(folder=run.folder, record={**run.record, "selection": "last"})
    for kwargs in (
        {"run": other},
        {"run": ruled},
        {"run": run, "temperature": 2.0},
    ):
        with pytest.raises(
            EmbedcalError, match=f"expected predictions of run .*found run {run.id}"
        ):
            go(**kwargs, photos=photos, out=out)
        assert out.read_bytes() == whole
    with pytest.raises(EmbedcalError, match="found a file that begins with 'path,class"):
        predict(run, photos, csv=out, neighbours=2)
    for text in ("path,y\na.png,0\n", "\0\x1b[31m", "path,class,probability,second,marg in"):
        other_file = tmp_path / "other.csv"
        other_file.write_text(text)
        with pytest.raises(EmbedcalError, match="name another file with --csv") as told:
            predict(run, photos, csv=other_file)
        assert "\n" not in str(told.value)
        assert "\x1b" not in str(told.value)
        assert other_file.read_text() == text
    out.write_bytes(whole.replace(b"0/03.png,", b"0/03.png,,"))
    with pytest.raises(EmbedcalError, match=r"expected 12 cells in line \d+ of .*, found 13"):
        go(run, photos, out)
    with (
        FileLock(tmp_path / ".out.csv.lock"),
        pytest.raises(EmbedcalError, match="found another process at it"),
    ):
        go(run, photos, out)
    with pytest.raises(EmbedcalError, match="expected a folder for"):
        go(run, photos, tmp_path / "no" / "out.csv")


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="no folder that takes no file")
def test_a_folder_that_takes_no_file_is_not_another_process() -> None:
    with (
        pytest.raises(EmbedcalError, match=r"expected to write /proc/out\.csv, found: .* --csv$"),
        sheet(Path("/proc/out.csv"), Stamp("r", "last", 1.0, "/"), 0),
    ):
        raise AssertionError


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_a_full_disk_is_one_line(tmp_path: Path) -> None:
    with FileIO("/dev/full", "r+") as file:
        full = Sheet(tmp_path / "out.csv", Stamp("r", "last", 1.0, "/"), 0, file)
        with pytest.raises(NoRoomError, match="make room, and give the same command again"):
            full.put(b"path\n")


def test_names_from_files_are_safe_in_the_file(flock, photos: Path, tmp_path: Path) -> None:
    run, out = flock.runs["linear"], tmp_path / "out.csv"
    picture = (photos / "0" / "00.png").read_bytes()
    odd = tmp_path / "odd"
    odd.mkdir()
    for name in ("=1+1.png", "a\nb,c.png", "tür\u202f1.png", "\u202egnp.png", '"q".png'):
        (odd / name).write_bytes(picture)
    (odd / "s\udce9.png").write_bytes(picture)
    go(run, odd, out)
    with out.open(newline="", encoding="utf-8") as file:
        names = {row["path"] for row in csv.DictReader(file)}
    assert names == {
        "./=1+1.png", "a\\nb,c.png", "tür\u202f1.png", "\\u202egnp.png", '"q".png', "s\\udce9.png"
    }  # fmt: skip
    assert out.read_bytes().count(b"\n") == 7
    whole = out.read_bytes()
    assert go(run, odd, out).reused == 6
    assert out.read_bytes() == whole


def test_a_temperature_moves_probabilities_and_never_classes(flock, photos: Path) -> None:
    run = flock.runs["attnpool"]
    plain = predict(run, photos)
    for temperature in (0.01, 3.0, 500.0):
        other = predict(run, photos, temperature=temperature)
        assert [each.label for each in other.rows] == [each.label for each in plain.rows]
    with pytest.raises(EmbedcalError, match=r"run 'embedcal calibrate .*' first"):
        predict(run, photos, temperature="calibrated")
    made = calibrate(run, draws=2)
    found = predict(run, photos, temperature="calibrated")
    assert (found.temperature, found.calibration) == (made.temperature, made.temperature)
    assert plain.calibration is None
    assert predict(run, photos).temperature == 1
    for before, after in zip(plain.rows, found.rows):
        odds = np.log(before.probability / (1 - before.probability)) / made.temperature
        assert after.probability == pytest.approx(1 / (1 + np.exp(-odds)), abs=1e-6)
    (run.folder / "calibration.json").unlink()


def test_mistakes_are_one_line(flock, photos: Path, tmp_path: Path) -> None:
    run = flock.runs["linear"]
    x = np.random.default_rng(0).normal(size=(12, 6)).astype(np.float32)
    arrays = (x, np.arange(12) % 2, np.repeat([0, 1, 2], 4))
    plain = import_features(*arrays, out=tmp_path / "plain.h5")
    with embedcal.open(plain) as cache:
        imported = embedcal.fit("linear-probe", cache, out=tmp_path)
    moved = Run(
        folder=run.folder,
        record={**run.record, "cache": {**run.record["cache"], "path": str(tmp_path / "gone.h5")}},
    )
    cases = [
        (
            {"run": run, "cache": plain},
            r"expected a run over plain\.h5, found .*: name that with --cache",
        ),
        ({"run": imported}, "expected a cache made from images, found imported features"),
        ({"run": moved}, r"found no .*gone\.h5: name the file with --cache"),
        ({"run": run, "temperature": 0.0}, "expected a temperature above 0, or calibrated, found"),
        ({"run": run, "temperature": float("nan")}, "expected a temperature above 0"),
        ({"run": run, "neighbours": -1}, "expected --neighbours of 0 or more, found -1"),
        ({"run": run, "options": PredictOptions(batch_size=0)}, "expected --batch-size of 1"),
        ({"run": run, "images": tmp_path / "none"}, "found nothing there: check the path"),
    ]
    for kwargs, said in cases:
        with pytest.raises(EmbedcalError, match=said) as told:
            predict(**{"images": photos, **kwargs})
        assert "\n" not in str(told.value)
    assert predict(moved, photos, cache=flock.cache).predicted == 20


def test_other_weights_or_preprocessing_than_the_caches_are_refused(flock, photos: Path) -> None:
    for changed, said in (
        ({"weights_sha256": "0" * 64}, "expected the weights that made"),
        ({"preprocessing": {"size": [32, 32]}}, "expected the preprocessing that"),
    ):
        with embedcal.open(flock.cache) as cache:
            cache.meta = replace(cache.meta, **changed)
            with pytest.raises(EmbedcalError, match=said):
                predict(flock.runs["linear"], photos, cache=cache)


def test_the_head_in_the_folder_is_the_one_that_predicts(flock) -> None:
    """What the record says, the file holds: the parity above is not of two wrong heads."""
    run = flock.runs["attnpool"]
    assert load_head(run.folder / "head.safetensors").level == "tokens"
    assert json.loads((run.folder / "run.json").read_text())["head"] == "attnpool"
