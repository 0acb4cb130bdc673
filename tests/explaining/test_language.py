"""Weights of words: closed forms, derivatives, invariances, and birds before two backgrounds."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

import embedcal
from embedcal.detecting import word_directions
from embedcal.errors import EmbedcalError
from embedcal.explaining import language as module
from embedcal.explaining.language import correlations, language, margins
from embedcal.heads import MlpHead


@pytest.fixture
def cache(birds):
    with embedcal.open(birds) as opened:
        yield opened


@pytest.fixture
def words(cache):
    return word_directions(cache, ["lake", "forest"])


def even(n):
    return np.full((1, n), 1 / n)


def slow_correlation(d, s, weights):
    """Weighted, from the definition, with loops."""
    total = sum(weights)
    d_mean = sum(w * a for w, a in zip(weights, d)) / total
    s_mean = sum(w * b for w, b in zip(weights, s)) / total
    over = sum(w * (a - d_mean) * (b - s_mean) for w, a, b in zip(weights, d, s))
    d_square = sum(w * (a - d_mean) ** 2 for w, a in zip(weights, d))
    s_square = sum(w * (b - s_mean) ** 2 for w, b in zip(weights, s))
    return over / (d_square * s_square) ** 0.5


def test_correlations_are_those_of_the_definition():
    rng = np.random.default_rng(0)
    margin = rng.normal(size=30) + 1e4
    scores = rng.normal(size=(30, 3)) * [1, 1e-3, 1] + 0.2 * margin[:, None]
    counts = rng.multinomial(30, np.full(30, 1 / 30), 4)
    found = correlations(margin, scores, counts / 30)
    for b in range(4):
        for j in range(3):
            wanted = slow_correlation(margin, scores[:, j], counts[b])
            assert found[b, j] == pytest.approx(wanted, abs=1e-6)


def test_what_does_not_vary_has_no_weight():
    rng = np.random.default_rng(0)
    scores = np.stack([np.full(9, 0.3), rng.normal(size=9)], axis=1)
    assert correlations(rng.normal(size=9), scores, even(9))[0, 0] == 0
    rounding = 7.1 + 1e-7 * rng.normal(size=9)
    assert correlations(rounding, scores, even(9)).tolist() == [[0, 0]]
    assert correlations(scores[:, 1], scores, even(9))[0, 1] == pytest.approx(1)


def test_the_margin_is_to_the_strongest_rival():
    logits = np.array([[3.0, 1.0, 2.5], [0.0, 4.0, -1.0]])
    assert margins(logits, 0).tolist() == [0.5, -4.0]
    assert margins(logits, 2).tolist() == [-0.5, -5.0]


def test_a_linear_margin_has_the_closed_form():
    rng = np.random.default_rng(1)
    x = rng.normal(size=(200, 6)) @ rng.normal(size=(6, 6))
    u = x / np.linalg.norm(x, axis=1, keepdims=True)
    weight, words = rng.normal(size=(2, 6)), rng.normal(size=(4, 6))
    found = correlations(margins(u @ weight.T + [0.3, -2], 1), u @ words.T, even(200))[0]
    r, spread = weight[1] - weight[0], np.cov(u.T)
    for j, v in enumerate(words):
        wanted = r @ spread @ v / np.sqrt((r @ spread @ r) * (v @ spread @ v))
        assert found[j] == pytest.approx(wanted)


def test_any_head_has_its_mean_derivative_where_images_are_normal():
    """By finite differences along S v, of a head with a hidden layer (Stein's lemma)."""
    rng = np.random.default_rng(2)
    n, d = 100_000, 5
    factor = rng.normal(size=(d, d)) / 2
    x = rng.normal(size=(n, d)) @ factor.T
    spread = factor @ factor.T
    head = MlpHead.start(d, 2, torch.Generator().manual_seed(0), hidden=16, normalise=False)

    def margin(points):
        with torch.no_grad():
            return margins(head(torch.tensor(points, dtype=torch.float32)).double().numpy(), 1)

    words = rng.normal(size=(3, d))
    found = correlations(margin(x), x @ words.T, even(n))[0]
    for j, v in enumerate(words):
        step = spread @ v / np.sqrt(v @ spread @ v)
        rate = (margin(x + 0.01 * step) - margin(x - 0.01 * step)).mean() / 0.02
        assert found[j] == pytest.approx(rate / margin(x).std(), abs=0.012)
    assert abs(found).max() > 0.15


def test_words_are_directions_from_the_mean_class_prompt(cache, words):
    assert list(words) == ["landbird", "waterbird", "land", "water", "lake", "forest"]
    bank = cache.text("class").embedding.astype(float)
    bank /= np.linalg.norm(bank, axis=-1, keepdims=True)
    mean = bank.mean(1)
    mean /= np.linalg.norm(mean, axis=-1, keepdims=True)
    assert words["waterbird"] == pytest.approx((mean[1] - mean[0]) / 2, abs=1e-6)
    again = word_directions(cache, ["Water", "lake"])  # the cache's own prompt stands
    assert list(again) == ["landbird", "waterbird", "land", "water", "lake"]
    assert again["water"] == pytest.approx(words["water"])


def test_zero_shot_has_not_moved_and_a_scale_moves_nothing(cache, words, tmp_path, monkeypatch):
    run = embedcal.fit("zeroshot", cache, out=tmp_path)
    found = language(run, cache, words)
    assert all(each.change == pytest.approx(0, abs=1e-5) for each in found.shifts)
    own = found.at("waterbird", 1)
    assert own.zero_shot == pytest.approx(1, abs=1e-5)  # its own direction, and a margin of two
    assert found.at("landbird", 1).zero_shot == pytest.approx(-1, abs=1e-5)
    probe = embedcal.fit("linear-probe", cache, seed=0, out=tmp_path)
    before = language(probe, cache, words)
    head = probe.head()
    with torch.no_grad():
        head.weight *= 7
        head.bias *= 7
        head.bias += 3
    monkeypatch.setattr(type(probe), "head", lambda self: head)
    after = language(probe, cache, words)
    for a, b in zip(before.shifts, after.shifts):
        assert a.head == pytest.approx(b.head, abs=1e-5)
        assert a.interval == pytest.approx(b.interval, abs=1e-5)


def test_repair_moves_away_from_the_place_and_a_probe_does_not(cache, words, tmp_path):
    """Also: the cosine of weights and word says that the probe does; that is why it is not used."""
    dfr = language(embedcal.fit("dfr", cache, seed=0, out=tmp_path), cache, words)
    run = embedcal.fit("linear-probe", cache, seed=0, out=tmp_path)
    probe = language(run, cache, words)
    for label, own, other in ((0, "land", "water"), (1, "water", "land")):
        assert dfr.at(own, label).zero_shot > 0.9
        assert dfr.at(own, label).interval[1] < -0.1
        assert dfr.at(other, label).interval[0] > 0.1
        assert probe.at(own, label).change > -0.05
    weight = run.head().weight.detach().numpy()
    r, v = weight[1] - weight[0], words["water"]
    zero = module.head_of(None, cache).weight.detach().numpy()
    cosine = [w @ v / np.linalg.norm(w) / np.linalg.norm(v) for w in (r, zero[1] - zero[0])]
    assert cosine[0] < cosine[1] - 0.2


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1000, 1001, 1002])
def test_methods_that_know_the_groups_move_away_in_other_worlds(seed, tmp_path):
    read = embedcal.ReadOptions(rows=600, seed=seed)
    with embedcal.open(embedcal.cache("birds", backbone="tiny", read=read).path) as cache:
        words = word_directions(cache, ["lake"])
        found = {
            method: language(embedcal.fit(method, cache, seed=seed, out=tmp_path), cache, words)
            for method in ("group-dro", "dfr", "linear-probe")
        }
    for label, own in ((0, "land"), (1, "water")):
        for method in ("group-dro", "dfr"):
            assert found[method].at(own, label).interval[1] < -0.1
        assert abs(found["linear-probe"].at(own, label).change) < 0.05


