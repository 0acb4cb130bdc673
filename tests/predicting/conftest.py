"""What these tests share: 240 birds with tokens, their pictures, and a run of every head."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from jaxtyping import install_import_hook

if TYPE_CHECKING:
    from embedcal.runs import Run

sys.path.insert(0, str(Path(__file__).parent.parent))  # made_runs

# Every annotated shape is checked.
install_import_hook(
    ["embedcal.predicting.temperature", "embedcal.predicting.scores"], "beartype.beartype"
).__enter__()


@dataclass(frozen=True)
class Flock:
    """The cache, the folder of its images, and runs by what they are here for."""

    cache: Path
    images: Path
    runs: dict[str, Run]


@pytest.fixture(scope="session")
def flock(tmp_path_factory: pytest.TempPathFactory) -> Flock:
    import embedcal
    from embedcal.cache import BuildOptions
    from embedcal.datasets.options import ReadOptions

    home = tmp_path_factory.mktemp("flock")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EMBEDCAL_HOME", str(home))
        path = embedcal.cache(
            "birds",
            backbone="tiny",
            read=ReadOptions(rows=240, seed=9),
            build=BuildOptions(tokens=True),
        ).path
        (images,) = (each for each in (home / "birds").iterdir() if each.is_dir())
        with embedcal.open(path) as cache:
            runs = {
                "linear": embedcal.fit("linear-probe", cache),
                "projection": embedcal.fit("erm", cache, epochs=1),
                "attnpool": embedcal.fit("erm", cache, epochs=1, head="attnpool"),
                "adapter": embedcal.fit("con-adapter", cache, epochs=1),
                "zeroshot": embedcal.fit("zeroshot", cache),
                "in_sample": embedcal.fit("dfr", cache, halves=1, refits=1, c=(1.0,)),
            }
    return Flock(path, images, runs)
