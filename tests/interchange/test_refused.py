"""Files that lie, tempt or are broken: one line each, and nothing in them is run."""

from __future__ import annotations

import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from feature_worlds import (
    ROWS,
    WIDTH,
    World,
    clip_benchmark,
    clip_retrieval,
    tensors,
    write_table,
)
from safetensors.numpy import save_file

from embedcal.interchange import import_from, read_features
from embedcal.types import EmbedcalError


class Evil:
    """Unpickling it would leave a file behind."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (Path.touch, (self.path,))


def write_hostile(folder: Path, world: World) -> dict[str, Path]:
    ran, x = folder / "ran", world.features
    good = folder / "good.npy"
    np.save(good, x)
    np.save(folder / "object.npy", np.array([Evil(ran)], dtype=object), allow_pickle=True)
    np.savez(folder / "object.npz", features=np.array([[Evil(ran)]], dtype=object))
    torch.save({"features": Evil(ran)}, folder / "evil.pt")
    torch.save({"features": x}, folder / "numpy.pt")
    torch.save([torch.zeros(2), {"a": 1}], folder / "list.pt")
    save_file({"features": x}, folder / "whole.safetensors")
    files = {
        "pickle.npy": pickle.dumps(Evil(ran)), "pickle.pt": pickle.dumps(Evil(ran)),
        "pickle.npz": pickle.dumps(Evil(ran)), "empty.npy": b"", "empty.npz": b"",
        "empty.pt": b"", "empty.safetensors": b"", "empty.parquet": b"",
        "short.npy": good.read_bytes()[:-9], "words.pt": b"words",
        "short.safetensors": (folder / "whole.safetensors").read_bytes()[:-9],
        "huge.npy": good.read_bytes().replace(b"(90, 5)", b"(9**9,)"),
        "wide.npy": good.read_bytes().replace(b"(90, 5), }  ", b"(90, 5000)}"),
    }  # fmt: skip
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return {path.name: path for path in folder.iterdir() if path.stem not in ("good", "whole")}


def test_hostile_files_run_nothing_and_are_one_line(world: World, tmp_path: Path) -> None:
    files = write_hostile(tmp_path, world)
    table = write_table(tmp_path / "t.csv", world.table())
    assert len(files) == 18
    for name, path in files.items():
        with pytest.raises(EmbedcalError) as raised:
            import_from(path, table=table, out=tmp_path / "x.h5")
        line = str(raised.value)
        assert line.startswith("expected "), (name, line)
        assert "\n" not in line, name
        assert len(line) < 500, name
    assert not (tmp_path / "ran").exists()
    assert not (tmp_path / "x.h5").exists()


def nan(world: World) -> dict[str, Any]:
    x = world.features.copy()
    x[[5, 9], 2] = np.nan, np.inf
    return {"features": x}


FAULTS: dict[str, tuple[Callable[[World], dict[str, Any]], str]] = {
    "not finite": (nan, "found NaN or infinity in 2 rows, first in row 5"),
    "overflow": (lambda w: {"features": w.features.astype("f8") * 1e300}, "NaN or infinity"),
    "one dimension": (lambda w: {"features": w.features[:, 0]}, "expected features (n, d)"),
    "whole numbers": (lambda w: {"features": w.features.astype(int)}, "of a floating type"),
    "no rows": (lambda w: {"features": w.features[:0]}, "expected features (n, d)"),
    "short y": (lambda w: {"y": w.y[:-1]}, "expected 90 rows in y"),
    "long place": (lambda w: {"place": np.append(w.place, 0)}, "expected 90 rows in place"),
    "y of two columns": (lambda w: {"y": np.stack([w.y, w.y], 1)}, "shape (90, 2)"),
    "negative y": (lambda w: {"y": w.y - 1}, "expected y from 0 on, found -1 in row 0"),
    "half a class": (lambda w: {"y": w.y + 0.5}, "found 0.5 in row 0"),
    "unknown split": (lambda w: {"split": w.split + 1}, "expected split from 0 to 2, found 3"),
    "split by a wrong name": (lambda w: {"split": np.array(["dev", "tset"])[w.y]}, "unknown split"),
    "place too low": (lambda w: {"place": w.place - 1}, "expected place from -1 on, found -2"),
    "an id twice": (lambda w: {"id": np.array([*w.ids[:-1], "0003"])}, "found '0003' again in row"),
    "too few ids": (lambda w: {"id": np.array(w.ids[:-1])}, "expected 90 rows in ids"),
    "complex y": (lambda w: {"y": w.y * 1j}, "expected one whole number a row in 'y'"),
    "names that are none": (lambda w: {"embedcal": np.array('{"classes": 3}')}, "under 'embedcal'"),
    "no JSON": (lambda w: {"embedcal": np.array("[" * 9999)}, "under 'embedcal'"),
    "text of another width": (
        lambda w: {"text/class/embedding": np.ones((2, 3), "f4")}, "bank 'class', found (2, 1, 3)",
    ),
    "text of integers": (
        lambda w: {"text/class/embedding": np.ones((2, WIDTH), int)}, "expected text features",
    ),
    "text not finite": (
        lambda w: {"text/class/embedding": np.full((2, WIDTH), np.inf)}, "in bank 'class'",
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_faulty_arrays_are_one_line(fault: str, world: World, tmp_path: Path) -> None:
    change, match = FAULTS[fault]
    np.savez(tmp_path / "x.npz", **{**world.arrays(), **change(world)})
    with pytest.raises(EmbedcalError, match=re.escape(match)) as raised:
        import_from(tmp_path / "x.npz", attributes=["place"], out=tmp_path / "x.h5")
    assert "\n" not in str(raised.value)
    assert not list(tmp_path.glob("*.h5*"))


def drop(columns: dict[str, list[Any]], row: int) -> dict[str, list[Any]]:
    return {name: cells[:row] + cells[row + 1 :] for name, cells in columns.items()}


def changed(name: str, cell: Any) -> Callable[[dict[str, list[Any]]], dict[str, list[Any]]]:
    return lambda t: t | {name: [cell, *t[name][1:]]}


TABLES: dict[str, tuple[Callable[[dict[str, list[Any]]], dict[str, list[Any]]], str]] = {
    "a row short": (lambda t: drop(t, 3), "no '0003' (1 of 90 are missing)"),
    "an id twice": (changed("id", "0005"), "found line 2 ('0005') again"),
    "no y": (lambda t: {k: v for k, v in t.items() if k != "y"}, "expected arrays y, split"),
    "split": (changed("split", "tets"), "unknown split"),
    "blank y": (changed("y", ""), "blank label: line 2"),
    "y": (changed("y", 999), "label out of range"),
    "place": (changed("place", "x"), "attribute 'place' not an integer"),
}  # fmt: skip


@pytest.mark.parametrize("fault", TABLES)
def test_faulty_tables_are_one_line(fault: str, world: World, tmp_path: Path) -> None:
    change, match = TABLES[fault]
    np.save(tmp_path / "x.npy", world.features)
    np.save(tmp_path / "ids.npy", np.array(world.ids))
    table = write_table(tmp_path / "t.csv", change(world.table()))
    with pytest.raises(EmbedcalError, match=re.escape(match)) as raised:
        read_features(tmp_path / "x.npy", table=table, attributes=["place"])
    assert "\n" not in str(raised.value)


def test_a_table_without_ids_must_have_as_many_rows(world: World, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", world.features)
    table = write_table(tmp_path / "t.csv", drop(world.table(), 0))
    with pytest.raises(EmbedcalError, match=r"expected 90 rows in .*t.csv.*found 89"):
        read_features(tmp_path / "x.npy", table=table)


def test_what_has_no_form_is_one_line(world: World, tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_text("1 2 3")
    clip_retrieval(tmp_path / "both", world, 1, {})
    clip_benchmark(tmp_path / "both", world, ("train", "val", "test"))
    for path, said, match in (
        ("x.txt", None, "none by its name"), ("both", None, "several of them"),
        ("nothing", None, "nothing there"), ("x.txt", "hdf", "found 'hdf'"),
        ("x.txt", "npz", "expected an .npz"), (".", "clip-retrieval", "expected img_emb"),
    ):  # fmt: skip
        with pytest.raises(EmbedcalError, match=match):
            read_features(tmp_path / path, format=said)
    assert len(read_features(tmp_path / "both", format="clip-benchmark")) == ROWS


def test_vectors_of_several_lengths_are_refused(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    lists = {
        "blank": [[1.0, 2.0], None],
        "short": [[1.0, 2.0], [1.0]],
        "hole": [[1.0, 2.0], [1.0, None]],
    }
    for name, rows in lists.items():
        vectors = pa.array(rows, pa.list_(pa.float32()))
        columns = {"features": vectors, "y": [0, 1], "split": ["train", "test"]}
        pq.write_table(pa.table(columns), tmp_path / f"{name}.parquet")
        with pytest.raises(EmbedcalError, match="one vector of one length"):
            read_features(tmp_path / f"{name}.parquet")


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("classes", 10, "found 10"),
        ("classes", "cat,dog", "found 'cat,dog'"),
        ("classes", torch.arange(2), "found tensor"),
        ("classes", ["land", 1], "found ['land', 1]"),
        ("values", torch.arange(2), "found Tensor"),
        ("values", {"place": "land"}, "names of 'place'"),
        ("values", {0: ["land"]}, "expected 'values' of"),
    ],
)
def test_names_in_a_dictionary_are_lists_of_texts(
    key: str, value: Any, words: str, world: World, tmp_path: Path
) -> None:
    torch.save({**tensors(world), key: value}, tmp_path / "x.pt")
    with pytest.raises(EmbedcalError, match=re.escape(words)) as raised:
        read_features(tmp_path / "x.pt", attributes=["place"])
    assert "\n" not in str(raised.value)
