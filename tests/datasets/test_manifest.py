"""What a table must be before an image is opened, and what a manifest says of itself."""

from __future__ import annotations

import os
import random
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedcal.datasets import (
    Attribute,
    Manifest,
    ReadOptions,
    Table,
    build_manifest,
    group_counts,
    printable,
)
from embedcal.datasets.files import leads_out, normalise
from embedcal.datasets.labels import factorise, read_labels, split_code
from embedcal.types import SPLITS, EmbedcalError

NAMED = ReadOptions(classes="dry,wet", attributes="land,water", check_files=False)


def table(**changes: list[object]) -> Table:
    """Twelve good rows, the columns in ``changes`` put in their place."""
    columns: dict[str, list[object]] = {
        "path": [f"{i}.jpg" for i in range(12)],
        "y": [0, 0, 1, 1] * 3,
        "a": [0, 1, 0, 1] * 3,
        "split": [0] * 4 + [1] * 4 + [2] * 4,
    }
    return Table.of(columns | changes)


def build(columns: Table, options: ReadOptions = NAMED) -> Manifest:
    return build_manifest(columns, root=Path("nowhere"), name="t", options=options)


def fault(columns: Table, options: ReadOptions = NAMED) -> str:
    with pytest.raises(EmbedcalError) as caught:
        build(columns, options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_good_table_is_kept_as_it_is() -> None:
    manifest = build(table())
    assert len(manifest) == 12
    assert manifest.paths == manifest.ids == tuple(f"{i}.jpg" for i in range(12))
    assert manifest.y.tolist() == [0, 0, 1, 1] * 3
    assert manifest.attribute("a").labels.tolist() == [0, 1, 0, 1] * 3
    assert manifest.split.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert manifest.classes == ("dry", "wet")
    assert manifest.warnings == ()
    assert manifest.prompts == {"class": ("dry", "wet"), "attribute": ("land", "water")}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"split": [0] * 10 + ["tets", 3]}, "unknown split"),
        ({"y": [0, 1] * 5 + [2, 1]}, "label out of range 0 to 1: row 11 ('2')"),
        ({"y": [0, 1] * 5 + [-1, 1]}, "label out of range 0 to 1: row 11 ('-1')"),
        ({"y": [0, 1] * 5 + [1.5, 1]}, "label not an integer: row 11 ('1.5')"),
        ({"y": [0, 1] * 5 + ["wett", 1]}, "label not an integer: row 11 ('wett')"),
        ({"y": [0, 1] * 3 + ["wet", "dri"] * 3}, "not an integer: row 7 ('wet')"),
        ({"y": ["wet", "dry"] * 5 + ["wett", "dry"]}, "not among dry, wet: row 11 ('wett')"),
        ({"y": [0, 1] * 5 + [None, 1]}, "blank label: row 11 ('')"),
        ({"y": [0, 1] * 5 + ["9" * 5000, 1]}, "label not an integer: row 11"),
        ({"a": [0, 1] * 5 + [2, 1]}, "attribute 'a' out of range 0 to 1: row 11 ('2')"),
        ({"a": [0, 1] * 5 + [-2, 1]}, "attribute 'a' out of range 0 to 1: row 11 ('-2')"),
        ({"a": [0, 1] * 5 + ["x", 1]}, "attribute 'a' not an integer: row 11 ('x')"),
        ({"path": ["a"] * 2 + [f"{i}" for i in range(10)]}, "row 2 ('a') after row 1"),
        ({"path": ["a", *"bcdefghijk", "a"]}, "one image in two splits: row 12 ('a') after row 1"),
        ({"path": ["a", *"bcdefghijk", "./a"]}, "one image in two splits: row 12"),
        ({"path": [*"abcdefghijk", None]}, "blank path: row 12"),
        ({"path": [*"abcdefghijk", "../l"]}, "outside the root"),
        ({"path": [*"abcdefghijk", "/l"]}, "outside the root"),
        ({"path": [*"abcdefghijk", "b/../../l"]}, "outside the root"),
        ({"path": [*"abcdefghijk", "\udcff"]}, "path not in UTF-8: row 12"),
        ({"id": [*range(11), 0]}, "duplicate id: row 12 ('0') after row 1"),
        ({"id": [*range(11), None]}, "blank id: row 12"),
        ({"mask": ["m.png"] * 11 + ["../m.png"]}, "mask outside the root: row 12"),
    ],
)
def test_every_fault_is_named_with_its_row(changes: dict[str, list[object]], said: str) -> None:
    assert said in fault(table(**changes))


