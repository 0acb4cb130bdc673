"""The measuring code itself, with a clock that is told what to say; nothing here times anything."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def measure() -> Iterator[ModuleType]:
    """``benchmarks/measure.py``, which belongs to no package."""
    spec = importlib.util.spec_from_file_location("measure_for_tests", BENCHMARKS / "measure.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


def ticking(seconds: list[float]) -> Callable[[], float]:
    """A clock under which the calls between its readings take these seconds, one after another."""
    readings = []
    for length in seconds:
        readings += [100.0, 100.0 + length]
    return iter(readings).__next__


def row(measure: ModuleType, median: float, **given: object) -> object:
    reading = measure.Reading(what="x", value=1.0, unit="s")
    ratio = measure.Spread(median=median, low=median, high=median)
    return measure.Row(name="x", ours=reading, baseline=reading, ratio=ratio, **given)


def test_tasks_take_turns(measure: ModuleType) -> None:
    calls: list[str] = []
    tasks = {name: (lambda name=name: calls.append(name)) for name in ("a", "b", "c")}
    found = measure.interleaved(tasks, repetitions=3, warmup=1)
    assert calls == ["a", "b", "c"] * 4
    assert {name: len(values) for name, values in found.items()} == {"a": 3, "b": 3, "c": 3}


def test_warmup_is_run_and_forgotten(measure: ModuleType) -> None:
    clock = ticking([50.0, 60.0, 1.0, 2.0, 3.0, 4.0])
    tasks = {"a": lambda: None, "b": lambda: None}
    found = measure.interleaved(tasks, repetitions=2, warmup=1, clock=clock)
    assert found == {"a": (1.0, 3.0), "b": (2.0, 4.0)}


def test_no_warmup(measure: ModuleType) -> None:
    clock = ticking([5.0])
    assert measure.interleaved({"a": lambda: None}, repetitions=1, warmup=0, clock=clock) == {
        "a": (5.0,)
    }


def test_quotients_are_taken_within_a_turn(measure: ModuleType) -> None:
    # The machine is ten times slower in the second turn; the quotient must not notice.
    found = measure.quotients([4.0, 40.0, 6.0], [2.0, 20.0, 2.0])
    assert (found.median, found.low, found.high) == (2.0, 2.0, 3.0)


def test_quotients_refuse_another_number_of_turns(measure: ModuleType) -> None:
    with pytest.raises(ValueError, match="shorter"):
        measure.quotients([1.0, 2.0], [1.0])


def test_spread(measure: ModuleType) -> None:
    found = measure.spread([3.0, 1.0, 2.0, 10.0])
    assert (found.median, found.low, found.high) == (2.5, 1.0, 10.0)


@pytest.mark.parametrize(
    ("median", "given", "reached"),
    [
        (2.0, {"target": 1.8}, True),
        (1.8, {"target": 1.8}, True),
        (1.7, {"target": 1.8}, False),
        (11.0, {"target": 12.0, "at_most": True}, True),
        (13.0, {"target": 12.0, "at_most": True}, False),
        (1.0, {}, None),
    ],
)
def test_reached(
    measure: ModuleType, median: float, given: dict[str, object], reached: bool | None
) -> None:
    assert row(measure, median, **given).reached is reached


def test_record_is_json(measure: ModuleType) -> None:
    found = json.loads(json.dumps(row(measure, 2.0, target=1.8, facts={"bound": 0.5}).record))
    assert found["reached"] is True
    assert found["ratio"] == {"median": 2.0, "low": 2.0, "high": 2.0}
    assert found["facts"] == {"bound": 0.5}


def test_values_are_frozen(measure: ModuleType) -> None:
    with pytest.raises(AttributeError):
        row(measure, 1.0).name = "y"
