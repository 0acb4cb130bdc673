"""Detection over caches of birds: the place is found, by features and words alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import embedcal
from embedcal.detecting import DetectOptions, annotate, annotation, detect, infer, look_for, slices
from embedcal.detecting.presence import auroc, calibration_rows, distinct
from embedcal.detecting.wording import encoder_of, wording
from embedcal.errors import EmbedcalError

PLACES = ("forest", "field", "land", "mountain", "water", "ocean", "lake", "river", "owl", "duck")


@pytest.fixture
def cache(birds):
    with embedcal.open(birds) as opened:
        yield opened


def first_of_each(found):
    return [found.of_class(label)[0].attribute for label in range(2)]


def place_is_found(path):
    with embedcal.open(path) as cache:
        for by in ("delta", "mi"):
            found = detect(cache, split="test", by=by)
            assert set(first_of_each(found)) <= {"land", "water"}
            if by == "delta":
                assert first_of_each(found) == ["land", "water"]
                land, water = found.of_class(0)[0], found.of_class(1)[0]
                assert (land.confused, water.confused) == (1, 0)
                assert land.interval[0] > 0.2
                assert water.interval[0] > 0.2
                assert max(land.p_adjusted, water.p_adjusted) < 1e-4
                assert found.leading(1) == tuple(sorted((land, water), key=lambda e: -e.delta))
        agreed = {one.name: one for one in found.agreements}
        assert set(agreed) == {"land", "water"}
        for one in agreed.values():
            assert (one.attribute, one.n) == ("place", len(found.y))
            assert one.agreement > 0.88
            assert one.auroc > 0.97


def test_the_place_comes_first_for_both_classes(birds):
    place_is_found(birds)


@pytest.mark.slow
def test_the_place_comes_first_in_another_world():
    read = embedcal.ReadOptions(rows=600, seed=1234)
    place_is_found(embedcal.cache("birds", backbone="tiny", read=read).path)


def test_effects_are_those_of_the_presence_and_the_answers(cache):
    found = detect(cache, split="test", vocabulary=PLACES)
    water = found.presence.of("water") == 1
    of = found.y == 1
    effect = next(e for e in found.of_class(1) if e.attribute == "water")
    right = found.predicted == found.y
    assert effect.delta == pytest.approx(right[of & water].mean() - right[of & ~water].mean())
    assert (found.split, found.of, found.classes) == (
        "test",
        "zero-shot",
        ("landbird", "waterbird"),
    )
    assert np.array_equal(found.presence.rows, cache.split("test").rows)


def test_a_second_search_encodes_nothing_and_new_names_only_are_encoded(
    birds, tmp_path, monkeypatch
):
    copy = tmp_path / "birds.h5"
    copy.write_bytes(birds.read_bytes())
    from embedcal.encoders import load

    said: list[str] = []
    original = load.load_encoder

    def listening(*args, **kwargs):
        encoder = original(*args, **kwargs)
        text = encoder.text
        encoder.text = lambda prompts: (said.extend(prompts), text(prompts))[1]
        return encoder

    monkeypatch.setattr(load, "load_encoder", listening)
    options = DetectOptions(templates=("a {}",))
    with embedcal.open(copy) as cache:
        first = detect(cache, vocabulary=PLACES, options=options, split="test")
        assert said == [f"a {name}" for name in PLACES]
        again = detect(cache, vocabulary=PLACES, options=options, split="test")
        assert len(said) == len(PLACES)
        assert again.effects == first.effects
        detect(cache, vocabulary=[*PLACES, "sparrow"], options=options, split="test")
        assert said[len(PLACES) :] == ["a sparrow"]
        (stored,) = (tmp_path / "birds.beside").glob("text-*.safetensors")
        stored.write_bytes(stored.read_bytes()[:50])  # torn: made again
        assert wording(cache, ["water"], options).shape == (1, 128)
    assert said[-1] == "a water"


def test_words_that_cannot_be_kept_are_used_nevertheless(birds, tmp_path, caplog):
    copy = tmp_path / "birds.h5"
    copy.write_bytes(birds.read_bytes())
    copy.with_suffix(".beside").write_text("a file where the folder would be")
    with embedcal.open(copy) as cache:
        assert wording(cache, ["water"], DetectOptions()).shape == (1, 128)
    assert "not kept for the next time" in caplog.text


def test_thresholds_see_no_test_image_and_depend_on_no_other_name(cache):
    assert set(cache.samples.split[calibration_rows(cache)]) == {0, 1}
    rows = cache.encoded_rows("test")
    many, one = look_for(cache, rows, PLACES), look_for(cache, rows, ["water"])
    assert np.array_equal(many.of("water"), one.of("water"))
    assert np.array_equal(infer(cache, "water")[rows], one.of("water"))


def test_names_without_a_meaning_to_the_encoder_are_left_out(cache):
    found = look_for(cache, cache.encoded_rows("val"), ["water", "xylophone", "painting"])
    assert found.names == ("water",)
    assert found.left_out == ("xylophone", "painting")
    assert found.separation.shape == (1,)
    assert found.separation[0] > 3
    with pytest.raises(EmbedcalError, match="names that tiny has words for"):
        infer(cache, "xylophone")
    features = np.array([[1.0, 0], [1, 0], [0, 1], [0.6, 0.8]])
    assert distinct(features, np.array([0.6, 0.8])).tolist() == [False, False, True, False]


def test_class_names_are_no_candidates(cache):
    found = detect(cache, vocabulary=["Waterbird", "water", "LANDBIRD"], split="test")
    assert found.presence.names == ("water",)
    with pytest.raises(EmbedcalError, match="names beside those of the classes"):
        detect(cache, vocabulary=["landbird"])


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_a_run_is_looked_at_on_every_split(cache, split, tmp_path):
    run = embedcal.fit("erm", cache, seed=0, out=tmp_path)
    found = detect(cache, run, vocabulary=PLACES, split=split, options=DetectOptions(min_detect=3))
    assert found.of == run.id
    metric = {"val": run.val, "test": run.test}.get(split, {"mean": None})["mean"]
    right = float((found.predicted == found.y).mean())
    assert metric is None or right == pytest.approx(metric)
    assert split != "train" or right > 0.9
    if split == "test":
        assert first_of_each(found)[1] == "water"


def test_a_run_over_another_cache_is_refused(cache, tmp_path):
    run = embedcal.fit("zeroshot", cache, out=tmp_path)
    other = type(run)(
        folder=run.folder,
        record={**run.record, "cache": {**run.record["cache"], "fingerprint": "0"}},
    )
    with pytest.raises(EmbedcalError, match="expected a run over"):
        detect(cache, other)
    assert detect(cache, run, vocabulary=PLACES).effects == detect(cache, vocabulary=PLACES).effects


def test_a_file_of_attributes_is_a_detector(cache, tmp_path):
    place = cache.samples.attributes["place"]
    lines = [f"{id},{a},{1 - a}" for id, a in zip(cache.samples.ids, place)]
    file = tmp_path / "seen.csv"
    file.write_text("\n".join(["id,water,land", *lines]))
    found = detect(cache, detector=file, split="test")
    assert first_of_each(found) == ["land", "water"]
    assert {one.agreement for one in found.agreements} == {1.0}
    assert detect(cache, detector=file, vocabulary=["water"], split="test").presence.names == (
        "water",
    )
    with pytest.raises(EmbedcalError, match="leave the vocabulary out"):
        detect(cache, detector=file, vocabulary=["sand"])


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"detector": "owl"}, "a detector among clip, owlvit or a file .* take clip"),
        ({"by": "size"}, "a ranking among delta, mi, found 'size': take delta"),
        ({"split": "all"}, "a split among train, val, test, found 'all': take val"),
        ({"detector": "owlvit"}, "the folder of the images for owlvit"),
    ],
)
def test_what_cannot_be_is_told_in_one_line(cache, asked, message):
    with pytest.raises(EmbedcalError, match=message) as told:
        detect(cache, **asked)
    assert "\n" not in str(told.value)


def test_an_inferred_attribute_is_judged_and_read_again(birds, tmp_path):
    copy = tmp_path / "birds.h5"
    copy.write_bytes(birds.read_bytes())
    with embedcal.open(copy) as cache:
        labels = infer(cache, "water")
        annotate(cache, "water", "spurious", labels, source="clip")
        known = annotation(cache, "water")
        assert np.array_equal(known.labels, labels)
        assert (known.labels == cache.samples.attributes["place"]).mean() > 0.9


def test_slices_gather_birds_in_the_other_place_and_are_named_after_it(cache):
    found = slices(cache, vocabulary=PLACES, split="test", components=12)
    rows = np.concatenate([one.rows for one in found.slices])
    assert sorted(rows) == sorted(cache.split("test").rows)
    place = cache.samples.attributes["place"]
    worst = found.slices[0]
    assert worst.accuracy < worst.class_accuracy - 0.3
    assert worst.confused == 1 - worst.label
    assert (place[worst.rows] != worst.label).mean() > 0.9
    water, land = {"water", "ocean", "lake", "river"}, {"land", "forest", "field", "mountain"}
    assert worst.names[0][0] in (land if worst.label else water)
    assert [one.excess for one in found.slices] == sorted(
        (s.excess for s in found.slices), reverse=True
    )
    again = slices(cache, vocabulary=PLACES, split="test", components=12)
    assert all(np.array_equal(a.rows, b.rows) for a, b in zip(found.slices, again.slices))


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"weights_sha256": "0" * 64}, "expected the weights that made"),
        ({"backbone": "mine.py:Mine"}, "expected --backbone for"),
        ({"backbone": "RN50", "weights": "lost.pt"}, "name it with --backbone and --pretrained"),
    ],
)
def test_the_encoder_is_that_of_the_cache_or_none(cache, facts, message):
    cache.meta = replace(cache.meta, **facts)
    with pytest.raises(EmbedcalError, match=message) as told:
        encoder_of(cache, DetectOptions())
    assert "\n" not in str(told.value)


def test_auroc_counts_pairs():
    rng = np.random.default_rng(0)
    scores, truth = rng.integers(5, size=40) / 4, rng.random(40) < 0.4
    pairs = [(a > b) + (a == b) / 2 for a in scores[truth] for b in scores[~truth]]
    assert auroc(scores, truth) == pytest.approx(np.mean(pairs))
    assert auroc(scores, np.ones(40, bool)) is None