def test_all_faults_are_in_one_message() -> None:
    message = fault(
        table(
            split=[0] * 11 + ["x"],
            y=[0, 1] * 5 + [7, 1],
            a=[0, 1] * 5 + [9, 1],
            id=[*range(11), 0],
        )
    )
    assert "4 kinds of fault" in message
    for part in ("unknown split", "label out of range", "attribute 'a'", "duplicate id"):
        assert part in message


def test_an_image_in_two_splits_is_one_fault_and_no_duplicate_besides() -> None:
    message = fault(table(path=["a", *"bcdefghijk", "a"]))
    assert "1 kind of fault" in message


def test_columns_of_unequal_length() -> None:
    with pytest.raises(EmbedcalError, match="path 2, y 1"):
        Table.of({"path": ["a", "b"], "y": [0]})


def test_five_places_are_shown_and_the_rest_counted() -> None:
    columns = {
        "path": [str(i) for i in range(2000)],
        "y": [0] * 2000,
        "split": ["train", "zug"] * 1000,
    }
    message = fault(Table.of(columns), ReadOptions(classes="only", check_files=False))
    assert message.count("('zug')") == 5
    assert "row 10 ('zug') and 995 more" in message


@pytest.mark.parametrize("gone", ["path", "y", "split"])
def test_missing_column_names_those_found(gone: str) -> None:
    columns = {name: cells for name, cells in table().columns.items() if name != gone}
    message = fault(Table(source="t.csv", columns=columns))
    assert f"'{gone}' is missing" in message
    assert all(name in message for name in columns)


def test_missing_column_guesses_a_similar_header() -> None:
    columns = dict(table().columns)
    columns["splitt"] = columns.pop("split")
    assert "did you mean 'splitt'?" in fault(Table(source="t.csv", columns=columns))


def test_named_attribute_without_a_column() -> None:
    columns = {name: cells for name, cells in table().columns.items() if name != "a"}
    assert "'a' is missing" in fault(Table(source="t.csv", columns=columns))


def test_empty_table() -> None:
    assert "found only a header" in fault(table(path=[], y=[], a=[], split=[]))


def test_unknown_attribute_values_are_allowed_and_in_no_group() -> None:
    manifest = build(table(a=[0, 1, 0, 1, None, "", -1, "-1.0", 0, 1, 0, float("nan")]))
    assert manifest.attribute().labels.tolist() == [0, 1, 0, 1, -1, -1, -1, -1, 0, 1, 0, -1]
    assert group_counts(manifest)["val"] == [0, 0, 0, 0]
    assert group_counts(manifest)["test"] == [1, 1, 1, 0]


def test_attribute_without_any_known_value() -> None:
    options = replace(NAMED, attributes=None)
    assert "attribute 'a' has no known value" in fault(table(a=[None] * 12), options)


def test_no_attribute_at_all() -> None:
    columns = {name: cells for name, cells in table().columns.items() if name != "a"}
    manifest = build(Table(source="t", columns=columns), replace(NAMED, attributes=None))
    assert manifest.attributes == ()
    assert "attribute" not in manifest.prompts
    assert group_counts(manifest) == {split: [2, 2] for split in SPLITS}
    with pytest.raises(EmbedcalError, match="expected an attribute in t, found none"):
        manifest.attribute()


