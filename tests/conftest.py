"""What every test gets: its own home, fixed seeds, no network, shapes checked."""

from __future__ import annotations

import os
import random
import signal
from pathlib import Path

# What a shell runs in its background ignores Ctrl-C, and so would every child of a test.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

os.environ.setdefault("HF_HUB_OFFLINE", "1")
# One thread a worker: two that wait for each other are slower than one, and far slower when busy.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
from jaxtyping import install_import_hook

# Every annotated shape is checked in the test run, and only there.
install_import_hook(["embedcal.losses", "embedcal.evaluate"], "beartype.beartype").__enter__()


@pytest.fixture(autouse=True)
def own_home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Caches, runs and memory of this test lie in a folder of its own."""
    home = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("EMBEDCAL_HOME", str(home))
    return home


@pytest.fixture(autouse=True)
def _fixed_seeds() -> None:
    import numpy as np

    random.seed(0)
    np.random.seed(0)  # noqa: NPY002 - guards against libraries that use the global generator


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder with real photographs and features, or a skip that says how to get it."""
    folder = os.environ.get("EMBEDCAL_TEST_DATA")
    if not folder:
        pytest.skip("EMBEDCAL_TEST_DATA does not name a folder with real data")
    return Path(folder)


@pytest.fixture(scope="session")
def birds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache of 600 birds through the tiny CLIP, all 80 templates, shared by the whole run."""
    from embedcal.caching import cache
    from embedcal.datasets.options import ReadOptions

    home = tmp_path_factory.mktemp("birds")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EMBEDCAL_HOME", str(home))
        return cache("birds", backbone="tiny", read=ReadOptions(rows=600, seed=77)).path
