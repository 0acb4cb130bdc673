"""The same twelve images in every form that is read give one and the same data set."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import sys
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets as hf
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import webdataset as wds
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1] / "cache"))
from encoders_for_tests import NumpyEncoder

from embedcal.cache import BuildOptions, build_cache, open_cache
from embedcal.datasets import ReadOptions, build_manifest, read_csv, read_tree
from embedcal.datasets.containers import read_container
from embedcal.datasets.manifest import Manifest
from embedcal.datasets.table import cell_of

hf.disable_progress_bars()
CLASSES, PLACES = ("Zaunkönig", "大鷲"), ("land", "water")
SPLITS = ("train", "val", "test")
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "PPM")
OPTIONS = ReadOptions(classes=CLASSES, attributes={"place": PLACES, "time": ("day", "night")})


@dataclass(frozen=True)
class Row:
    data: bytes
    name: str
    y: int
    place: str
    time: int | None
    split: str


def rows() -> list[Row]:
    rng = np.random.default_rng(0)
    made = []
    for i in range(12):
        out = io.BytesIO()
        pixels = rng.integers(0, 256, (9, 11, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(out, FORMATS[i % 6])
        suffix = FORMATS[i % 6].lower().replace("jpeg", "jpg").replace("tiff", "tif")
        place, time = PLACES[i % 2], (0, 1, None)[i % 3]
        name = f"bïld {i}.{suffix}"
        made.append(Row(out.getvalue(), name, i // 2 % 2, place, time, SPLITS[i // 4]))
    return made


def files_in(folder: Path, where: Callable[[Row], str] = lambda row: "") -> Path:
    for row in rows():
        path = folder / where(row) / row.name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(row.data)
    return folder


def csv_file(folder: Path) -> Path:
    files_in(folder)
    lines = [f"{row.name},{row.y},{row.place},{cell_of(row.time)},{row.split}" for row in rows()]
    (folder / "t.csv").write_text("\n".join(["path,y,place,time,split", *lines]), "utf-8")
    return folder / "t.csv"


def columns(images: list[Any], chosen: list[Row]) -> dict[str, Any]:
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    image = pa.array(images, kind if isinstance(images[0], dict) else None)
    return {
        "image": image,
        "label": pa.array([CLASSES[row.y] for row in chosen]).dictionary_encode(),
        "place": pa.array([row.place for row in chosen]),
        "time": pa.array([row.time for row in chosen], pa.float32()),
    }


def parquet_of_paths(folder: Path) -> Path:
    files_in(folder)
    table = pa.table(columns([row.name for row in rows()], rows()))
    table = table.append_column("split", pa.array([SPLITS.index(row.split) for row in rows()]))
    pq.write_table(table, folder / "t.parquet")
    return folder / "t.parquet"


def parquet_of_images(folder: Path) -> Path:
    """The hub's layout, train in two shards."""
    (folder / "data").mkdir()
    for name, split, part in [
        ("test-00000-of-00001", "test", slice(4)), ("validation-00000-of-00001", "val", slice(4)),
        ("train-00001-of-00002", "train", slice(3, 4)), ("train-00000-of-00002", "train", slice(3)),
    ]:  # fmt: skip
        chosen = [row for row in rows() if row.split == split][part]
        images = [{"bytes": row.data, "path": row.name} for row in chosen]
        file = folder / "data" / f"{name}.parquet"
        pq.write_table(pa.table(columns(images, chosen)), file, row_group_size=2)
    (folder / "README.md").write_text("a card")
    return folder


def shards(folder: Path) -> Path:
    """Written by the real webdataset, labels in .cls and attributes in .json."""
    for split in SPLITS:
        with wds.TarWriter(str(folder / f"birds-{split}-000000.tar")) as sink:
            for i, row in enumerate(row for row in rows() if row.split == split):
                other = {"place": row.place, "time": row.time, "bbox": [1, 2]}
                image = {row.name.rpartition(".")[2]: row.data}
                rest = {"cls": row.y, "json": other, "txt": "ignored"}
                sink.write({"__key__": f"däta/{i:04d}", **image, **rest})
    return folder


def shards_by_tarfile(folder: Path) -> Path:
    """In folders of splits, all labels in .json, members of one kind after another."""
    for split in SPLITS:
        (folder / split).mkdir()
        with tarfile.open(folder / split / "0000.tar", "w") as sink:
            chosen = [row for row in rows() if row.split == split]
            for kind in ("image", "json"):
                for i, row in enumerate(chosen):
                    label = {"label": CLASSES[row.y], "place": row.place, "time": row.time}
                    data = row.data if kind == "image" else json.dumps(label).encode()
                    suffix = row.name.rpartition(".")[2].upper() if kind == "image" else "json"
                    info = tarfile.TarInfo(f"./{i}.{suffix}")
                    info.size = len(data)
                    sink.addfile(info, io.BytesIO(data))
    return folder


def saved(folder: Path) -> Path:
    """Written by the real datasets: a DatasetDict whose classes are not in sorted order."""
    features = hf.Features(
        {
            "image": hf.Image(),
            "label": hf.ClassLabel(names=list(CLASSES)),
            "place": hf.ClassLabel(names=list(PLACES)),
            "time": hf.Value("int8"),
        }
    )

    def split(name: str) -> hf.Dataset:
        chosen = [row for row in rows() if row.split == name]
        return hf.Dataset.from_dict(
            {
                "image": [{"bytes": row.data, "path": None} for row in chosen],
                "label": [row.y for row in chosen],
                "place": [row.place for row in chosen],
                "time": [row.time for row in chosen],
            },
            features=features,
        )

    parts = {"train": split("train"), "validation": split("val"), "test": split("test")}
    hf.DatasetDict(parts).save_to_disk(
        str(folder / "saved"), num_shards={"train": 2, "validation": 1, "test": 1}
    )
    return folder / "saved"


