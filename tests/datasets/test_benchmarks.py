"""Waterbirds in each of its layouts, the embedded world, and facts files."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from embedcal.datasets import (
    ReadOptions,
    benchmark,
    benchmark_names,
    group_counts,
    read_manifest,
)
from embedcal.datasets.named import count_differences
from embedcal.datasets.named.facts import parse_facts
from embedcal.types import EmbedcalError

PUBLISHED = {
    "train": [3498, 184, 56, 1057],
    "val": [467, 466, 133, 133],
    "test": [2255, 2255, 642, 642],
}


def waterbirds(folder: Path, *, each: int = 1) -> Path:
    """A small tree in the form of Waterbirds: ``each`` empty image in every group and split."""
    lines = ["img_id,img_filename,y,split,place,place_filename"]
    for i in range(12 * each):
        group, split = i % 4, i // 4 % 3
        name = f"{group:03d}.Species_{group}/Bird_{i}.jpg"
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
        lines.append(f"{i + 1},{name},{group // 2},{split},{group % 2},/o/ocean/{i}.jpg")
    (folder / "metadata.csv").write_text("\n".join(lines) + "\n")
    return folder


@pytest.mark.parametrize(
    "layout", [".", "waterbirds_v1.0", "waterbird_complete95_forest2water2",
               "waterbirds/waterbird_complete95_forest2water2"]
)  # fmt: skip
def test_layouts(tmp_path: Path, layout: str) -> None:
    folder = waterbirds(tmp_path / layout)
    manifest = read_manifest("waterbirds", root=tmp_path)
    assert manifest.root == folder
    assert manifest.name == "waterbirds"
    assert manifest.ids == tuple(str(i) for i in range(1, 13))
    assert manifest.classes == ("landbird", "waterbird")
    assert manifest.attribute("place").values == ("land", "water")
    assert group_counts(manifest) == {split: [1, 1, 1, 1] for split in PUBLISHED}
    assert manifest.prompts == {
        "class": ("landbird", "waterbird"),
        "attribute": ("land", "water"),
        "context": ("bird on land", "bird on water"),
        "group": (
            "landbird on land", "landbird on water", "waterbird on land", "waterbird on water",
        ),
    }  # fmt: skip
    assert manifest.box is None
    assert manifest.masks is None


def test_other_counts_are_a_warning_and_strict_fails(tmp_path: Path) -> None:
    waterbirds(tmp_path)
    warnings = read_manifest("waterbirds", root=tmp_path).warnings
    assert len(warnings) == 4
    assert "no known version of waterbirds" in warnings[0]
    assert "50.0% of train in the commonest place of its class" in warnings[0]
    assert "1/1/1/1" in warnings[1]
    assert "3498/184/56/1057" in warnings[1]
    with pytest.raises(EmbedcalError, match="3498/184/56/1057"):
        read_manifest("waterbirds", root=tmp_path, options=ReadOptions(strict=True))


def test_no_root_and_wrong_root(tmp_path: Path) -> None:
    with pytest.raises(EmbedcalError, match=r"--root .*datasets show waterbirds"):
        read_manifest("waterbirds")
    with pytest.raises(EmbedcalError, match=r"waterbirds_v1\.0/metadata\.csv.*found none"):
        read_manifest("waterbirds", root=tmp_path)


def test_boxes_and_masks_beside_the_table(tmp_path: Path) -> None:
    folder = waterbirds(tmp_path)
    (folder / "bounding_boxes.csv").write_text(
        "img_id,x,y,width,height\n3,1.5,2,30,40\n1,0,0,5,6\n99,1,1,1,1\n"
    )
    (folder / "segmentations").mkdir()
    manifest = read_manifest("waterbirds", root=tmp_path)
    assert manifest.box is not None
    assert manifest.box.shape == (12, 4)
    assert manifest.box[0].tolist() == [0, 0, 5, 6]
    assert manifest.box[2].tolist() == [1.5, 2, 30, 40]
    assert np.isnan(manifest.box[[1, *range(3, 12)]]).all()
    assert manifest.masks is not None
    assert manifest.masks[0] == "segmentations/000.Species_0/Bird_0.png"


@pytest.mark.parametrize("line", ["1,a,0,5,6", "1,0,0,-5,6", "1,nan,0,5,6", "1,0,0,inf,6"])
def test_boxes_that_are_none(tmp_path: Path, line: str) -> None:
    folder = waterbirds(tmp_path)
    file = folder / "bounding_boxes.csv"
    file.write_text(f"img_id,x,y,width,height\n2,0,0,1,1\n{line}\n")
    with pytest.raises(EmbedcalError, match=r"four finite numbers.*: line 3"):
        read_manifest("waterbirds", root=tmp_path)
    file.write_text("img_id,x,y,width\n1,0,0,1\n")
    with pytest.raises(EmbedcalError, match="found no height"):
        read_manifest("waterbirds", root=tmp_path)


def test_names_and_prompts_may_be_replaced(tmp_path: Path) -> None:
    waterbirds(tmp_path)
    options = ReadOptions(classes="land bird,water bird", attributes="forest,sea")
    manifest = read_manifest("waterbirds", root=tmp_path, options=options)
    assert manifest.prompts == {
        "class": ("land bird", "water bird"),
        "attribute": ("forest", "sea"),
    }
    assert manifest.attribute("place").values == ("forest", "sea")
    options = ReadOptions(prompts={"class": ["This is a land bird.", "This is a water bird."]})
    given = read_manifest("waterbirds", root=tmp_path, options=options).prompts
    assert given["class"][0] == "This is a land bird."


def test_waterbirds_in_which_a_label_is_wrong(tmp_path: Path) -> None:
    table = waterbirds(tmp_path) / "metadata.csv"
    lines = table.read_text().splitlines()
    lines[4] = lines[4].replace(",1,0,1,", ",2,0,1,")
    table.write_text("\n".join(lines))
    with pytest.raises(EmbedcalError, match=r"label out of range 0 to 1: line 5 \('2'\)"):
        read_manifest("waterbirds", root=tmp_path)


# The real table and photographs


def test_the_official_table(real_data: Path, tmp_path: Path) -> None:
    shutil.copy(real_data / "waterbirds-metadata.csv", tmp_path / "metadata.csv")
    options = ReadOptions(check_files=False, strict=True)
    manifest = read_manifest("waterbirds", root=tmp_path, options=options)
    assert len(manifest) == 11_788
    assert group_counts(manifest) == PUBLISHED
    assert manifest.warnings == ()
    assert manifest.ids[0] == "1"
    assert manifest.paths[0].endswith("Black_Footed_Albatross_0046_18.jpg")
    with pytest.raises(EmbedcalError, match="11,788 of 11,788 files are missing"):
        read_manifest("waterbirds", root=tmp_path)


def test_one_row_less_than_published_is_noticed(real_data: Path, tmp_path: Path) -> None:
    text = (real_data / "waterbirds-metadata.csv").read_text()
    (tmp_path / "metadata.csv").write_text(text.rstrip("\n").rpartition("\n")[0])
    options = ReadOptions(check_files=False)
    warnings = read_manifest("waterbirds", root=tmp_path, options=options).warnings
    assert "no known version of waterbirds" in warnings[0]
    assert "95.0% of train" in warnings[0]
    assert "test has 2255/2254/642/642" in warnings[1]


def test_the_real_photographs(real_data: Path) -> None:
    root = real_data / "waterbirds-sample"
    manifest = read_manifest("waterbirds", root=root)
    assert len(manifest) == 88
    assert all((manifest.root / path).is_file() for path in manifest.paths)
    assert group_counts(manifest)["train"] == [6, 6, 6, 6]
    assert len(manifest.warnings) == 4
    with pytest.raises(EmbedcalError, match="are published"):
        read_manifest("waterbirds", root=root, options=ReadOptions(strict=True))


# The embedded world


def test_birds_are_drawn_once_and_read_as_waterbirds(own_home: Path) -> None:
    options = ReadOptions(rows=240, seed=3, workers=1, strict=True)
    manifest = read_manifest("birds", options=options)
    assert manifest.root.is_relative_to(own_home)
    assert manifest.root.name == "rows-240-seed-3"
    assert len(manifest) == 240
    assert manifest.warnings == ()
    assert manifest.attribute("place").values == ("land", "water")
    assert manifest.prompts["context"] == ("bird on land", "bird on water")
    assert manifest.box is not None
    assert np.isfinite(manifest.box).all()
    assert manifest.masks is not None
    assert all((manifest.root / mask).is_file() for mask in manifest.masks)

    before = (manifest.root / "metadata.csv").stat().st_mtime_ns
    again = read_manifest("birds", options=options)
    assert again.paths == manifest.paths
    assert (manifest.root / "metadata.csv").stat().st_mtime_ns == before

    as_waterbirds = read_manifest("waterbirds", root=manifest.root)
    assert as_waterbirds.paths == manifest.paths
    assert (as_waterbirds.y == manifest.y).all()
    by_root = read_manifest("birds", root=manifest.root)
    assert by_root.paths == manifest.paths
    assert by_root.warnings == ()


def test_birds_of_other_proportions_are_noticed(own_home: Path) -> None:
    manifest = read_manifest("birds", options=ReadOptions(rows=240, workers=1))
    labels = manifest.attribute().labels.copy()
    labels[(manifest.split == 0) & (manifest.y == 0)] = 0
    skewed = replace(manifest, attributes=(replace(manifest.attribute(), labels=labels),))
    facts = benchmark("birds")
    assert count_differences(manifest, facts, rows=240) == ()
    (difference,) = count_differences(skewed, facts, rows=240)
    assert difference.startswith("train has 75/0/")


# Facts


def test_every_benchmark_has_facts() -> None:
    assert {"birds", "waterbirds", "celeba", "metashift", "chexpert"} <= set(benchmark_names())
    for name in benchmark_names():
        facts = benchmark(name)
        assert facts.name == name
        assert facts.source
        assert facts.licence
        assert facts.obtain
        assert facts.layouts
    assert benchmark("waterbirds").counts == {k: tuple(v) for k, v in PUBLISHED.items()}
    assert benchmark("waterbirds").counts == benchmark("birds").counts


FACTS = """
name = "mine"
title = "Mine"
source = "my camera"
licence = "mine"
layouts = [{table = "metadata.csv"}]
classes = ["landbird", "waterbird"]
columns = {path = "img_filename", a = "place"}
counts = {train = [1, 1, 1, 1], val = [1, 1, 1, 2]}
"""


def test_a_facts_file_of_ones_own(tmp_path: Path) -> None:
    waterbirds(tmp_path)
    (tmp_path / "mine.toml").write_text(FACTS + "attributes = {place = ['land', 'water']}")
    with pytest.raises(EmbedcalError, match="expected columns to be named for"):
        read_manifest(tmp_path / "mine.toml")
    facts = FACTS.replace(', a = "place"', "") + "attributes = {place = ['land', 'water']}"
    (tmp_path / "mine.toml").write_text(facts)
    manifest = read_manifest(tmp_path / "mine.toml")
    assert manifest.name == "mine"
    assert manifest.warnings == ("val has 1/1/1/1 rows in its groups, 1/1/1/2 are published",)
    (tmp_path / "mine.toml").write_bytes(b"\xff")
    with pytest.raises(EmbedcalError, match="TOML in UTF-8"):
        read_manifest(tmp_path / "mine.toml")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("name = ", "expected TOML"),
        (FACTS.replace("licence", "license"), "license unknown and licence missing"),
        (FACTS.replace('["landbird", "waterbird"]', '"landbird"'), "classes of f.toml"),
        (FACTS.replace("[1, 1, 1, 1]", '["1"]'), "counts of f.toml"),
        (FACTS.replace('"mine"', "3"), "name of f.toml to be text"),
        (FACTS + "crop = true", "crop of f.toml to be an integer"),
        (FACTS.replace("table", "tabel"), "tabel unknown"),
        (
            FACTS.replace("[{table", "{table").replace('csv"}]', 'csv"}'),
            "layouts of f.toml to be a list",
        ),
    ],
)
def test_facts_that_are_none(text: str, said: str) -> None:
    with pytest.raises(EmbedcalError, match=said):
        parse_facts(text, source="f.toml")