@pytest.mark.parametrize("spelling", ["val", "valid", "Validation", "1", "1.0", " val "])
def test_spellings_of_validation(spelling: str) -> None:
    manifest = build(table(split=[0] * 4 + [spelling] * 4 + ["TEST"] * 4))
    assert manifest.split.tolist() == [0] * 4 + [1] * 4 + [2] * 4


def test_names_take_their_order_from_options_else_sorted() -> None:
    columns = table(y=["wet", "wet", "dry", "dry"] * 3)
    assert build(columns).y.tolist() == [1, 1, 0, 0] * 3
    assert build(columns, replace(NAMED, classes=None)).classes == ("dry", "wet")
    turned = build(columns, replace(NAMED, classes=("wet", "dry")))
    assert turned.y.tolist() == [0, 0, 1, 1] * 3
    assert turned.classes == turned.prompts["class"] == ("wet", "dry")


def test_names_that_look_like_numbers_are_names_when_all_are_listed() -> None:
    manifest = build(table(y=["3", "3", "7", "7"] * 3), replace(NAMED, classes="7,3"))
    assert manifest.y.tolist() == [1, 1, 0, 0] * 3


def test_integers_without_names_are_warned_about() -> None:
    manifest = build(table(), ReadOptions(check_files=False))
    assert manifest.classes == ("0", "1")
    assert len(manifest.warnings) == 2
    assert all("prompts are the numbers" in warning for warning in manifest.warnings)


def test_empty_group_class_and_split_are_warned_about() -> None:
    lacking = build(table(a=[0, 0, 0, 1] * 3))
    assert lacking.warnings == ("the group dry, a=water is empty in train",)
    third = build(table(), replace(NAMED, classes="dry,wet,damp"))
    assert third.warnings == ("the class damp is empty in train",)
    no_test = build(table(split=[0] * 8 + [1] * 4))
    assert no_test.warnings == ("the split test has no rows",)


def test_several_attributes_in_the_order_given() -> None:
    columns = table(time=["day", "night", "night", None] * 3, place=["sea", "land"] * 6)
    chosen = {"place": "land,sea", "time": ()}
    manifest = build(columns, ReadOptions(classes="d,w", attributes=chosen, check_files=False))
    assert [a.name for a in manifest.attributes] == ["place", "time"]
    assert manifest.attribute("place").labels.tolist() == [1, 0] * 6
    assert manifest.attribute("time").labels.tolist() == [0, 1, 1, -1] * 3
    assert manifest.prompts["attribute"] == ("land", "sea", "day", "night")
    assert group_counts(manifest, "time")["train"] == [1, 1, 0, 1]
    assert group_counts(manifest) == group_counts(manifest, "place")


def test_group_counts_against_a_plain_count() -> None:
    rng = np.random.default_rng(0)
    y, a, split = rng.integers(0, 3, 500), rng.integers(-1, 4, 500), rng.integers(0, 3, 500)
    manifest = Manifest(
        name="m",
        root=Path(),
        ids=tuple(map(str, range(500))),
        paths=tuple(map(str, range(500))),
        y=y,
        split=split,
        classes=("a", "b", "c"),
        attributes=(Attribute(name="k", values=("p", "q", "r", "s"), labels=a),),
    )
    expected = {name: [0] * 12 for name in SPLITS}
    for label, value, where in zip(y, a, split, strict=True):
        if value >= 0:
            expected[SPLITS[where]][label * 4 + value] += 1
    assert group_counts(manifest) == expected


