"""Files as other tools leave them, written by those tools' own libraries."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from feature_worlds import (
    CLASSES,
    PLACES,
    ROWS,
    WIDTH,
    World,
    clip_benchmark,
    clip_retrieval,
    tensors,
    write_table,
)

from embedcal.cache import open_cache
from embedcal.interchange import import_from, read_features
from embedcal.types import EmbedcalError


def same(found: Any, world: World) -> None:
    assert found.features.dtype == world.features.dtype
    np.testing.assert_array_equal(found.features, world.features)
    for name in ("y", "split"):
        np.testing.assert_array_equal(getattr(found, name), getattr(world, name))
    np.testing.assert_array_equal(found.attributes["place"], world.place)


# Arrays with names


def test_an_npz(world: World, tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", **world.arrays())
    found = read_features(tmp_path / "x.npz", attributes=["place"], classes="a,b")
    same(found, world)
    assert (found.ids, found.classes, found.values) == ((), ("a", "b"), {})
    bare = read_features(tmp_path / "x.npz")
    assert dict(bare.attributes) == {}


@pytest.mark.parametrize("bank", ["café", "class (CLIP)", "100 %"])
def test_a_bank_of_any_name_is_read_as_it_was_written(
    bank: str, world: World, tmp_path: Path
) -> None:
    text = np.random.default_rng(0).normal(size=(3, WIDTH)).astype("f4")
    np.savez(tmp_path / "x.npz", **world.arrays(), **{f"text/{bank}/embedding": text})
    with open_cache(import_from(tmp_path / "x.npz", out=tmp_path / "x.h5")) as cache:
        assert cache.banks == (bank,)
        np.testing.assert_array_equal(cache.text(bank).embedding[:, 0], text)


@pytest.mark.parametrize("old", [False, True])
def test_a_dictionary_of_tensors(old: bool, world: World, tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    named = {"id": list(world.ids), "classes": list(CLASSES), "values": {"place": list(PLACES)}}
    text = {"text/class/embedding": torch.ones(3, WIDTH)}
    torch.save({**tensors(world), **named, **text}, path, _use_new_zipfile_serialization=not old)
    found = read_features(path)
    same(found, world)
    assert (found.ids, found.classes) == (world.ids, CLASSES)
    assert found.values == {"place": PLACES}
    assert found.banks[0].prompts == CLASSES
    assert found.banks[0].embedding.shape == (3, 1, WIDTH)


def test_one_tensor_and_a_table(world: World, tmp_path: Path) -> None:
    torch.save(tensors(world)["features"].requires_grad_(), tmp_path / "x.pt")
    table = write_table(tmp_path / "t.csv", world.table())
    found = read_features(tmp_path / "x.pt", table=table, attributes=["place"])
    same(found, world)
    assert found.ids == world.ids


def test_safetensors_with_bfloat16(world: World, tmp_path: Path) -> None:
    from safetensors.torch import save_file as save_tensors

    halves = tensors(world) | {"features": tensors(world)["features"].bfloat16()}
    save_tensors(halves, tmp_path / "x.safetensors")
    found = read_features(tmp_path / "x.safetensors", attributes=["place"])
    wanted = tensors(world)["features"].bfloat16().float().numpy()
    np.testing.assert_array_equal(found.features, wanted)


def test_labels_may_be_words_in_arrays(world: World, tmp_path: Path) -> None:
    words = np.array(["sea", "air"])[world.y]
    splits = np.array(["train", "valid", "test"])[world.split]
    np.savez(tmp_path / "x.npz", features=world.features, y=words, split=splits)
    found = read_features(tmp_path / "x.npz")
    assert found.classes == ("air", "sea")
    np.testing.assert_array_equal(found.y, 1 - world.y)
    np.testing.assert_array_equal(found.split, world.split)


# Rows and tables


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".parquet"])
def test_an_npy_row_by_row(suffix: str, world: World, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", world.features)
    table = write_table(tmp_path / f"t{suffix}", world.table())
    found = read_features(tmp_path / "x.npy", table=table, attributes=["place"])
    same(found, world)
    assert isinstance(found.features, np.memmap)
    assert found.ids == world.ids


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_an_npy_joined_by_ids(suffix: str, world: World, tmp_path: Path) -> None:
    """The table in another order, with rows that nobody has features of."""
    np.save(tmp_path / "x.npy", world.features)
    np.save(tmp_path / "ids.npy", np.array(world.ids))
    table = world.table()
    order = np.random.default_rng(3).permutation(ROWS)
    shuffled = {name: [cells[i] for i in order] for name, cells in table.items()}
    for name, cell in {"id": "stranger", "y": 1, "split": "train", "place": 0}.items():
        shuffled[name].insert(4, cell)
    path = write_table(tmp_path / f"t{suffix}", shuffled)
    found = read_features(tmp_path / "x.npy", table=path, attributes=["place"])
    same(found, world)
    assert found.notes == (f"1 rows of t{suffix} have no features and are left out",)
    with open_cache(import_from(tmp_path / "x.npy", table=path, out=tmp_path / "x.h5")) as cache:
        assert cache.meta.warnings == found.notes
        assert cache.samples.ids == world.ids


def test_a_table_goes_before_the_files_own_labels(world: World, tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", **world.arrays() | {"y": 1 - world.y})
    table = write_table(tmp_path / "t.csv", world.table())
    same(read_features(tmp_path / "x.npz", table=table, attributes=["place"]), world)


def test_names_from_a_column_beside_the_codes(world: World, tmp_path: Path) -> None:
    columns = world.table() | {
        "class": [CLASSES[code] for code in world.y],
        "place_name": ["" if code < 0 else PLACES[code] for code in world.place],
        "file": ["a"] * ROWS,
        "file_name": ["b"] * ROWS,
    }
    np.save(tmp_path / "x.npy", world.features)
    write_table(tmp_path / "x.csv", columns)
    found = read_features(tmp_path / "x.npy")
    same(found, world)
    assert (found.classes, dict(found.values)) == (CLASSES[:2], {"place": PLACES})
    columns["class"][0] = "another"
    write_table(tmp_path / "x.csv", columns)
    with pytest.raises(EmbedcalError, match="one name for each code in the column 'class'"):
        read_features(tmp_path / "x.npy")


# Folders of other tools


@pytest.mark.parametrize("parts", [1, 11])
@pytest.mark.parametrize("key", ["image_path", "path"])
def test_clip_retrieval_with_a_table(parts: int, key: str, world: World, tmp_path: Path) -> None:
    """Paths in the table begin at another folder, as they do in metadata.csv of most data sets."""
    folder = clip_retrieval(tmp_path / "out", world, parts, {})
    columns = {key: list(world.paths), **world.table()}
    table = write_table(tmp_path / "t.csv", columns)
    found = read_features(folder, table=table, attributes=["place"])
    same(found, world)
    assert found.ids[7] == "/data/pictures/vögel/0007.jpg"
    assert found.paths[7] == "0007.jpg"
    assert len(found.parts) == parts
    assert all(isinstance(part, np.memmap) for part in found.parts)


def test_clip_retrieval_with_labels_of_its_own(world: World, tmp_path: Path) -> None:
    folder = clip_retrieval(tmp_path / "out", world, 2, world.table())
    found = read_features(folder, attributes=["place"])
    same(found, world)
    assert found.ids == world.ids


def test_clip_retrieval_cut_short(world: World, tmp_path: Path) -> None:
    folder = clip_retrieval(tmp_path / "out", world, 3, world.table())
    (folder / "metadata" / "metadata_1.parquet").unlink()
    with pytest.raises(EmbedcalError, match="found only one of the two for 1"):
        read_features(folder)


@pytest.mark.parametrize("below", [False, True])
def test_clip_benchmark(below: bool, world: World, tmp_path: Path) -> None:
    folder = clip_benchmark(tmp_path / "root", world, ("train", "val", "test"))
    found = read_features(next(folder.iterdir()) if below else folder)
    order = np.argsort(world.split, kind="stable")
    np.testing.assert_array_equal(found.features, world.features[order])
    np.testing.assert_array_equal(found.y, world.y[order])
    np.testing.assert_array_equal(found.split, world.split[order])


def test_an_older_clip_benchmark_is_split_by_a_table(world: World, tmp_path: Path) -> None:
    folder = clip_benchmark(tmp_path / "root", world, ("train", "val"))
    split = ["train", "val"] * (ROWS // 6) + ["test"] * (ROWS // 3)
    table = write_table(tmp_path / "t.csv", {"split": split, "place": [0, 1] * (ROWS // 3)})
    found = read_features(folder, table=table, attributes=["place"])
    assert np.bincount(found.split).tolist() == [ROWS // 6, ROWS // 6, ROWS // 3]


def test_rows_are_taken_through_memory_in_blocks(tmp_path: Path) -> None:
    """Peak resident memory of an import in a process of its own, against the file's size."""
    import subprocess
    import sys

    rows, width = 60_000, 512
    x = np.lib.format.open_memmap(tmp_path / "x.npy", "w+", "f4", (rows, width))
    x[:] = 1
    del x
    np.savez(tmp_path / "y.npz", y=np.zeros(rows, int), split=np.arange(rows) % 3)
    script = (
        "import sys, resource, numpy as np\n"
        "from embedcal.cache.importing import import_features\n"
        "from embedcal.interchange.arrays import mapped\n"
        "from pathlib import Path\n"
        "folder = Path(sys.argv[1]); labels = np.load(folder / 'y.npz')\n"
        "def own():\n"
        "    words = Path('/proc/self/status').read_text().split()\n"
        "    return 1024 * int(words[words.index('RssAnon:') + 1])\n"
        "before = own(); most = 0\n"
        "from embedcal.cache.writer import CacheWriter\n"
        "write = CacheWriter.write\n"
        "def watched(self, batch):\n"
        "    global most; write(self, batch); most = max(most, own())\n"
        "CacheWriter.write = watched\n"
        "import_features(mapped(folder / 'x.npy'), labels['y'], labels['split'], "
        "out=folder / 'x.h5')\n"
        "print(most - before)"
    )
    grown = int(subprocess.check_output([sys.executable, "-c", script, str(tmp_path)], text=True))
    assert grown < 0.4 * 4 * rows * width