def test_intervals_are_reproducible_and_hold_the_change(cache, words, tmp_path, monkeypatch):
    run = embedcal.fit("erm", cache, seed=0, out=tmp_path, epochs=2)
    found, again = language(run, cache, words), language(run, cache, words)
    assert found == again
    assert language(run, cache, words, seed=1) != found
    moved = [each for each in found.shifts if abs(each.change) > 0.01]
    assert moved
    assert all(each.interval[0] < each.change < each.interval[1] for each in moved)
    monkeypatch.setattr(module, "MOST", 15)
    small = language(run, cache, words, classes=[1])
    assert {each.images for each in small.shifts} == {15}
    assert {each.label for each in small.shifts} == {1}
    widths = [
        [each.interval[1] - each.interval[0] for each in of.of_class(1)] for of in (small, found)
    ]
    assert np.mean(widths[0]) > np.mean(widths[1])


def test_what_cannot_be_is_told_in_one_line(cache, words, tmp_path):
    run = embedcal.fit("zeroshot", cache, out=tmp_path)
    other = replace(run, record={**run.record, "cache": {**run.record["cache"], "fingerprint": ""}})
    found = language(run, cache, words)
    for call, message in (
        (lambda: language(other, cache, words), "expected a run over"),
        (lambda: language(run, cache, words, split="all"), "a split among"),
        (lambda: language(run, cache, words, classes=[2]), "expected classes from 0 to 1"),
        (lambda: language(run, cache, {}), "two classes and a word"),
        (lambda: found.at("sea", 1), "'sea' and 1"),
    ):
        with pytest.raises(EmbedcalError, match=message) as told:
            call()
        assert "\n" not in str(told.value)


def test_a_class_of_few_images_is_left_out(cache, words, tmp_path, monkeypatch):
    run = embedcal.fit("zeroshot", cache, out=tmp_path)
    sizes = np.bincount(cache.split("test").y)
    monkeypatch.setattr(module, "LEAST", int(sizes.min()) + 1)
    kept = language(run, cache, words)
    assert {each.label for each in kept.shifts} == {int(sizes.argmax())}
    monkeypatch.setattr(module, "LEAST", int(sizes.max()) + 1)
    with pytest.raises(EmbedcalError, match="images or more of a class in test"):
        language(run, cache, words)