@pytest.mark.parametrize(
    "change",
    [
        {"paths": ("a",)},
        {"y": np.array([0, 2])},
        {"split": np.array([0, 3])},
        {"ids": ("a", "a")},
        {"box": np.zeros((3, 4))},
        {"masks": ("m",)},
        {"attributes": (Attribute(name="k", values=("p",), labels=np.array([0, -2])),)},
    ],
)
def test_a_manifest_made_by_hand_is_checked(change: dict[str, object]) -> None:
    good = Manifest(
        name="m",
        root=Path(),
        ids=("a", "b"),
        paths=("a", "b"),
        y=np.array([0, 1]),
        split=np.array([0, 2]),
        classes=("c", "d"),
    )
    with pytest.raises(EmbedcalError):
        replace(good, **change)  # type: ignore[arg-type]


# Files


def files_table(*paths: str) -> Table:
    n = len(paths)
    return Table.of({"path": paths, "y": [0] * n, "split": [0] * n})


ONE = ReadOptions(classes="only")


def test_few_missing_files_stay_as_rows(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).touch()
    manifest = build_manifest(files_table("a", "gone", "b"), root=tmp_path, name="t", options=ONE)
    assert manifest.paths == ("a", "gone", "b")
    assert "1 of 3 files are missing" in manifest.warnings[0]
    assert "'gone'" in manifest.warnings[0]


@pytest.mark.parametrize("here", [0, 1])
def test_mostly_missing_files_are_a_wrong_root(tmp_path: Path, here: int) -> None:
    for name in ["a"][:here]:
        (tmp_path / name).touch()
    with pytest.raises(EmbedcalError) as caught:
        build_manifest(files_table("a", "b", "c"), root=tmp_path, name="t", options=ONE)
    assert str(tmp_path) in str(caught.value)
    assert str(tmp_path / ("b" if here else "a")) in str(caught.value)
    assert "--root" in str(caught.value)


