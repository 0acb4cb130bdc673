"""CSV files, folders and prompts files, read from disk."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from embedcal.datasets import (
    ReadOptions,
    attributes_of,
    columns_of,
    group_counts,
    read_csv,
    read_manifest,
)
from embedcal.types import EmbedcalError

HEADER = ("path", "y", "a", "split")
NAMED = ReadOptions(classes="dry,wet", attributes="land,water")


def touch(root: Path, paths: Iterable[str]) -> None:
    """Empty files: reading a manifest opens none of them."""
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).touch()


def write(path: Path, rows: Iterable[Sequence[object]], header: Sequence[str] = HEADER) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])
    return path


def good_rows() -> list[list[Any]]:
    return [[f"images/{i}.jpg", i // 2 % 2, i % 2, i // 4] for i in range(12)]


@pytest.fixture
def good(tmp_path: Path) -> Path:
    rows = good_rows()
    touch(tmp_path, [row[0] for row in rows])
    return write(tmp_path / "my set.csv", rows)


@pytest.mark.parametrize("option", ["rows", "seed"])
def test_rows_and_a_seed_are_for_what_is_made_here(good: Path, option: str) -> None:
    for source in (str(good), str(good.parent), "waterbirds"):
        line = fault(source, **{option: 5})
        assert f"expected no {option} for " in line
        assert line.endswith(f"found 5: leave --{option} out")


def fault(source: str | Path, **options: Any) -> str:
    with pytest.raises(EmbedcalError) as caught:
        read_manifest(source, options=ReadOptions(**options))
    assert "\n" not in str(caught.value)
    return str(caught.value)


# CSV


def test_csv(good: Path) -> None:
    manifest = read_manifest(good, options=NAMED)
    assert manifest.name == "my set"
    assert manifest.root == good.parent
    assert manifest.paths == tuple(row[0] for row in good_rows())
    assert manifest.y.tolist() == [row[1] for row in good_rows()]
    assert manifest.attribute("a").labels.tolist() == [row[2] for row in good_rows()]
    assert manifest.split.tolist() == [row[3] for row in good_rows()]
    assert group_counts(manifest) == {name: [1, 1, 1, 1] for name in ("train", "val", "test")}
    assert manifest.warnings == ()


def test_foreign_headers_spaces_and_a_byte_order_mark(tmp_path: Path, good: Path) -> None:
    text = good.read_text().replace("path,y,a,split", " file , label, place ,fold,note", 1)
    lines = text.splitlines()
    body = [f'{line.replace(",", ", ")},"x, y"' for line in lines[1:]]
    foreign = tmp_path / "foreign.csv"
    foreign.write_text("\ufeff" + "\r\n".join([lines[0], *body]) + "\r\n", encoding="utf-8")
    columns = {"path": "file", "y": "label", "a": "place", "split": "fold"}
    manifest = read_manifest(
        foreign, options=ReadOptions(columns=columns, classes="dry,wet", attributes="land,water")
    )
    plain = read_manifest(good, options=NAMED)
    assert manifest.attributes[0].name == "place"
    assert manifest.paths == plain.paths
    assert manifest.y.tolist() == plain.y.tolist()
    assert manifest.attributes[0].labels.tolist() == plain.attributes[0].labels.tolist()
    assert manifest.split.tolist() == plain.split.tolist()


def test_attribute_name_and_root(good: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    elsewhere = tmp_path_factory.mktemp("tables") / "t.csv"
    elsewhere.write_bytes(good.read_bytes())
    options = ReadOptions(classes="dry,wet", attributes="land,water", attribute_name="place")
    manifest = read_manifest(str(elsewhere), root=str(good.parent), options=options)
    assert manifest.attribute("place").values == ("land", "water")
    assert manifest.root == good.parent
    assert str(elsewhere.parent / "images" / "0.jpg") in fault(elsewhere)


def test_tabs(good: Path) -> None:
    tabs = good.with_suffix(".tsv")
    tabs.write_text(good.read_text().replace(",", "\t"))
    assert read_manifest(tabs, options=NAMED).paths == read_manifest(good, options=NAMED).paths


def test_line_numbers_count_blank_lines_and_line_breaks_in_quotes(tmp_path: Path) -> None:
    text = 'path,y,split,id\n"a\nb",0,0,1\n\n\nc,0,0,2\nd,0,tset,3\ne,0,0,2\n"f\ng",0,,4\n'
    (tmp_path / "t.csv").write_text(text)
    lines = text.splitlines()
    message = fault(tmp_path / "t.csv", classes="only", check_files=False)
    assert lines[7 - 1].startswith("d")
    assert "line 7 ('tset'), line 9 ('')" in message  # a record is where it begins
    assert "line 8 ('2') after line 6" in message


def test_cells_that_are_missing_or_too_many(good: Path) -> None:
    lines = good.read_text().splitlines()
    lines[3] += ",extra"
    lines[5] = "images/4.jpg,0"
    good.write_text("\n".join(lines))
    message = fault(good)
    assert "line 4 (5 cells), line 6 (2 cells)" in message


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "empty file"),
        (b"\n\n", "empty file"),
        (b"path,y,split\n", "only a header"),
        (b"path,y,y,split\na,0,0,0\n", "'y' more than once"),
        (b"path;y;split\na;0;0\n", "expected commas"),
        (b"path,y,split\na,0,0\n\xff\xfe,0,0\n", "0xff"),
        ("path,y,split\na,0,0\n".encode("utf-16-le"), "NUL"),
        (b"path,y,split\na,0,0\nb\x00,0,0\n", "NUL byte at line 3"),
        (b'path,y,split\na,0,0\n"b,0,0\nc,0,0\n', "begins at line 3"),
        (b"path,y,split\n" + b"a" * 200_000 + b",0,0\n", "begins at line 2"),
        (b"PK\x03\x04\xff\xff\xff", "UTF-8"),
    ],
)
def test_files_that_are_no_table(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "t.csv").write_bytes(content)
    assert said in fault(tmp_path / "t.csv")


def test_wrong_names_for_columns(good: Path) -> None:
    assert "expected columns to be named for" in fault(good, columns={"label": "y"})
    assert "'img' is missing" in fault(good, columns={"path": "img"})
    assert "'key' is missing" in fault(good, columns={"id": "key"})


@pytest.mark.parametrize("names", ["dry,", "dry,dry", 'dry,"wet', ",wet"])
def test_class_names_that_are_none(good: Path, names: str) -> None:
    assert "class names" in fault(good, classes=names)


def test_class_names_with_a_comma(good: Path) -> None:
    options = ReadOptions(classes='"bird, dry", wet', attributes="land,water")
    assert read_manifest(good, options=options).classes == ("bird, dry", "wet")


def test_strict_makes_warnings_errors(good: Path) -> None:
    (good.parent / "images" / "3.jpg").unlink()
    assert len(read_manifest(good, options=NAMED).warnings) == 1
    message = fault(good, strict=True, classes="dry,wet", attributes="land,water")
    assert "images/3.jpg" in message


def test_read_csv_leaves_cells_alone(tmp_path: Path) -> None:
    write(tmp_path / "t.csv", [[" a ", "NA", "", "null"]])
    assert [cells[0] for cells in read_csv(tmp_path / "t.csv").columns.values()] == [
        " a ",
        "NA",
        "",
        "null",
    ]


# Any valid table comes back as it was written.

PART = st.text(
    st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="/\\:"),
    min_size=1,
    max_size=8,
).filter(lambda part: part not in (".", ".."))
PATH = st.lists(PART, min_size=1, max_size=3).map("/".join)
NAME = st.text(st.characters(categories=["L"]), min_size=1, max_size=6)
KEY = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1)


@st.composite
def tables(draw: st.DrawFn) -> dict[str, Any]:
    paths = draw(st.lists(PATH, min_size=1, max_size=12, unique=True))
    n = len(paths)
    classes = draw(st.lists(NAME, min_size=1, max_size=4, unique=True))
    values = draw(st.lists(NAME, min_size=1, max_size=3, unique=True))

    def codes(low: int, high: int) -> Any:
        return draw(st.lists(st.integers(low, high), min_size=n, max_size=n))

    return {
        "path": paths,
        "id": draw(st.lists(KEY, min_size=n, max_size=n, unique=True)),
        "y": codes(0, len(classes) - 1),
        "a": codes(-1, len(values) - 1),
        "split": codes(0, 2),
        "classes": classes,
        "values": values,
        "spelled": draw(st.booleans()),
    }


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60
)
@given(tables())
def test_any_valid_table_comes_back(tmp_path: Path, table: dict[str, Any]) -> None:
    y, a, split = table["y"], table["a"], table["split"]
    if table["spelled"]:
        y = [table["classes"][code] for code in y]
        a = ["" if code < 0 else table["values"][code] for code in a]
        split = [("train", "val", "test")[code] for code in split]
    columns = [table["path"], table["id"], y, a, split]
    file = write(tmp_path / "t.csv", zip(*columns, strict=True), ("path", "id", "y", "a", "split"))
    options = ReadOptions(classes=table["classes"], attributes=table["values"], check_files=False)
    manifest = read_manifest(file, options=options)
    assert manifest.paths == tuple(table["path"])
    assert manifest.ids == tuple(table["id"])
    assert manifest.y.tolist() == table["y"]
    assert manifest.attribute().labels.tolist() == table["a"]
    assert manifest.split.tolist() == table["split"]
    assert manifest.classes == tuple(table["classes"])
    assert manifest.attribute().values == tuple(table["values"])


# Folders


def test_tree_with_and_without_attribute(tmp_path: Path) -> None:
    shallow = [f"{s}/{c}/{i}.jpg" for s in ("train", "valid", "test") for c in "ba" for i in (2, 1)]
    touch(tmp_path / "shallow", shallow)
    manifest = read_manifest(tmp_path / "shallow")
    assert manifest.paths == tuple(sorted(shallow))
    assert manifest.classes == ("a", "b")
    assert manifest.attributes == ()
    assert manifest.name == "shallow"
    assert manifest.warnings == ()

    deep = [f"{s}/{c}/{p}/x.PNG" for s in ("train", "val", "test") for c in "ab" for p in "uv"]
    touch(tmp_path / "deep", [*deep, "train/.DS_Store", "train/a/u/.x.jpg", ".git/config"])
    manifest = read_manifest(
        tmp_path / "deep", options=ReadOptions(classes="b,a", attribute_name="place")
    )
    assert manifest.paths == tuple(sorted(deep))
    assert manifest.y.tolist() == [int(path.split("/")[1] == "a") for path in sorted(deep)]
    assert manifest.attribute("place").values == ("u", "v")
    assert manifest.attribute().labels.tolist() == [
        int(path.split("/")[2] == "v") for path in sorted(deep)
    ]
    assert manifest.warnings == ()


def test_a_split_that_is_drawn(tmp_path: Path) -> None:
    """Over a folder without splits, and over a table in place of its own column."""
    names = [f"{c}/{p}/{i}.jpg" for c in "ab" for p in "uv" for i in range(20)]
    touch(tmp_path / "plain", names)
    options = ReadOptions(split="0.5,0.25,0.25", attribute_name="place")
    manifest = read_manifest(tmp_path / "plain", options=options)
    assert group_counts(manifest) == {"train": [10] * 4, "val": [5] * 4, "test": [5] * 4}
    other = read_manifest(tmp_path / "plain", options=replace(options, split_seed=1))
    assert group_counts(other) == group_counts(manifest)
    assert other.split.tolist() != manifest.split.tolist()
    lines = ["path,y,a,split", *(f"plain/{n},{n[0]},{n[2]},train" for n in names)]
    (tmp_path / "t.csv").write_text("\n".join(lines))
    table = read_manifest(tmp_path / "t.csv", options=replace(options, attribute_name=None))
    assert table.split.tolist() == manifest.split.tolist()
    assert "fractions" in fault(tmp_path / "t.csv", split="half")
    assert "--split" in fault(tmp_path / "plain")


def test_tree_notes_other_files(tmp_path: Path) -> None:
    touch(tmp_path, [f"{s}/a/1.jpg" for s in ("train", "val", "test")] + ["train/a/notes.txt"])
    (warning,) = read_manifest(tmp_path).warnings
    assert "train/a/notes.txt" in warning


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ([], "found no folder"),
        (["trian/a/1.jpg", "test/a/1.jpg"], "found trian"),
        (["train/a/notes.txt"], "expected images"),
        (["train/1.jpg"], "'train/1.jpg'"),
        (["train/a/1.jpg", "train/a/u/2.jpg", "train/a/3.jpg"], "'train/a/u/2.jpg' beside"),
        (["train/a/u/1.jpg", "train/a/u/2.jpg", "train/a/3.jpg"], "'train/a/3.jpg' beside"),
        (["cub/1.jpg", "metadata.csv"], "metadata.csv"),
    ],
)
def test_folders_that_are_no_tree(tmp_path: Path, files: list[str], said: str) -> None:
    touch(tmp_path, files)
    assert said in fault(tmp_path)


def test_tree_of_links(tmp_path: Path) -> None:
    touch(tmp_path / "inside", [f"{s}/a/1.jpg" for s in ("train", "val", "test")])
    (tmp_path / "inside" / "train" / "ring").symlink_to(tmp_path / "inside" / "train")
    touch(tmp_path / "elsewhere", ["2.jpg"])
    assert "beside others" in fault(tmp_path / "inside")
    (tmp_path / "inside" / "train" / "ring").unlink()
    (tmp_path / "inside" / "train" / "b").symlink_to(tmp_path / "elsewhere")
    assert "outside the root" in fault(tmp_path / "inside")
    options = ReadOptions(allow_outside_root=True)
    manifest = read_manifest(tmp_path / "inside", options=options)
    assert "train/b/2.jpg" in manifest.paths


def test_a_folder_is_its_own_root(tmp_path: Path) -> None:
    touch(tmp_path, [f"{s}/a/1.jpg" for s in ("train", "val", "test")])
    with pytest.raises(EmbedcalError, match="expected no root beside the folder"):
        read_manifest(tmp_path, root=tmp_path)


# Sources


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("waterbird", "did you mean waterbirds"),
        ("Waterbirds", "did you mean waterbirds"),
        ("brids", "did you mean birds"),
        ("no/such/file.csv", "check the spelling or the path"),
        ("\x1b[2J", "check the spelling"),
        ("a\0b", "check the spelling"),
    ],
)
def test_unknown_source(source: str, said: str) -> None:
    message = fault(source)
    assert said in message
    assert "a named data set ('embedcal datasets' lists them), a file or a folder" in message
    assert message.isprintable()


# Prompts


def test_prompts_file(good: Path, tmp_path: Path) -> None:
    file = tmp_path / "prompts.json"
    file.write_text(
        json.dumps({"class": ["a dry bird", "a wet bird"], "context": ["on l", "on w"]})
    )
    options = ReadOptions(classes="dry,wet", attributes="land,water", prompts=file)
    assert read_manifest(good, options=options).prompts == {
        "class": ("a dry bird", "a wet bird"),
        "attribute": ("land", "water"),
        "context": ("on l", "on w"),
    }
    same = ReadOptions(
        classes="dry,wet", attributes="land,water", prompts=json.loads(file.read_text())
    )
    assert read_manifest(good, options=same).prompts["context"] == ("on l", "on w")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('{"class": ["a"]}', "expected 2 prompts in bank 'class'"),
        ('{"attribute": ["a", "b", "c"]}', "expected 2 prompts in bank 'attribute'"),
        ('{"context": []}', "expected 2 prompts"),
        ('{"group": ["a", "b"]}', "expected 4 prompts in bank 'group'"),
        ('{"clas": ["a", "b"]}', "expected banks named class, attribute, context, group"),
        ('{"class": "ab"}', "a list of texts"),
        ('{"class": ["a", " "]}', "a list of texts"),
        ('{"class": ["a", 1]}', "a list of texts"),
        ('["a", "b"]', "found a list"),
        ('{"class": ["a",', "expected JSON"),
        ("[" * 100_000, "expected JSON"),
    ],
)
def test_prompts_files_that_do_not_fit(good: Path, content: str, said: str) -> None:
    file = good.with_suffix(".json")
    file.write_text(content)
    assert said in fault(good, classes="dry,wet", attributes="land,water", prompts=file)


def test_prompts_file_that_is_not_there(good: Path) -> None:
    assert "expected a prompts file" in fault(good, prompts=good.with_suffix(".no"))


# Options as they are typed


def test_options_as_typed() -> None:
    assert columns_of(" path = file , y=label") == {"path": "file", "y": "label"}
    assert attributes_of("land,water") == "land,water"
    several = {"place": "land,water", "time": ""}
    assert attributes_of("place=land,water; time=;") == several


@pytest.mark.parametrize("text", ["path", "=file", "path=a,,y=b"])
def test_options_mistyped(text: str) -> None:
    with pytest.raises(EmbedcalError, match="OURS=HEADER"):
        columns_of(text)


def test_attributes_by_their_columns() -> None:
    assert attributes_of("") is None
    assert attributes_of("land,water") == "land,water"
    assert attributes_of("", ["place", "time"]) == {"place": "", "time": ""}
    assert attributes_of("land,water", ["place"]) == {"place": "land,water"}
    assert attributes_of("time=day,night", ["place"]) == {"place": "", "time": "day,night"}
    with pytest.raises(EmbedcalError, match="for all"):
        attributes_of("land,water", ["place", "time"])


def test_attributes_mistyped() -> None:
    with pytest.raises(EmbedcalError, match="NAME=VALUES"):
        attributes_of("place=land;time")


# The module


def test_import_is_light() -> None:
    code = (
        "import sys, embedcal.datasets; "
        "print([m for m in ('torch', 'pandas', 'open_clip', 'PIL', 'h5py') if m in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_arrays_are_int64(good: Path) -> None:
    manifest = read_manifest(good, options=NAMED)
    for codes in (manifest.y, manifest.split, manifest.attribute().labels):
        assert codes.dtype == np.int64