def test_a_mapping_of_values_names_the_attributes(world: World, tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", **world.arrays())
    found = read_features(tmp_path / "x.npz", values="place=land,water")
    assert np.array_equal(found.attributes["place"], world.place)
    assert found.values == {"place": ("land", "water")}


@pytest.mark.parametrize(
    ("attributes", "values", "words"),
    [
        ((), "land,water", "found none in"),
        (("place",), "plce=land,water", "expected arrays y, split, place, plce beside"),
    ],
)
def test_values_of_no_attribute_are_refused(
    attributes: tuple[str, ...], values: str, words: str, world: World, tmp_path: Path
) -> None:
    np.savez(tmp_path / "x.npz", **world.arrays())
    with pytest.raises(EmbedcalError, match=words):
        read_features(tmp_path / "x.npz", attributes=attributes, values=values)


@pytest.mark.parametrize("form", ["float8_e4m3fn", "float8_e5m2"])
@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_floats_of_eight_bits(suffix: str, form: str, world: World, tmp_path: Path) -> None:
    from safetensors.torch import save_file as save_tensors

    x = tensors(world)
    x["features"] = x["features"].to(getattr(torch, form))
    path = tmp_path / f"x.{suffix}"
    (torch.save if suffix == "pt" else save_tensors)(x, path)
    found = read_features(path)
    assert np.array_equal(found.features, x["features"].float().numpy())
