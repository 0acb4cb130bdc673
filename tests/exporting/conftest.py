"""Helpers beside the tests can be imported by them; one small cache with two runs."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from exported_for_tests import Small, small_world


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Small]:
    """Thirty-six pictures through the tiny CLIP, cut to their middle, under three heads."""
    folder = tmp_path_factory.mktemp("small world")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EMBEDCAL_HOME", str(folder / "home"))
        with small_world(folder) as found:
            yield found
