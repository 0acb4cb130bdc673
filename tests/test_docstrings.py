"""Every public name says what it is and what it raises, and shows it: its example is run here."""

from __future__ import annotations

import contextlib
import doctest
import inspect
import os
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import embedcal
from embedcal import estimators

FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
# The packages that can be called, and what they then do.
CALLED = {"cache": "embedcal.caching:cache", "evaluate": "embedcal.evaluate:evaluate_labels"}
PUBLIC = sorted({*embedcal.__all__, "evaluate"} - {"__version__"})
SLOW = {"report", "reproduce", "study"}  # their examples draw, cache and fit for seconds
ESTIMATORS = [f"estimators.{name}" for name in estimators.__all__]


def value_of(name: str) -> Any:
    """What a public name stands for, with a docstring of its own."""
    if name.startswith("estimators."):
        return getattr(estimators, name.partition(".")[2])
    if name in CALLED:
        home, _, there = CALLED[name].partition(":")
        return getattr(__import__(home, fromlist=[there]), there)
    return getattr(embedcal, name)


@pytest.fixture(scope="session")
def world(birds: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The home that the birds were cached in, and a folder with the cache by the name of docs."""
    folder = tmp_path_factory.mktemp("examples")
    (folder / "birds.h5").write_bytes(birds.read_bytes())
    return birds.parents[1], folder


@contextlib.contextmanager
def within(folder: Path) -> Iterator[None]:
    """In a folder, with what commands say on standard error put aside."""
    with (
        contextlib.chdir(folder),
        (folder / "said").open("w") as said,
        contextlib.redirect_stderr(said),
    ):
        yield


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.slow] if name in SLOW else [])
        for name in [*PUBLIC, *ESTIMATORS]
    ],
)
def test_the_example_runs(
    name: str, world: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, folder = world
    monkeypatch.setenv("EMBEDCAL_HOME", str(home))
    os.link(folder / "birds.h5", tmp_path / "birds.h5")
    text = inspect.getdoc(value_of(name)) or ""
    example = doctest.DocTestParser().get_doctest(text, {}, f"embedcal.{name}", None, 0)
    assert example.examples, "there is no example in the docstring"
    assert not any(doctest.SKIP in each.options for each in example.examples)
    said: list[str] = []
    with within(tmp_path):
        doctest.DocTestRunner(optionflags=FLAGS).run(example, out=said.append)
    assert not said, "".join(said)


@pytest.mark.parametrize("name", [*PUBLIC, *ESTIMATORS])
def test_a_function_says_what_it_raises(name: str) -> None:
    value = value_of(name)
    assert not isinstance(value, ModuleType)
    if inspect.isfunction(value):
        assert "EmbedcalError" in (inspect.getdoc(value) or "")


@pytest.mark.parametrize("name", [*PUBLIC, *ESTIMATORS])
def test_the_example_is_the_end_of_the_docstring(name: str) -> None:
    """So that the page of the reference can set it apart."""
    text = inspect.getdoc(value_of(name)) or ""
    before, found, example = text.partition("\nExample:\n")
    assert found
    assert ">>>" not in before
    assert all(line.startswith("    ") or not line for line in example.splitlines())


def test_every_public_method_has_a_docstring() -> None:
    missing = [
        f"{name}.{key}"
        for name in [*PUBLIC, *ESTIMATORS]
        if inspect.isclass(cls := value_of(name))
        for key, member in vars(cls).items()
        if not key.startswith("_")
        if inspect.isfunction(member) or isinstance(member, property | cached_property)
        if not inspect.getdoc(member)
    ]
    assert not missing
