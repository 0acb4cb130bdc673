"""Parquet files written by pyarrow, pandas and Hugging Face's datasets."""

from __future__ import annotations

import io
import math
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import datasets as hf
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from embedcal.datasets import ReadOptions, attributes_of, build_manifest, read_csv
from embedcal.datasets.containers.parquet import read_parquet, read_parquet_shards
from embedcal.datasets.containers.shards import split_in
from embedcal.types import EmbedcalError

hf.disable_progress_bars()
IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
ROWS = {"path": ["a.png", "b.png", "c.png"], "y": [0, 1, 1], "split": ["train", "val", "test"]}


def write(folder: Path, columns: dict[str, Any], name: str = "t.parquet") -> Path:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), folder / name)
    return folder / name


def fault(path: Path, root: Path | None = None, **options: Any) -> str:
    with pytest.raises(EmbedcalError) as caught:
        read_parquet_shards(path, root=root, options=ReadOptions(**options))
    message = str(caught.value)
    assert message.isprintable()
    return message


def png(value: int = 0) -> bytes:
    from PIL import Image

    out = io.BytesIO()
    Image.new("L", (3, 3), value).save(out, "PNG")
    return out.getvalue()


def pictures(*values: bytes | str | None) -> pa.Array:
    """Structs as Hugging Face has them: bytes, or a path alone, or neither."""
    return pa.array(
        [{"bytes": v, "path": None} if isinstance(v, bytes) else v and {"bytes": None, "path": v}
         for v in values],
        IMAGE,
    )  # fmt: skip


# Cells


@pytest.mark.parametrize(
    ("array", "cells"),
    [
        (pa.array([0, -1, 2**62], pa.int64()), ["0", "-1", str(2**62)]),
        (pa.array([0, None, 255], pa.uint8()), ["0", "", "255"]),
        (pa.array([0.0, None, math.nan, 3.0]), ["0", "", "", "3"]),
        (pa.array([0.5, 1e300, -math.inf]), ["0.5", "1e+300", "-inf"]),
        (pa.array([1.0, -2.0], pa.float16()), ["1", "-2"]),
        (pa.array([True, None, False]), ["True", "", "False"]),
        (pa.array(["ä", None, "", " x,\n"]), ["ä", "", "", " x,\n"]),
        (pa.array(["x", "y"], pa.large_string()), ["x", "y"]),
        (pa.array(["x", None], pa.string_view()), ["x", ""]),
        (pa.array(["b", None, "a"]).dictionary_encode(), ["b", "", "a"]),
        (pa.array([7, 7]).dictionary_encode(), ["7", "7"]),
        (pa.nulls(2), ["", ""]),
    ],
)  # fmt: skip
def test_a_cell_of_each_type(tmp_path: Path, array: pa.Array, cells: list[str]) -> None:
    table = read_parquet(write(tmp_path, {"x": array}))
    assert table.columns == {"x": tuple(cells)}
    assert table.notes == ()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    st.lists(
        st.tuples(
            st.text(
                st.characters(exclude_categories=["Cs"], exclude_characters="\0\r"), min_size=1
            ),
            st.none() | st.integers(-(2**40), 2**40),
            st.none() | st.booleans(),
        ),
        min_size=1,
        max_size=9,
    )
)
def test_cells_are_those_of_the_csv_that_pandas_writes(tmp_path: Path, rows: Any) -> None:
    text, number, boolean = zip(*rows, strict=True)
    frame = pd.DataFrame(
        {
            "text": pd.Series(text, dtype="string"),
            "number": pd.Series(number, dtype="Int64"),
            "boolean": pd.Series(boolean, dtype="boolean"),
        }
    )
    frame.to_csv(tmp_path / "t.csv", index=False)
    frame.to_parquet(tmp_path / "t.parquet")
    assert read_parquet(tmp_path / "t.parquet").columns == read_csv(tmp_path / "t.csv").columns


