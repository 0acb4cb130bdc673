"""Runs over the birds, shared by these tests: a head with an embedding, and a linear one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from jaxtyping import install_import_hook

if TYPE_CHECKING:
    from embedcal.runs import Run

# Every annotated shape is checked.
install_import_hook(
    ["embedcal.mapping.silhouettes", "embedcal.mapping.planes"], "beartype.beartype"
).__enter__()


@pytest.fixture(scope="session")
def fitted(birds: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    import embedcal

    out = tmp_path_factory.mktemp("runs")
    with embedcal.open(birds) as cache:
        return {
            "erm": embedcal.fit("erm", cache, epochs=2, out=out),
            "probe": embedcal.fit("linear-probe", cache, out=out),
        }
