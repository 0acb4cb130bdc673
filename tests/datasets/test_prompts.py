"""Which prompts a data set keeps, descriptions of its classes, and the crop that is asked for."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from embedcal.datasets.descriptions import even, read_descriptions
from embedcal.datasets.manifest import Manifest
from embedcal.datasets.options import ReadOptions, crop_of
from embedcal.datasets.prompts import left_out, prompts_for
from embedcal.datasets.read import read_manifest
from embedcal.types import EmbedcalError

OWN = {"class": ("a", "b"), "attribute": ("u", "v"), "context": ("on u", "on v"), "group": ("1",)}


@pytest.mark.parametrize(
    ("classes", "attributes", "kept", "warned"),
    [
        (False, False, {"class", "attribute", "context", "group"}, ""),
        (True, False, {"attribute", "context"}, "of group do not fit"),
        (False, True, {"class"}, "of context and group do not fit"),
        (True, True, set(), "of context and group do not fit"),
    ],
)
def test_only_the_banks_that_were_touched_go(
    classes: bool, attributes: bool, kept: set[str], warned: str
) -> None:
    found = prompts_for(OWN, classes_overridden=classes, attributes_overridden=attributes)
    assert found == {bank: OWN[bank] for bank in kept}
    said = left_out(OWN, found)
    assert len(said) == bool(warned)
    assert warned in "".join(said)
    assert left_out({"class": ("a",)}, {}) == ()


@pytest.mark.parametrize("as_file", [True, False])
def test_descriptions_are_kept_word_for_word_in_the_order_of_the_classes(
    tmp_path: Path, as_file: bool
) -> None:
    given = {
        "WATER_bird": [" Swims. ", "Swims.", " Swims. "],
        "land-Bird ": ["Walks, {} \u00fcberall.", "b", "c"],
        "no class": [],
        "No Class": "of no matter",
    }
    path = tmp_path / "d.json"
    path.write_text(json.dumps(given))
    found = read_descriptions(path if as_file else given, ("land bird", "Water Bird"))
    assert found == (("Walks, {} \u00fcberall.", "b", "c"), (" Swims. ", "Swims.", " Swims. "))
    assert even(found) == (found, "")
    assert read_descriptions(None, ("a",)) == ()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"a": ["x"]}, "class 'bird' in the descriptions, found none: name"),
        ({"a": ["x"], "brid": ["y"]}, "found none (the nearest is 'brid')"),
        ({"a": ["x"], "bird": []}, "for 'bird' in the descriptions, found []"),
        ({"a": ["x"], "bird": "y"}, "found 'y'"),
        ({"a": ["x", " "], "bird": ["y"]}, "none blank, for 'a'"),
        ({"a": [3], "bird": ["y"]}, "for 'a'"),
        ({"a": ["\ud800"], "bird": ["y"]}, "for 'a'"),
        ({"a": ["x"], "bird": ["y"], "Bird": ["z"]}, "found 'bird' and 'Bird'"),
    ],
)
def test_descriptions_that_do_not_fit(given: dict[str, object], said: str) -> None:
    with pytest.raises(EmbedcalError) as error:
        read_descriptions(given, ("a", "bird"))  # type: ignore[arg-type]
    assert said in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("content", "said"),
    [("[]", "found a list"), ("{", "found a fault"), (None, "expected a file of descriptions")],
)
def test_a_file_that_is_none(tmp_path: Path, content: str | None, said: str) -> None:
    path = tmp_path / "d.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(EmbedcalError, match=said):
        read_descriptions(path, ("a",))


def test_the_first_of_each_are_used_where_the_numbers_differ() -> None:
    found, note = even((("a", "b", "c"), ("d",), ("e", "f")))
    assert found == (("a",), ("d",), ("e",))
    assert note.endswith("1 to 3 sentences, the first 1 of each are used and 3 left out")


def test_a_manifest_with_them(tmp_path: Path) -> None:
    table = tmp_path / "t.csv"
    table.write_text("path,y,split\n" + "".join(f"{i}.png,{i % 2},{i % 3}\n" for i in range(12)))
    options = {"check_files": False, "classes": "a,b", "crop": "9"}
    uneven = {"a": ["x"], "b": ["y", "z"]}
    found = read_manifest(table, options=ReadOptions(descriptions=uneven, **options))
    assert found.descriptions == {"class": (("x",), ("y",))}
    assert found.prompts == {"class": ("a", "b")}
    assert (found.crop, found.image_only_crop) == (9, None)
    assert any("1 left out" in line for line in found.warnings)
    with pytest.raises(EmbedcalError, match="1 left out"):
        read_manifest(table, options=ReadOptions(descriptions=uneven, strict=True, **options))
    plain = read_manifest(table, options=ReadOptions(check_files=False, classes="a,b"))
    assert (plain.crop, plain.descriptions) == (None, {})


@pytest.mark.parametrize("texts", [(("x",),), (("x",), ("y", "z")), ((), ())])
def test_a_manifest_refuses_uneven_ones(texts: tuple[tuple[str, ...], ...]) -> None:
    with pytest.raises(EmbedcalError, match="as many descriptions of every prompt in bank class"):
        Manifest(
            name="m", root=Path(), ids=("1",), paths=("1",), y=np.zeros(1, int),
            split=np.zeros(1, int), classes=("a", "b"), prompts={"class": ("a", "b")},
            descriptions={"class": texts},
        )  # fmt: skip


def test_what_may_be_asked_for_as_a_crop() -> None:
    assert [crop_of(x) for x in (None, "none", "auto", "178", 178)] == [
        None, None, "auto", 178, 178,
    ]  # fmt: skip
    assert crop_of("9459") == 9459
    for wrong in ("0", 0, -3, "1.5", "", True, "\u00b2", 9460, "9" * 5000):
        with pytest.raises(EmbedcalError, match="expected a crop of 1 to 9459 pixels, none or"):
            crop_of(wrong)


FACTS = """
name = "faces"
title = "faces"
source = "here"
licence = "none"
classes = ["a", "b"]
crop = 7
[[layouts]]
name = "here"
table = "t.csv"
"""


@pytest.mark.parametrize(
    ("asked", "wanted"),
    [("auto", (None, 7)), ("none", (None, None)), (None, (None, None)), (5, (5, None))],
)
def test_the_crop_of_the_facts_is_auto(
    tmp_path: Path, asked: int | str | None, wanted: tuple[int | None, int | None]
) -> None:
    (tmp_path / "faces.toml").write_text(FACTS)
    (tmp_path / "t.csv").write_text("path,y,split\n1.png,0,train\n2.png,1,test\n")
    options = ReadOptions(check_files=False, crop=asked)
    found = read_manifest(tmp_path / "faces.toml", options=options)
    assert (found.crop, found.image_only_crop) == wanted