CONTAINERS = [parquet_of_paths, parquet_of_images, shards, shards_by_tarfile, saved]


def manifest_of(source: Path, options: ReadOptions = OPTIONS) -> Manifest:
    table, root = read_container(source, options=options)
    return build_manifest(table, root=root, name=source.stem, options=options)


def by_content(manifest: Manifest) -> dict[str, tuple[Any, ...]]:
    """SHA-256 of each row's file -> its labels by name."""
    found = {}
    for i, path in enumerate(manifest.paths):
        digest = hashlib.sha256((manifest.root / path).read_bytes()).hexdigest()
        values = [a.values[a.labels[i]] if a.labels[i] >= 0 else "" for a in manifest.attributes]
        found[digest] = (manifest.classes[manifest.y[i]], int(manifest.split[i]), *values)
    assert len(found) == len(manifest) == 12
    return found


@pytest.fixture
def plain(tmp_path: Path) -> Manifest:
    (tmp_path / "csv").mkdir()
    file = csv_file(tmp_path / "csv")
    return build_manifest(read_csv(file), root=file.parent, name="t", options=OPTIONS)


def cached(manifest: Manifest) -> dict[str, tuple[Any, ...]]:
    """What the cache says of each image, by the features of batches of one."""
    out = manifest.root.parent / f"{manifest.name}.h5"
    options = BuildOptions(out=out, batch_size=1, templates=("{}",))
    report = build_cache(manifest, NumpyEncoder(), options=options)
    assert report.skipped == ()
    with open_cache(report.path) as cache:
        samples, features = cache.samples, cache.read()
        attributes = [samples.attributes[a.name].tolist() for a in manifest.attributes]
        labels = zip(samples.y.tolist(), samples.split.tolist(), *attributes, strict=True)
        return {x.tobytes().hex(): label for x, label in zip(features, labels, strict=True)}


@pytest.mark.parametrize("make", CONTAINERS)
def test_the_same_images_in_every_form(make: Any, tmp_path: Path, plain: Manifest) -> None:
    (tmp_path / "other").mkdir()
    manifest = manifest_of(make(tmp_path / "other"))
    assert manifest.warnings == plain.warnings
    assert manifest.classes == CLASSES
    assert by_content(manifest) == by_content(plain)
    assert cached(manifest) == cached(plain)


def test_the_same_images_in_folders(tmp_path: Path, plain: Manifest) -> None:
    options = ReadOptions(classes=CLASSES, attributes=PLACES, attribute_name="place")
    want = {digest: labels[:3] for digest, labels in by_content(plain).items()}
    where = files_in(tmp_path / "a", lambda row: f"{row.split}/{CLASSES[row.y]}/{row.place}")
    tree = build_manifest(read_tree(where), root=where, name="a", options=options)
    assert by_content(tree) == want
    where = files_in(tmp_path / "b", lambda row: f"{CLASSES[row.y]}/{row.place}")
    table = read_tree(where)
    split = {row.name: row.split for row in rows()}
    cut = {"split": tuple(split[path.rpartition("/")[2]] for path in table.columns["path"])}
    table = type(table)(source="b", columns={**table.columns, **cut})
    assert by_content(build_manifest(table, root=where, name="b", options=options)) == want


def test_what_is_no_container(tmp_path: Path) -> None:
    """Above all an archive beside the folders that it holds, and a table of metadata in one."""
    assert read_container(csv_file(tmp_path)) is None
    assert read_container(tmp_path) is None
    files_in(tmp_path / "tree", lambda row: f"{row.split}/{row.y}")
    (tmp_path / "tree" / "all.tar").touch()
    (tmp_path / "tree" / ".hidden.parquet").touch()
    (tmp_path / "tree" / "train" / "0" / "x.parquet").touch()
    assert read_container(tmp_path / "tree") is None


# Unpacking


@pytest.fixture
def container(tmp_path: Path) -> Path:
    (tmp_path / "held").mkdir()
    return shards(tmp_path / "held")


def test_a_second_reading_unpacks_nothing(container: Path, own_home: Path) -> None:
    first = manifest_of(container)
    assert first.root.parent == own_home / "unpacked"
    assert first.root.name.startswith("held-")
    kept = first.root / first.paths[3]
    before = kept.stat().st_ino
    again = manifest_of(container)
    assert (again.root, again.paths, again.ids) == (first.root, first.paths, first.ids)
    assert kept.stat().st_ino == before
    assert [path.name for path in first.root.parent.glob(".*")] == [f".{first.root.name}.lock"]
    assert again.ids[4] == "birds-train-000000/däta/0000"


@pytest.mark.parametrize("make", [parquet_of_images, shards, saved])
def test_a_changed_shard_unpacks_anew(make: Any, tmp_path: Path) -> None:
    (tmp_path / "held").mkdir()
    source = make(tmp_path / "held")
    first = manifest_of(source)
    shard = max(path for path in source.rglob("*") if path.suffix in (".tar", ".parquet", ".arrow"))
    facts = shard.stat()
    os.utime(shard, ns=(facts.st_atime_ns, facts.st_mtime_ns + 1))
    second = manifest_of(source)
    assert second.root != first.root
    assert by_content(second) == by_content(first)
    assert by_content(manifest_of(source, ReadOptions(**vars(OPTIONS)))) == by_content(first)


def test_files_of_the_same_facts_elsewhere_are_others(tmp_path: Path) -> None:
    (tmp_path / "a" / "x").mkdir(parents=True)
    shutil.copytree(shards(tmp_path / "a" / "x"), tmp_path / "b" / "x")
    assert manifest_of(tmp_path / "a" / "x").root != manifest_of(tmp_path / "b" / "x").root