def test_half_missing_is_still_a_warning(tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    manifest = build_manifest(files_table("a", "b"), root=tmp_path, name="t", options=ONE)
    assert len(manifest) == 2


def test_root_must_be_a_folder(tmp_path: Path) -> None:
    with pytest.raises(EmbedcalError, match="name it with --root"):
        build_manifest(files_table("a"), root=tmp_path / "no", name="t", options=ONE)


def outside_tree(tmp_path: Path) -> Path:
    """A root with a good image, a link to a file outside, and a link to a folder outside."""
    root, out = tmp_path / "root", tmp_path / "out"
    root.mkdir()
    out.mkdir()
    (root / "in").touch()
    (root / "alias").symlink_to(root / "in")
    (out / "x").touch()
    (root / "link").symlink_to(out / "x")
    (root / "folder").symlink_to(out)
    return root


@pytest.mark.parametrize("path", ["link", "folder/x", "../out/x", "ABSOLUTE"])
def test_paths_that_lead_out_are_refused_unless_allowed(tmp_path: Path, path: str) -> None:
    root = outside_tree(tmp_path)
    path = path.replace("ABSOLUTE", str(tmp_path / "out" / "x"))
    rows = files_table("in", path)
    with pytest.raises(EmbedcalError, match=r"outside the root .*--allow-outside-root.*row 2"):
        build_manifest(rows, root=root, name="t", options=ONE)
    allowed = build_manifest(
        rows, root=root, name="t", options=replace(ONE, allow_outside_root=True)
    )
    assert allowed.allow_outside_root
    assert (allowed.root / allowed.paths[1]).is_file()
    assert not [warning for warning in allowed.warnings if "missing" in warning]


def test_links_that_stay_inside_and_a_root_that_is_a_link(tmp_path: Path) -> None:
    root = outside_tree(tmp_path)
    (tmp_path / "door").symlink_to(root)
    rows = files_table("in", "alias")
    assert len(build_manifest(rows, root=tmp_path / "door", name="t", options=ONE)) == 2


def test_a_sibling_whose_name_begins_like_the_root_is_outside(tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    (tmp_path / "root2").mkdir()
    (tmp_path / "root2" / "x").touch()
    (tmp_path / "root" / "x").symlink_to(tmp_path / "root2" / "x")
    with pytest.raises(EmbedcalError, match="outside the root"):
        build_manifest(files_table("x"), root=tmp_path / "root", name="t", options=ONE)


def test_pipes_and_folders_are_no_images(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    (tmp_path / "ring").symlink_to(tmp_path / "ring")
    with pytest.raises(EmbedcalError, match=r"not a regular file: row 1 \('pipe'\), row 2"):
        build_manifest(files_table("pipe", "folder"), root=tmp_path, name="t", options=ONE)
    with pytest.raises(EmbedcalError, match=r"not a regular file: row 1 \('a\\x00'\)"):
        build_manifest(files_table("a\0"), root=tmp_path, name="t", options=ONE)
    with pytest.raises(EmbedcalError, match="missing"):
        build_manifest(files_table("ring"), root=tmp_path, name="t", options=ONE)


# Text


@given(st.text())
def test_printable_is_printable(text: str) -> None:
    assert printable(text).isprintable()


@given(
    st.text(alphabet=st.characters(codec="ascii", categories=["L", "N", "P", "Zs"]), max_size=80)
)
def test_printable_leaves_plain_text_alone(text: str) -> None:
    assert printable(text) == text


def test_terminal_controls_do_not_reach_a_message() -> None:
    evil = "\x1b]0;owned\x07\u202e\r\ndry"
    for changes in ({"y": [evil] + ["x"] * 11}, {"split": [evil] + [0] * 11}, {"a": [evil] * 12}):
        assert fault(table(**changes)).isprintable()  # type: ignore[arg-type]
    columns = {"path": ["p"], evil: ["q"]}
    assert fault(Table.of(columns, source=evil)).isprintable()


def test_a_warning_is_printable_too() -> None:
    evil = "\x1b[31mred"
    manifest = build(table(a=[0, 0, 0, 1] * 3), replace(NAMED, classes=(evil, "b")))
    assert manifest.classes[0] == evil
    assert all(warning.isprintable() for warning in manifest.warnings)


@given(st.lists(st.sampled_from(["a", "b", ".", "..", "", "c.jpg"]), max_size=6))
def test_normalise_agrees_with_pathlib(parts: list[str]) -> None:
    path = "/".join(parts)
    expected = Path(path.lstrip("/")).as_posix() if path.lstrip("/") else ""
    expected = "" if expected == "." else expected
    found = normalise(path)
    assert found.removeprefix("/") == expected
    assert leads_out(found) == (path.startswith("/") or ".." in parts)


# Labels


@given(st.lists(st.text(max_size=3)))
def test_factorise_undoes_itself(cells: list[str]) -> None:
    values, index = factorise(cells)
    assert [values[i] for i in index] == cells
    assert len(set(values)) == len(values)


@given(st.lists(st.sampled_from(["oak", "elm", "ash", "", "-1"]), min_size=1))
def test_names_come_back_from_codes(cells: list[str]) -> None:
    read = read_labels(
        cells, lambda row, cell: "", what="tree", names=("elm", "ash", "oak"), may_be_unknown=True
    )
    back = ["" if code < 0 else read.names[code] for code in read.codes]
    assert back == [cell if cell not in ("", "-1") else "" for cell in cells]
    assert read.problems == ()


@pytest.mark.parametrize("cell", ["", "3", "-1", "0.5", "trian", "1e0", "٠"])
def test_cells_that_are_no_split(cell: str) -> None:
    assert split_code(cell) is None


def test_a_hundred_thousand_rows_take_no_time() -> None:
    n = 100_000
    random.seed(0)
    columns = Table.of(
        {
            "path": [f"{i % 50}/{i}.jpg" for i in range(n)],
            "y": [random.randrange(2) for _ in range(n)],
            "a": [random.randrange(2) for _ in range(n)],
            "split": [random.randrange(3) for _ in range(n)],
        }
    )
    start = time.process_time()
    assert len(build(columns)) == n
    assert time.process_time() - start < 5  # 0.6 s when written
