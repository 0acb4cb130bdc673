"""Boxes of objects from a file of instances in COCO's form (Lin et al. 2014, arXiv:1405.0312)."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np
import numpy.typing as npt

from embedcal.datasets.files import normalise
from embedcal.datasets.printable import printable
from embedcal.types import EmbedcalError


def read_boxes(
    path: Path, files: Sequence[str], *, category: str | None = None
) -> npt.NDArray[np.float64]:
    """The box of every image (n, 4): x and y of its corner, width, height, in pixels of the file.

    ``files`` are the manifest's paths. An image of the file of instances belongs to a path when
    its ``file_name`` equals it; else when one is the end of the other, in whole folders; else when
    their base names are equal. Where an image has several annotations, the box is the smallest
    that holds them all (their union: whichever object the label speaks of is in it);
    ``category``, a name, counts those of one category alone. NaN for images without any.

    Raises EmbedcalError for a file that is no such JSON, an unknown category, several images that
    fit a path equally well, several paths that fit an image, and where no path has an image.
    """
    shown = printable(str(path), longest=300)
    document = _read(path, shown)
    images = _images(document, shown)
    chosen = None if category is None else _category(document, category, shown)
    boxes = _unions(document, {number for number, _ in images}, chosen, shown)
    index = _match([normalise(file) for file in files], [name for _, name in images], shown)
    if files and max(index) < 0:
        raise EmbedcalError(
            f"expected images of the data set in {shown}, found none of its {len(files):,} paths, "
            f"such as '{printable(files[0])}', among its {len(images):,} file names"
            + (f", such as '{printable(images[0][1])}'" if images else "")
            + ": name the file that belongs to these images"
        )
    out = np.full((len(files), 4), math.nan)
    for row, at in enumerate(index):
        if at >= 0 and images[at][0] in boxes:
            left, top, right, bottom = boxes[images[at][0]]
            out[row] = (left, top, right - left, bottom - top)
    return out


def _read(path: Path, shown: str) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise EmbedcalError(
            f"expected to read {shown}, found: {error.strerror}: check the path"
        ) from None
    except (ValueError, RecursionError) as error:
        said = printable(str(error), longest=120)
        raise EmbedcalError(
            f"expected JSON in COCO's form in {shown}, found: {said}: get the file again"
        ) from None
    if not isinstance(document, dict):
        raise _odd(shown, f"a {type(document).__name__}, not an object")
    return document


def _rows(document: dict[str, Any], key: str, shown: str) -> list[dict[str, Any]]:
    rows = document.get(key)
    if not isinstance(rows, list):
        raise _odd(shown, f"no list '{key}'")
    for i, row in enumerate(rows):
        if not isinstance(row, dict):
            raise _odd(shown, f"no object at {key}[{i}]")
    return rows


def _images(document: dict[str, Any], shown: str) -> list[tuple[int, str]]:
    images: list[tuple[int, str]] = []
    for i, row in enumerate(_rows(document, "images", shown)):
        number, name = row.get("id"), row.get("file_name")
        if not _is_whole(number):
            raise _odd(shown, f"no integer id in images[{i}]")
        if not isinstance(name, str) or not name:
            raise _odd(shown, f"no file_name in images[{i}]")
        images.append((number, normalise(name)))
    numbers = [number for number, _ in images]
    if len({*numbers}) < len(numbers):
        raise _odd(shown, "one id for two images")
    return images


def _category(document: dict[str, Any], category: str, shown: str) -> set[int]:
    rows = _rows(document, "categories", shown)
    named = [(row.get("name"), row.get("id")) for row in rows]
    found = {number for name, number in named if name == category and _is_whole(number)}
    if not found:
        names = ", ".join(str(name) for name, _ in named) or "none"
        raise EmbedcalError(
            f"expected the category '{printable(category)}' in {shown}, found "
            f"{printable(names, longest=200)}: name one of those"
        )
    return found


def _unions(
    document: dict[str, Any], images: set[int], categories: set[int] | None, shown: str
) -> dict[int, tuple[float, float, float, float]]:
    """Image -> left, top, right, bottom of all its boxes together."""
    unions: dict[int, tuple[float, float, float, float]] = {}
    for i, row in enumerate(_rows(document, "annotations", shown)):
        image = row.get("image_id")
        if not _is_whole(image) or image not in images:
            raise _odd(shown, f"no image of that image_id for annotations[{i}]")
        number = row.get("category_id")
        if categories is not None and not (_is_whole(number) and number in categories):
            continue
        box = _numbers(row.get("bbox"))
        if box is None:
            raise _odd(shown, f"no bbox of four numbers, sizes from 0, in annotations[{i}]")
        x, y, width, height = box
        left, top, right, bottom = unions.get(image, (x, y, x, y))
        unions[image] = (
            min(left, x), min(top, y), max(right, x + width), max(bottom, y + height),
        )  # fmt: skip
    return unions


def _match(paths: Sequence[str], names: Sequence[str], shown: str) -> list[int]:
    """The image of every path, -1 for none: equal names first, then the longest common end."""
    named: dict[str, list[int]] = {}
    ending: dict[str, list[int]] = {}
    for at, name in enumerate(names):
        named.setdefault(name, []).append(at)
        for end in _ends(name):
            ending.setdefault(end, []).append(at)
    index: dict[str, int] = {}
    by_image: dict[int, str] = {}
    equal = {*paths} & {*names}
    for path in [*sorted(equal), *(path for path in dict.fromkeys(paths) if path not in equal)]:
        found = _nearest(path, named, ending)
        if path not in equal:  # an image that equals another path is that path's own
            found = [at for at in found if names[at] not in equal]
        if len(found) > 1:
            both = printable(", ".join(names[at] for at in found[:2]), longest=200)
            raise EmbedcalError(
                f"expected one image of {shown} for the path '{printable(path)}', found "
                f"{len(found)}, such as {both}: give them distinct file names"
            )
        if found and found[0] in by_image:
            raise EmbedcalError(
                f"expected one path for the image '{printable(names[found[0]])}' of {shown}, found "
                f"'{printable(by_image[found[0]])}' and '{printable(path)}': write the folders "
                "into its file_name"
            )
        index[path] = found[0] if found else -1
        by_image.update({found[0]: path} if found else {})
    return [index[path] for path in paths]


def _nearest(
    path: str, named: Mapping[str, list[int]], ending: Mapping[str, list[int]]
) -> list[int]:
    """The images that fit a path best: equal, beyond it, its longest end, its base name."""
    *ends, base = _ends(path)
    candidates = (named.get(path), ending.get(path), *map(named.get, [*ends, base]))
    return next((found for found in candidates if found), ending.get(base, []))


def _ends(path: str) -> list[str]:
    """The path and what is left of it without its first folder, its first two and so on."""
    parts = path.split("/")
    return ["/".join(parts[i:]) for i in range(len(parts))]


def _is_whole(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def _numbers(value: object) -> tuple[float, float, float, float] | None:
    """A box as it stands in the file, None where it is none."""
    if not isinstance(value, list) or len(value) != 4:
        return None
    if not all(_is_whole(number) or isinstance(number, float) for number in value):
        return None
    try:
        x, y, width, height = map(float, value)
    except OverflowError:
        return None
    sound = math.isfinite(x + width) and math.isfinite(y + height) and min(width, height) >= 0
    return (x, y, width, height) if sound else None


def _odd(shown: str, found: str) -> EmbedcalError:
    return EmbedcalError(
        f"expected objects with boxes in COCO's form in {shown}, found {found}: get or write the "
        "file again"
    )
