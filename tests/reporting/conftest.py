"""A real page, and the runs behind it: birds, four methods, everything that a report can show."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent))  # made_runs
sys.path.insert(0, str(Path(__file__).parent))  # pages_for_tests

from embedcal.cache import open_cache
from embedcal.grids import grid, parse
from embedcal.reporting import ReportOptions
from embedcal.reporting.content import Page
from embedcal.reporting.gathering import gather


@pytest.fixture(scope="session")
def home(birds: Path) -> Iterator[Path]:
    """The home in which the birds were made, so that their images are found."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EMBEDCAL_HOME", str(birds.parent.parent))
        yield birds.parent.parent


@pytest.fixture(scope="session")
def runs(birds: Path, home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "grid"
    specs = ["erm:lr=1e-3,1e-2:epochs=3", "group-dro:epochs=3", "zeroshot"]
    with open_cache(birds) as cache:
        grid(list(map(parse, specs)), cache, seeds=2, out=folder, engine="sequential")
    return folder


@pytest.fixture(scope="session")
def page(runs: Path, home: Path) -> Page:
    """With images, explanations, a map, and attributes to be judged."""
    return gather(runs, ReportOptions(detect=True, device="cpu"))


@pytest.fixture
def at_home(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """For a test that looks for images itself: every test has a home of its own otherwise."""
    monkeypatch.setenv("EMBEDCAL_HOME", str(home))
    return home
