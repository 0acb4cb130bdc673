"""Runs over one cache with groups of different attributes, in one folder: a part for each."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from embedcal.annotating import annotate
from embedcal.cache import open_cache
from embedcal.grids import grid
from embedcal.reporting import ReportOptions
from embedcal.reporting.gathering import gather


@pytest.fixture(scope="module")
def folder(birds: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``erm`` once by place, and with three settings by another attribute."""
    place = tmp_path_factory.mktemp("choices")
    with open_cache(shutil.copy(birds, place / "own.h5")) as cache:
        annotate(cache, "odd", "spurious", (np.arange(len(cache)) % 2).astype(np.int8))
        for spec, attribute in (("erm:epochs=1", "place"), ("erm:epochs=1,2,3", "odd")):
            grid([spec], cache, seeds=1, attribute=attribute, out=place / "runs", jobs=1)
    return place / "runs"


def test_each_part_has_its_own_commands_and_effects(folder: Path) -> None:
    first, second = gather(folder, ReportOptions(images=False)).parts
    assert [part.block.attributes for part in (first, second)] == [("place",), ("odd",)]
    end = f"--cache {folder.parent / 'own.h5'} --out {folder}"
    for part, epochs in ((first, "1"), (second, "1,2,3")):
        attribute = part.block.attributes[0]
        (written,) = part.commands.grids
        assert written == (
            f"embedcal grid erm:epochs={epochs} --seeds 0, --select val.worst_group "
            f"--attribute {attribute} {end}"
        )
    assert first.effects == ()
    ((found, _),) = second.effects
    assert (found.runs, [each.option for each in found.options]) == (3, ["epochs"])


def test_a_part_judged_by_one_attribute_has_the_commands_of_all(folder: Path) -> None:
    (part,) = gather(folder, ReportOptions(attribute=("place",), images=False)).parts
    chosen = [text.split("--attribute ")[1].split()[0] for text in part.commands.grids]
    assert chosen == ["place", "odd"]
    assert len(part.effects) == 1


def test_commands_without_their_cache_and_attributes_stand_in_every_part(
    folder: Path, tmp_path: Path
) -> None:
    older = shutil.copytree(folder, tmp_path / "runs")
    document = json.loads((older / "grid.json").read_text())
    for command in document["commands"]:
        del command["attributes"], command["fingerprint"]
    (older / "grid.json").write_text(json.dumps(document))
    parts = gather(older, ReportOptions(images=False)).parts
    assert [len(part.commands.grids) for part in parts] == [2, 2]
