"""Boxes in COCO's form."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from embedcal.datasets.coco import read_boxes
from embedcal.types import EmbedcalError

CATEGORIES = [{"id": 3, "name": "bird"}, {"id": 5, "name": "boat"}]


def instances(names: list[str], annotations: list[Any]) -> dict[str, Any]:
    """Annotations are (image, category, box)."""
    return {
        "images": [{"id": 10 + i, "file_name": name} for i, name in enumerate(names)],
        "annotations": [
            {"id": i, "image_id": 10 + image, "category_id": category, "bbox": box}
            for i, (image, category, box) in enumerate(annotations)
        ],
        "categories": CATEGORIES,
    }


def write(folder: Path, document: Any) -> Path:
    text = document if isinstance(document, str) else json.dumps(document)
    (folder / "instances.json").write_text(text, "utf-8")
    return folder / "instances.json"


def fault(path: Path, files: list[str], category: str | None = None) -> str:
    with pytest.raises(EmbedcalError) as caught:
        read_boxes(path, files, category=category)
    message = str(caught.value)
    assert message.isprintable()
    return message


def test_boxes_unions_and_categories(tmp_path: Path) -> None:
    boxes = [
        (0, 3, [10, 20, 5, 5]),
        (0, 5, [2, 22, 4, 8.5]),
        (1, 5, [1, 1, 0, 0]),
        (0, 3, [8, 20, 1, 1]),
    ]
    path = write(tmp_path, instances(["ä.jpg", "b.jpg", "c.jpg"], boxes))
    files = ["c.jpg", "ä.jpg", "b.jpg", "ä.jpg", "no.jpg"]
    union = [2, 20, 13, 10.5]
    found = read_boxes(path, files)
    assert found.dtype == np.float64
    np.testing.assert_array_equal(
        found, [[math.nan] * 4, union, [1, 1, 0, 0], union, [math.nan] * 4]
    )
    bird = read_boxes(path, files, category="bird")
    np.testing.assert_array_equal(bird[1], [8, 20, 7, 5])
    assert np.isnan(bird[[0, 2, 4]]).all()
    assert "found bird, boat: name one of those" in fault(path, files, "dog")
    assert read_boxes(path, []).shape == (0, 4)


@pytest.mark.parametrize(
    ("names", "files", "index"),
    [
        (["a/1.jpg", "1.jpg"], ["1.jpg", "a/1.jpg"], [1, 0]),
        (["1.jpg", "2.jpg"], ["train/cat/1.jpg", "val/dog/2.jpg"], [0, 1]),
        (["data/x/1.jpg"], ["x/1.jpg"], [0]),
        (["./x//1.jpg"], ["x/1.jpg"], [0]),
        (["val2017/1.jpg"], ["images/1.jpg"], [0]),
        (["a/1.jpg", "1.jpg", "b/a/1.jpg"], ["z/a/1.jpg"], [0]),
        (["1.jpg", "x/1.jpg"], ["1.jpg", "y/x/1.jpg"], [0, 1]),
        (["1.jpg", "other.jpg"], ["1.jpg", "y/1.jpg", "y/other.jpg"], [0, None, 1]),
        (["11.jpg"], ["1.jpg", "q/11.jpg"], [None, 0]),
    ],
)  # fmt: skip
def test_which_image_belongs_to_a_path(
    tmp_path: Path, names: list[str], files: list[str], index: list[int | None]
) -> None:
    path = write(tmp_path, instances(names, [(i, 3, [i, 0, 1, 1]) for i in range(len(names))]))
    found = read_boxes(path, files)[:, 0]
    assert [None if math.isnan(x) else int(x) for x in found] == index


@pytest.mark.parametrize(
    ("names", "files", "said"),
    [
        (["1.jpg", "1.jpg"], ["1.jpg"], "found 2, such as 1.jpg, 1.jpg"),
        (["v/x/1.jpg", "w/x/1.jpg"], ["x/1.jpg"], "found 2, such as v/x/1.jpg, w/x/1.jpg"),
        (["v/1.jpg", "w/1.jpg"], ["x/1.jpg"], "found 2"),
        (["1.jpg"], ["cat/1.jpg", "dog/1.jpg"], "found 'cat/1.jpg' and 'dog/1.jpg'"),
        (["a.jpg"], ["b.jpg", "c.jpg"], "found none of its 2 paths, such as 'b.jpg', among its 1"),
        ([], ["b.jpg"], "among its 0 file names: name"),
    ],
)
def test_what_is_ambiguous_or_fits_nothing(
    tmp_path: Path, names: list[str], files: list[str], said: str
) -> None:
    path = write(tmp_path, instances(names, [(i, 3, [i, 0, 1, 1]) for i in range(len(names))]))
    assert said in fault(path, files)


def changed(**parts: Any) -> dict[str, Any]:
    return {**instances(["a.jpg"], [(0, 3, [1, 1, 2, 2])]), **parts}


def annotation(**parts: Any) -> dict[str, Any]:
    return changed(annotations=[{"image_id": 10, "category_id": 3, "bbox": [1, 1, 2, 2], **parts}])


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ("", "expected JSON"), ("{", "expected JSON"), ("[" * 100_000, "expected JSON"),
        ("[]", "a list, not an object"), ("{}", "no list 'images'"),
        (changed(images={}), "no list 'images'"), (changed(images=[3]), "no object at images[0]"),
        (changed(images=[{"file_name": "a"}]), "no integer id in images[0]"),
        (changed(images=[{"id": True, "file_name": "a"}]), "no integer id"),
        (changed(images=[{"id": 1}]), "no file_name in images[0]"),
        (changed(images=[{"id": 1, "file_name": 4}]), "no file_name"),
        (changed(images=[{"id": 1, "file_name": "a"}] * 2), "one id for two images"),
        (changed(annotations=None), "no list 'annotations'"),
        (changed(annotations=[[]]), "no object at annotations[0]"),
        (annotation(image_id=99), "no image of that image_id for annotations[0]"),
        (annotation(image_id=[10]), "no image of that image_id"),
        *[(annotation(bbox=box), "in annotations[0]") for box in (
            None, "1234", [1, 2, 3], [1, 2, 3, "4"], [1, 2, 3, True], [1, 2, -3, 4],
            [1, 2, math.nan, 4], [1, 2, 1e999, 4], [1e308, 1, 1e308, 1], [10**400, 1, 1, 1],
        )],
    ],
)  # fmt: skip
def test_files_that_are_no_instances(tmp_path: Path, document: Any, said: str) -> None:
    assert said in fault(write(tmp_path, document), ["a.jpg"])


def test_categories_that_are_odd(tmp_path: Path) -> None:
    assert "no list 'categories'" in fault(write(tmp_path, changed(categories=0)), ["a.jpg"], "x")
    path = write(tmp_path, changed(categories=[{"id": [], "name": "bird"}]))
    assert "found bird" in fault(path, ["a.jpg"], "bird")
    path = write(tmp_path, annotation(category_id=[3]))
    assert np.isnan(read_boxes(path, ["a.jpg"], category="bird")).all()
    assert "No such file" in fault(tmp_path / "no.json", ["a.jpg"])


BOX = st.tuples(*[st.integers(0, 50)] * 4)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.lists(st.lists(BOX, max_size=4), min_size=1, max_size=5))
def test_a_union_against_pixels(tmp_path: Path, images: list[list[tuple[int, ...]]]) -> None:
    """The reference paints the boxes: rows and columns from the first to the last edge."""
    names = [f"{i}.jpg" for i in range(len(images))]
    boxes = [(i, 3, list(box)) for i, listed in enumerate(images) for box in listed]
    found = read_boxes(write(tmp_path, instances(names, boxes)), names)
    for row, listed in zip(found, images, strict=True):
        if not listed:
            assert np.isnan(row).all()
            continue
        edges = np.zeros((2, 101), bool)
        for x, y, width, height in listed:
            edges[0, [x, x + width]] = True
            edges[1, [y, y + height]] = True
        (xs,), (ys,) = np.flatnonzero(edges[0])[None], np.flatnonzero(edges[1])[None]
        assert row.tolist() == [xs[0], ys[0], xs[-1] - xs[0], ys[-1] - ys[0]]