@pytest.mark.parametrize(
    "labels",
    [
        pa.array([1, 0, 1], pa.int8()),
        pa.array([1.0, 0.0, 1.0]),
        pa.array([True, False, True]),
        pa.array(["wet", "dry", "wet"]),
        pa.array(["wet", "dry", "wet"]).dictionary_encode(),
        pa.array(["1", "0", "1"]),
    ],
)
def test_labels_of_each_type(tmp_path: Path, labels: pa.Array) -> None:
    file = write(tmp_path, {**ROWS, "y": labels, "a": labels})
    options = ReadOptions(check_files=False)
    table, root = read_parquet_shards(file, options=options)
    manifest = build_manifest(table, root=root, name="t", options=options)
    assert manifest.y.tolist() == manifest.attribute().labels.tolist() == [1, 0, 1]
    assert root == tmp_path


def test_a_boolean_that_is_always_true_is_still_the_second_value(tmp_path: Path) -> None:
    options = ReadOptions(check_files=False)
    table, root = read_parquet_shards(write(tmp_path, {**ROWS, "a": [True] * 3}), options=options)
    attribute = build_manifest(table, root=root, name="t", options=options).attribute()
    assert attribute.values == ("False", "True")
    assert attribute.labels.tolist() == [1, 1, 1]


def test_other_columns_are_passed_over_unless_they_are_needed(tmp_path: Path) -> None:
    file = write(
        tmp_path, {**ROWS, "box": [[1, 2], [], None], "when": pa.array([0] * 3, pa.date32())}
    )
    for table in (read_parquet(file), read_parquet_shards(file)[0]):
        assert set(table.columns) == set(ROWS)
        assert [note.split("'")[1] for note in table.notes] == ["box", "when"]
        assert "list<" in table.notes[0]
    assert "expected integers or text in the column 'box'" in fault(file, columns={"y": "box"})
    assert "column 'when'" in fault(
        file, attributes=attributes_of("box=;when="), columns={"box": "y"}
    )
    many = write(tmp_path, {"path": ["a"], "label": [[0, 1]]}, "many.parquet")
    assert "column 'label'" in fault(many)


def test_no_rows(tmp_path: Path) -> None:
    empty = {name: pa.array(cells)[:0] for name, cells in ROWS.items()}
    table, root = read_parquet_shards(write(tmp_path, empty))
    assert len(table) == 0
    with pytest.raises(EmbedcalError, match="only a header"):
        build_manifest(table, root=root, name="t")
    table, root = read_parquet_shards(
        write(tmp_path, {"image": pictures(), "label": pa.array([], "int8")}, "train.parquet")
    )
    with pytest.raises(EmbedcalError, match="only a header"):
        build_manifest(table, root=root, name="t")


# Files that are none


@pytest.mark.parametrize("cut", [0, 3, 200, -1, -5])
def test_torn_files(tmp_path: Path, cut: int) -> None:
    file = write(tmp_path, ROWS)
    file.write_bytes(file.read_bytes()[:cut])
    assert f"expected to read {file}" in fault(file)


def test_damaged_bytes_raise_nothing_else(tmp_path: Path) -> None:
    file = write(tmp_path, {**ROWS, "image": pictures(png(), png(), png())})
    whole = bytearray(file.read_bytes())
    refused = 0
    for at in range(0, len(whole), 7):
        damaged = bytearray(whole)
        damaged[at] ^= 0xFF
        file.write_bytes(damaged)
        try:
            read_parquet(file)
        except EmbedcalError:
            refused += 1
    assert refused > 10


def test_nothing_there_text_and_a_nul(tmp_path: Path) -> None:
    assert "No such file" in fault(tmp_path / "no.parquet")
    (tmp_path / "t.parquet").write_text("path,y,split\n" * 9)
    assert "expected to read" in fault(tmp_path / "t.parquet")
    nul = write(tmp_path, {**ROWS, "path": ["a", "b\0", "c"]})
    assert "NUL character in 'path' of row 2" in fault(nul)
    (tmp_path / "folder").mkdir()
    assert "found none: check the folder" in fault(tmp_path / "folder")


