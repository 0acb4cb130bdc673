"""Prompts: one for each class, one for each attribute value, and any further bank from a file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from embedcal.datasets.options import Prompts
from embedcal.datasets.printable import printable
from embedcal.types import EmbedcalError

BANKS = ("class", "attribute", "context", "group")


def default_prompts(
    classes: tuple[str, ...], attributes: tuple[tuple[str, ...], ...] = ()
) -> dict[str, tuple[str, ...]]:
    """The names themselves: bank ``class`` from class names, ``attribute`` from value names.

    ``attributes`` holds the value names of each attribute; their banks follow one another in the
    order of the attributes. There is no ``context`` bank by default, since nothing in a name says
    what "land" is the context of.
    """
    prompts = {"class": classes}
    values = tuple(value for names in attributes for value in names)
    return prompts | ({"attribute": values} if values else {})


def resolve_prompts(
    given: str | Path | Prompts | None,
    classes: tuple[str, ...],
    attributes: tuple[tuple[str, ...], ...] = (),
) -> dict[str, tuple[str, ...]]:
    """Default prompts, with the banks of ``given`` (a JSON file or a mapping) put over them.

    Checked: known banks only; prompts are texts, none blank; ``class`` has one a class,
    ``attribute`` and ``context`` one a value of every attribute in turn, ``group`` one a group of
    the first attribute in the order ``y * A + a``. What was typed is kept verbatim.
    """
    prompts = default_prompts(classes, attributes)
    if given is None:
        return prompts
    source = "the prompts" if isinstance(given, Mapping) else str(given)
    banks = given if isinstance(given, Mapping) else _load(Path(given))
    n_values = sum(len(names) for names in attributes)
    n_groups = len(classes) * len(attributes[0]) if attributes else 0
    wanted = {"class": len(classes), "attribute": n_values, "context": n_values, "group": n_groups}
    for bank, listed in banks.items():
        texts = _texts(listed)
        shown = f"'{printable(str(bank))}' of {printable(source, longest=300)}"
        if bank not in wanted:
            raise EmbedcalError(
                f"expected banks named {', '.join(BANKS)}, found {shown}: rename or remove it"
            )
        if texts is None:
            raise EmbedcalError(
                f"expected bank {shown} to be a list of texts, none blank, found "
                f"{printable(repr(listed))}: list one prompt for each"
            )
        if len(texts) != wanted[bank]:
            what = {"class": "class", "group": "group"}.get(bank, "attribute value")
            raise EmbedcalError(
                f"expected {wanted[bank]} prompts in bank {shown}, one for each {what}, found "
                f"{len(texts)}: add or remove some"
            )
        prompts[bank] = texts
    return prompts


def _texts(listed: object) -> tuple[str, ...] | None:
    if isinstance(listed, str) or not isinstance(listed, list | tuple):
        return None
    good = all(isinstance(text, str) and text.strip() for text in listed)
    return tuple(listed) if good else None


def _load(path: Path) -> Mapping[str, Any]:
    shown = printable(str(path), longest=300)
    try:
        loaded = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise EmbedcalError(
            f"expected a prompts file at {shown}, found: {error.strerror}: check the path"
        ) from None
    except (ValueError, RecursionError) as error:
        raise EmbedcalError(
            f"expected JSON in UTF-8 in {shown}, found a fault ({printable(str(error))}): write "
            'it as {"class": [...], "attribute": [...], "context": [...]}'
        ) from None
    if not isinstance(loaded, dict):
        raise EmbedcalError(
            f"expected a JSON object of banks in {shown}, found a {type(loaded).__name__}: write "
            'it as {"class": [...], "attribute": [...], "context": [...]}'
        )
    return loaded
