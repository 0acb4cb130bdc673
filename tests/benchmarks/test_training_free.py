"""The benchmark of methods that train nothing: whom it times, and what it prints; times are few."""

from __future__ import annotations

import importlib
import io
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from rich.console import Console

from embedcal.methods import find, labels_of, names
from embedcal.methods.base import Solver

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
ROWS = (60, 30, 40)


@pytest.fixture(scope="module")
def benchmark() -> Iterator[Any]:
    """``benchmarks/training_free.py``, with the modules beside it that it imports."""
    before = set(sys.modules)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        module: ModuleType = importlib.import_module("training_free")
        yield module
    for name in ("training_free", "measure", "synthetic"):
        if name not in before:
            sys.modules.pop(name, None)


def test_every_method_that_trains_nothing_is_timed(benchmark: Any) -> None:
    free = set()
    for name in names():
        cls = find(name)
        labels = [need for need in labels_of(cls()) if need.endswith((".y", ".g", ".a"))]
        if issubclass(cls, Solver) and not labels:
            free.add(name)
    assert set(benchmark.METHODS) == free
    assert benchmark.TRAINED not in free


def test_it_times_whole_runs_and_prints_who_is_under_the_bound(benchmark: Any) -> None:
    methods = (*benchmark.METHODS, benchmark.TRAINED)
    found = benchmark.measured(rows=ROWS, templates=3, repetitions=2, methods=methods)
    assert [each.method for each in found] == list(methods)
    for each in found:
        assert 0 < each.answer.low <= each.answer.median <= each.answer.high
        assert 0 < each.fit.low <= each.fit.median <= each.fit.high
    out = io.StringIO()
    Console(file=out, width=100, color_system=None).print(benchmark.table(found, 130, 3))
    lines = out.getvalue().splitlines()
    for each in found:
        (line,) = [line for line in lines if line.startswith(f"│ {each.method} ")]
        assert f"{each.fit.median:.3f} ({each.fit.low:.3f}-{each.fit.high:.3f})" in line
        assert line.endswith("- │") == (each.method == benchmark.TRAINED)


def test_the_bound_is_one_second_of_a_run(benchmark: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    spread = importlib.import_module("measure").Spread
    slow, fast = spread(median=1.5, low=1.0, high=2.0), spread(median=0.5, low=0.2, high=1.2)
    given = [
        benchmark.Times(method="sage", fit=slow, answer=fast),
        benchmark.Times(method="zeroshot", fit=fast, answer=fast),
        benchmark.Times(method=benchmark.TRAINED, fit=slow, answer=slow),
    ]
    monkeypatch.setattr(benchmark, "measured", lambda **_: given)
    assert [row.reached for row in benchmark.measure(quick=True)] == [False, True, None]
    out = io.StringIO()
    Console(file=out, width=100, color_system=None).print(benchmark.table(given, 130, 3))
    words = [line.split("│")[-2].strip() for line in out.getvalue().splitlines() if "(" in line]
    assert words == ["no", "in the median", "-"]