def test_two_columns_of_one_name(tmp_path: Path) -> None:
    table = pa.table([pa.array([1]), pa.array([2])], names=["y", "y"])
    pq.write_table(table, tmp_path / "t.parquet")
    assert "'y' more than once" in fault(tmp_path / "t.parquet")


def test_without_pyarrow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write(tmp_path, ROWS)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert "pip install 'embedcal[parquet]'" in fault(file)


# Folders


def names(folder: Path, files: Iterable[str], columns: Any = None) -> Path:
    chosen = columns or {k: v for k, v in ROWS.items() if k != "split"}
    for file in files:
        write(folder, chosen, file)
    return folder


def test_the_split_is_in_the_name(tmp_path: Path) -> None:
    files = ["data/validation-00000-of-00001.parquet", "data/train-00000-of-00002.parquet"]
    folder = names(tmp_path, [*files, "data/train-00001-of-00002.parquet"])
    (folder / "README.md").touch()
    (folder / "data" / ".x.parquet").touch()
    table, root = read_parquet_shards(folder)
    assert table.columns["split"] == ("train",) * 6 + ("val",) * 3
    assert root == folder


def test_a_column_wins_over_names_and_a_rule_over_both(tmp_path: Path) -> None:
    folder = names(tmp_path, ["train-0.parquet", "other.parquet"], ROWS)
    assert read_parquet_shards(folder)[0].columns["split"] == ("train", "val", "test") * 2
    folder = names(tmp_path / "b", ["train-0.parquet", "other.parquet"])
    assert "'other.parquet' beside others that do" in fault(folder)
    table, _ = read_parquet_shards(folder, options=ReadOptions(split="0.5,0.2,0.3"))
    assert "split" not in table.columns
    table, root = read_parquet_shards(names(tmp_path / "c", ["one.parquet", "two.parquet"]))
    with pytest.raises(EmbedcalError, match=r"'split' is missing; cut the rows .*--split 0\.7"):
        build_manifest(table, root=root, name="t")


def test_columns_that_differ_between_shards(tmp_path: Path) -> None:
    names(tmp_path, ["train-0.parquet"])
    write(tmp_path, {"path": ["a"], "y": ["dry"]}, "val-0.parquet")
    assert "found a difference in y (int64), y (string)" in fault(tmp_path)
    write(tmp_path, {"y": [1], "path": ["a"]}, "val-0.parquet")
    assert "another order" in fault(tmp_path)


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("train-00000-of-00003", "train"), ("imagenet-val-000001", "val"), ("Testing", "test"),
        ("dev_set", "val"), ("trainer-0", None), ("train-test-0", None), ("0-1-2", None),
        ("train_training", "train"), ("été-test", "test"), ("", None),
    ],
)  # fmt: skip
def test_splits_in_names(name: str, split: str | None) -> None:
    assert split_in(name) == split


# Images within


def labelled(image: pa.Array, name: str = "image", **more: Any) -> dict[str, Any]:
    n = len(image)
    return {name: image, "label": [i % 2 for i in range(n)], "split": ["train"] * n, **more}


def test_bytes_without_a_struct(tmp_path: Path) -> None:
    data = [png(1), png(2), b"no image"]
    file = write(tmp_path, labelled(pa.array(data, pa.large_binary()), "jpg"))
    table, root = read_parquet_shards(file)
    assert [(root / path).read_bytes() for path in table.columns["path"]] == data
    assert [Path(path).suffix for path in table.columns["path"]] == [".png", ".png", ".img"]
    assert table.columns["y"] == ("0", "1", "0")


def test_a_row_without_an_image_keeps_its_place(tmp_path: Path) -> None:
    file = write(tmp_path, labelled(pictures(png(1), None, b"", png(2), "lost.png")))
    table, root = read_parquet_shards(file)
    manifest = build_manifest(table, root=root, name="t")
    assert [(root / path).exists() for path in manifest.paths] == [True, False, True, True, False]
    assert "2 of 5 files are missing" in manifest.warnings[0]


