"""How a source is to be read: the choices that a reader offers, as one frozen value."""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from embedcal.datasets.printable import printable
from embedcal.types import EmbedcalError

Prompts = Mapping[str, Sequence[str]]
LARGEST_CROP = 9459  # its square is the largest that PIL's limit of 89,478,485 pixels lets through


@dataclass(frozen=True, kw_only=True)
class ReadOptions:
    """Everything that may be said about a source beside its name and root.

    ``columns`` maps ``path``, ``y``, ``split``, ``id``, ``a``, ``mask`` or an attribute's name to
    the header that the file uses. ``classes`` gives class names in the order of their labels.
    ``attributes`` gives the value names of the one attribute, or maps the name of each attribute
    to its value names (none: they are taken from the table). Strings are split at commas.
    ``boxes`` is a file of instances in COCO's form, whose boxes go into the manifest.
    ``split`` cuts the rows by a rule: one of a named data set's, or fractions of train, val and
    test such as "0.7,0.1,0.2", drawn with ``split_seed``, stratified by class and attributes.
    ``prompts`` is a JSON file or a mapping from bank to prompts. ``strict`` turns every warning
    into an error. ``check_files=False`` looks at the table only and at no file. ``rows``, ``seed``,
    ``workers`` and ``progress`` (called with the number of scenes done) are for ``birds``, the
    embedded world, which is drawn at first use. ``descriptions`` is a JSON file or a mapping from
    class name to sentences, which take the place of the class prompts. ``crop`` is the side in
    pixels of a centre crop before the encoder's own preprocessing; "auto" is what the data set's
    facts say for encoders without a text tower, "none" or None is none.

    Example:
        >>> import embedcal
        >>> options = embedcal.ReadOptions(rows=240)
        >>> len(embedcal.read_manifest("birds", options=options).y)
        240
    """

    columns: Mapping[str, str] = field(default_factory=dict)
    classes: str | Sequence[str] | None = None
    attributes: str | Sequence[str] | Mapping[str, str | Sequence[str]] | None = None
    attribute_name: str | None = None
    prompts: str | Path | Prompts | None = None
    boxes: str | Path | None = None
    split: str | None = None
    split_seed: int = 0
    strict: bool = False
    allow_outside_root: bool = False
    check_files: bool = True
    rows: int | None = None
    seed: int | None = None
    workers: int | None = None
    progress: Callable[[int], None] | None = None
    descriptions: str | Path | Prompts | None = None
    crop: int | str | None = "auto"


def names_of(names: str | Sequence[str] | None, *, what: str) -> tuple[str, ...] | None:
    """Names given as "land,water" or as a sequence; None or nothing: not given.

    A name that holds a comma is quoted, as in a CSV file.
    """
    if not names:
        return None
    listed: Sequence[str] = ()
    if not isinstance(names, str):
        listed = names
    else:
        try:
            listed = next(csv.reader([names], skipinitialspace=True, strict=True))
        except (csv.Error, StopIteration):
            raise EmbedcalError(
                f"expected {what} separated by commas, found '{printable(names)}': check the quotes"
            ) from None
    stripped = tuple(name.strip() for name in listed)
    if "" in stripped or len(set(stripped)) < len(stripped):
        raise EmbedcalError(
            f"expected distinct {what}, none of them blank, found "
            f"'{printable(','.join(stripped))}': name each once"
        )
    return stripped


def crop_of(asked: int | str | None) -> int | Literal["auto"] | None:
    """What ``ReadOptions.crop`` asks for: pixels, perhaps written as text, ``auto``, or None."""
    if asked is None or asked == "none":
        return None
    if asked == "auto":
        return "auto"
    text = str(asked)
    if not text.isdecimal() or len(text) > 5 or not 1 <= int(text) <= LARGEST_CROP:
        raise EmbedcalError(
            f"expected a crop of 1 to {LARGEST_CROP} pixels, none or auto, found "
            f"'{printable(text)}': give the side of the square in pixels, say 224"
        )
    return int(text)


def refuse_making(options: ReadOptions, source: str) -> None:
    """EmbedcalError for ``rows`` and ``seed`` of a data set that is there and not made here."""
    for name in ("rows", "seed"):
        asked = getattr(options, name)
        if asked is not None:
            raise EmbedcalError(
                f"expected no {name} for {printable(source, longest=300)}, whose images are there "
                f"and not made, found {asked}: leave --{name} out"
            )


def columns_of(text: str) -> dict[str, str]:
    """``"path=img_filename,y=label"`` -> what ``ReadOptions.columns`` takes."""
    pairs = names_of(text, what="OURS=HEADER pairs") or ()
    return dict(_pair(pair, "OURS=HEADER, as in path=img_filename,y=label") for pair in pairs)


def attributes_of(text: str, columns: Sequence[str] = ()) -> str | dict[str, str] | None:
    """What ``ReadOptions.attributes`` takes: value names, or several attributes by name.

    ``"land,water"`` stays as it is; ``"place=land,water; time=day,night"`` becomes a mapping, and
    so does ``"place=; time="``, whose value names are taken from the table, as those of ``columns``
    are. One column may stand beside value names, which are then its own. Neither: None.
    """
    if "=" in text:
        form = "NAME=VALUES, as in place=land,water;time=day,night"
        named = dict(_pair(part, form) for part in text.split(";") if part.strip())
        return {**dict.fromkeys(columns, ""), **named}
    if not columns:
        return text or None
    if text and len(columns) > 1:
        raise EmbedcalError(
            f"expected the values of each of {printable(', '.join(columns))}, found "
            f"'{printable(text)}' for all: write --attributes \"{printable(columns[0])}=a,b;...\""
        )
    return dict.fromkeys(columns, text)


def _pair(text: str, form: str) -> tuple[str, str]:
    name, equals, value = (part.strip() for part in text.partition("="))
    if not (name and equals):
        raise EmbedcalError(f"expected {form}, found '{printable(text)}': write it in that form")
    return name, value
