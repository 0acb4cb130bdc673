"""Random and Optuna's search: reproducible, extended by a larger budget, whole if small."""

from __future__ import annotations

import math

import pytest

from embedcal.grids import Range, grid, parse
from embedcal.grids.search import search_of
from embedcal.types import EmbedcalError

SPACES = [parse("erm:lr=1e-5..1e-1:epochs=2..9"), parse("dfr:c=1,0.1,0.01:refits=1,2,3")]


def drawn(spaces, budget, seed, name="random", score=lambda setting: 0.5):
    search = search_of(name, spaces, budget, seed)
    found = []
    for settings in search.rounds():
        found += settings
        search.tell([score(setting) for setting in settings])
    return found


def test_equal_seeds_draw_equal_settings_and_others_do_not() -> None:
    assert drawn(SPACES, 6, 1) == drawn(SPACES, 6, 1)
    assert drawn(SPACES, 6, 1) != drawn(SPACES, 6, 2)


def test_a_larger_budget_draws_the_same_ones_first() -> None:
    few, many = drawn(SPACES[:1], 5, 0), drawn(SPACES[:1], 12, 0)
    assert many[:5] == few
    for method in ("erm", "dfr"):
        less = [s for s in drawn(SPACES, 3, 0) if s.method == method]
        more = [s for s in drawn(SPACES, 7, 0) if s.method == method]
        assert more[: len(less)] == less


def test_a_space_that_is_smaller_than_the_budget_is_tried_whole_once() -> None:
    found = drawn(SPACES[1:], 100, 0)
    assert len(found) == 9
    assert sorted(map(str, found)) == sorted(map(str, SPACES[1].product()))
    whole = drawn([parse("erm:epochs=2..4")], 50, 0)
    assert sorted(s.options["epochs"] for s in whole) == [2, 3, 4]


def test_draws_fill_a_wide_range_evenly_by_its_logarithm() -> None:
    rates = [s.options["lr"] for s in drawn(SPACES[:1], 400, 0)]
    assert all(1e-5 <= rate <= 1e-1 for rate in rates)
    for decade in range(-5, -1):  # a quarter of 400 each; the spread is 8.7
        assert 60 < sum(decade <= math.log10(rate) < decade + 1 for rate in rates) < 140


@pytest.mark.parametrize(
    ("name", "budget", "message"),
    [
        ("bayes", 3, "random, optuna"),
        ("optuna", None, "--budget"),
        ("random", 0, "--budget of 1 or more"),
    ],
)
def test_a_mistake_is_one_line(name, budget, message) -> None:
    with pytest.raises(EmbedcalError, match=message):
        search_of(name, SPACES, budget, 0)


def test_a_range_without_a_budget_is_one_line(cache, tmp_path) -> None:
    with pytest.raises(EmbedcalError, match=r"lr of erm, found the range 1e-05..0.1.*--budget"):
        grid(["erm:lr=1e-5..1e-1"], cache, out=tmp_path)


def score(setting) -> float:
    """Best at lr = 1e-3."""
    return -abs(math.log10(setting.options.get("lr", 1.0)) + 3)


def test_optuna_is_reproducible_and_draws_from_the_space() -> None:
    once, again = (drawn(SPACES, 20, 5, "optuna", score) for _ in range(2))
    assert once == again
    assert once != drawn(SPACES, 20, 6, "optuna", score)
    assert len(once) == 40
    allowed = [*SPACES[1].product()]
    for setting in once:
        for name, axis in SPACES[0].axes.items() if setting.method == "erm" else ():
            assert isinstance(axis, Range)
            assert axis.low <= setting.options[name] <= axis.high
        assert setting.method == "erm" or setting in allowed
    assert all(isinstance(s.options["epochs"], int) for s in once if s.method == "erm")


def test_optuna_learns_from_what_it_is_told() -> None:
    space = [parse("erm:lr=1e-9..1e3")]
    late = [score(s) for s in drawn(space, 64, 0, "optuna", score)[32:]]
    chance = [score(s) for s in drawn(space, 64, 0, "random")[32:]]
    assert sum(late) / 32 > sum(chance) / 32 + 1


def test_optuna_outlives_failed_runs() -> None:
    assert len(drawn(SPACES, 20, 0, "optuna", lambda _: None)) == 40


def test_an_interrupted_optuna_search_goes_on_to_the_same_results(cache, tmp_path) -> None:
    class Stopped(Exception): ...

    specs = ["dfr:c=1,0.1,0.01:refits=1..30"]
    command = {"seeds": 1, "engine": "sequential", "budget": 12, "search": "optuna"}
    calm = grid(specs, cache, out=tmp_path / "calm", **command)
    with pytest.MonkeyPatch.context() as patch:
        from embedcal.grids import running

        scores, tell = [], running._Course.score

        def stop(*args):
            scores.append(tell(*args))
            if len(scores) == 3:
                raise Stopped
            return scores[-1]

        patch.setattr(running._Course, "score", stop)
        with pytest.raises(Stopped):
            grid(specs, cache, out=tmp_path / "stopped", **command)
    again = grid(specs, cache, out=tmp_path / "stopped", **command)
    assert [r["id"] for r in again.records] == [r["id"] for r in calm.records]
    assert again.reused > 0
    assert again.best == calm.best


def test_the_plan_of_a_search_repeats_nothing(cache, tmp_path) -> None:
    specs = ["erm:lr=1e-4..1e-1:epochs=1,2"]
    command = {"seeds": 1, "engine": "sequential", "out": tmp_path}
    first = grid(specs, cache, budget=3, **command)
    more = grid(specs, cache, budget=5, **command)
    assert (len(first.records), first.reused) == (3, 0)
    assert (len(more.records), more.reused) == (5, 3)