def test_structs_of_paths_alone_are_paths(tmp_path: Path) -> None:
    file = write(tmp_path, labelled(pictures("x/1.png", "/etc/passwd")))
    table, root = read_parquet_shards(file)
    assert table.columns["path"] == ("x/1.png", "/etc/passwd")
    assert root == tmp_path
    with pytest.raises(EmbedcalError, match="path outside the root"):
        build_manifest(table, root=root, name="t")
    assert read_parquet_shards(file, root=tmp_path / "r")[1] == tmp_path / "r"


def test_which_column_has_the_images(tmp_path: Path) -> None:
    def read(held: dict[str, Any], header: str | None = None) -> list[bytes]:
        options = ReadOptions(columns={"path": header} if header else {})
        table, root = read_parquet_shards(write(tmp_path, held), options=options)
        return [(root / path).read_bytes() for path in table.columns[header or "path"]]

    one, two = png(1), png(2)
    both = labelled(pictures(one), mask=pictures(two))
    assert read(both) == [one]
    assert read(both, "mask") == [two]
    named = labelled(pictures(one), "picture", path=["elsewhere.png"])
    assert read(named) == [one]
    (tmp_path / "elsewhere.png").write_bytes(two)
    assert read(named, "path") == [two]
    several = write(tmp_path, labelled(pictures(one), "left", right=pictures(two)))
    assert "found left, right: name one, as in columns path=left" in fault(several)


def test_the_hubs_names_serve_only_where_ours_are_not_there(tmp_path: Path) -> None:
    hub = {"image": ["i"], "label": [7], "split": ["train"]}
    both = write(tmp_path, {**hub, "path": ["p"], "y": [1]}, "both.parquet")
    table, _ = read_parquet_shards(both)
    assert (table.columns["path"], table.columns["y"]) == (("p",), ("1",))
    table, _ = read_parquet_shards(write(tmp_path, hub))
    assert (table.columns["path"], table.columns["y"]) == (("i",), ("7",))
    options = ReadOptions(columns={"y": "split"})
    assert "y" not in read_parquet_shards(write(tmp_path, hub), options=options)[0].columns


def test_a_root_beside_images(tmp_path: Path) -> None:
    file = write(tmp_path, labelled(pictures(png())))
    assert "expected no root beside" in fault(file, root=tmp_path)


def test_class_names_that_hugging_face_wrote(tmp_path: Path) -> None:
    """Order and names are the feature's, whatever the rows hold."""
    features = hf.Features({"image": hf.Image(), "label": hf.ClassLabel(names=["wet", "dry", "b"])})
    rows = {"image": [{"bytes": png(), "path": None}] * 3, "label": [1, 0, 1]}
    file = tmp_path / "train-00000-of-00001.parquet"
    hf.Dataset.from_dict(rows, features=features).to_parquet(str(file))
    table, root = read_parquet_shards(file)
    manifest = build_manifest(table, root=root, name="t")
    assert manifest.classes == ("wet", "dry", "b")
    assert manifest.y.tolist() == [1, 0, 1]
    assert manifest.split.tolist() == [0, 0, 0]
    ours = build_manifest(table, root=root, name="t", options=ReadOptions(classes="b,dry,wet"))
    assert ours.y.tolist() == [1, 2, 1]


@pytest.mark.parametrize("labels", ['{"y": {"_type": "ClassLabel", "names": [1]}}', "[]", "3", "{"])
def test_metadata_that_is_no_use_is_left_alone(tmp_path: Path, labels: str) -> None:
    metadata = f'{{"info": {{"features": {labels}}}}}'
    table = pa.table(ROWS).replace_schema_metadata({"huggingface": metadata})
    pq.write_table(table, tmp_path / "t.parquet")
    assert read_parquet(tmp_path / "t.parquet").columns["y"] == ("0", "1", "1")
