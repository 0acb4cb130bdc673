"""Folders of classes without folders of splits; those with them are in test_read."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest

from embedcal.datasets import build_manifest, read_tree
from embedcal.datasets.table import cell_of
from embedcal.types import EmbedcalError


def touch(root: Path, paths: Iterable[str]) -> Path:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).touch()
    return root


@pytest.mark.parametrize(
    ("files", "columns"),
    [
        (["b/2.jpg", "a/x.PNG", "a/b.jpg"], {"y": ("a", "a", "b")}),
        (["b/v/1.jpg", "a/u/1.jpg"], {"y": ("a", "b"), "a": ("u", "v")}),
        (["0/1.png", "1/1.png", "2/1.png"], {"y": ("0", "1", "2")}),
        ([f"{i}/1.png" for i in range(10)], {"y": tuple("0123456789")}),
        (["0/u/1.png", "9/u/1.png"], {"y": ("0", "9"), "a": ("u", "u")}),
        (["0/a/1.png", "2/b/1.png"], {"split": ("0", "2"), "y": ("a", "b")}),
        (["0/a/u/1.png"], {"split": ("0",), "y": ("a",), "a": ("u",)}),
        (["train/a/u/1.png"], {"split": ("train",), "y": ("a",), "a": ("u",)}),
        (["大鷲/1.png", "été/2.png", ".git/x.png"], {"y": ("été", "大鷲")}),
    ],
)
def test_forms(tmp_path: Path, files: list[str], columns: dict[str, tuple[str, ...]]) -> None:
    table = read_tree(touch(tmp_path, files))
    shown = sorted(tuple(path.split("/")) for path in files if not path.startswith("."))
    assert dict(table.columns) == {"path": tuple("/".join(parts) for parts in shown), **columns}
    assert table.notes == ()


@pytest.mark.parametrize(
    ("files", "said"),
    [
        (["train/a/1.jpg", "cat/1.jpg"], "found cat"),
        (["test/a/1.jpg", "0/1.jpg", "x/1.jpg"], "found x"),
        (
            ["cat/1.jpg", "1.jpg"],
            "class/image, or every one at class/attribute/image, found '1.jpg'",
        ),
        (["cat/1.jpg", "dog/u/1.jpg", "dog/2.jpg"], "'dog/u/1.jpg' beside others"),
        (["cat/u/1.jpg", "dog/u/1.jpg", "dog/2.jpg"], "'dog/2.jpg' beside others"),
        (["cat/u/x/1.jpg"], "'cat/u/x/1.jpg' beside others"),
        (["train/1.jpg"], "split/class/image, or every one"),
        (["cat/notes.txt"], "expected images"),
        (["1.jpg"], "found no folder"),
        (["cat/1.jpg", "metadata.csv"], "there is a metadata.csv"),
    ],
)
def test_what_is_no_tree(tmp_path: Path, files: list[str], said: str) -> None:
    with pytest.raises(EmbedcalError) as caught:
        read_tree(touch(tmp_path, files))
    assert said in str(caught.value)
    assert str(caught.value).isprintable()


def test_without_a_rule_the_message_names_one(tmp_path: Path) -> None:
    table = read_tree(touch(tmp_path, ["a/1.jpg", "b/1.jpg", "b/x.txt"]))
    assert table.notes == ("1 files are no images by name; the first is 'b/x.txt'",)
    with pytest.raises(
        EmbedcalError, match=r"'split' is missing; .* such as --split 0\.7,0\.1,0\.2"
    ):
        build_manifest(table, root=tmp_path, name="t")


def test_cells_as_csv_has_them() -> None:
    values = [None, float("nan"), 3.0, -0.0, 0.1, 2.0**60, True, 7, "x"]
    shown = ["", "", "3", "0", "0.1", "1.152921504606847e+18", "True", "7", "x"]
    assert [cell_of(value) for value in values] == shown
