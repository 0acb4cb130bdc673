"""What arrays cannot say of themselves: names, prompts, level. One JSON text beside them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from embedcal.cache import FeatureCache
from embedcal.cache.format import PAIRS
from embedcal.datasets.printable import printable
from embedcal.types import ROLES, EmbedcalError, Level, Pair

KEY = "embedcal"  # name of the array, or of the entry of the file's metadata


@dataclass(frozen=True, kw_only=True)
class Description:
    """Names that a file records. ``values`` maps each attribute, in order, to its value names;
    ``banks`` each text bank to its prompts, ``descriptions`` some of them to the texts that stand
    in place of prompt and template. ``pairs`` are rows of the bank ``pairs``, two by two, each with
    its role."""

    dataset: str = ""
    classes: tuple[str, ...] = ()
    values: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    banks: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    descriptions: Mapping[str, tuple[tuple[str, ...], ...]] = field(default_factory=dict)
    pairs: tuple[Pair, ...] = ()
    templates: tuple[str, ...] = ()
    logit_scale: float | None = None


def describe(cache: FeatureCache, level: Level, *, normalised: bool, text: bool) -> str:
    """The JSON that goes out with a cache's features; with ``text`` also what its banks say."""
    meta = cache.meta
    record: dict[str, Any] = {
        "dataset": meta.dataset,
        "encoder": meta.backbone,
        "level": level,
        "normalised": normalised,
        "fingerprint": meta.fingerprint,
        "classes": list(meta.classes),
        "values": {name: list(values) for name, values in meta.attributes},
    }
    if text:
        banks = {bank: cache.text(bank) for bank in cache.banks}
        record["banks"] = {bank: each.prompts for bank, each in banks.items()}
        record["descriptions"] = {
            bank: each.descriptions for bank, each in banks.items() if each.descriptions
        }
        if PAIRS in banks:
            record["pairs"] = [list(pair) for pair in banks[PAIRS].pairs]
        record["templates"] = list(meta.templates)
        record["logit_scale"] = cache.logit_scale
    return json.dumps(record, ensure_ascii=False)


def read_description(text: str, source: object) -> Description:
    """The JSON read back; what it does not say stays empty.

    EmbedcalError where it is none that embedcal writes: names decide what labels mean.
    """
    try:
        found = json.loads(text)
        scale = found.get("logit_scale")
        return Description(
            dataset=_text(found.get("dataset", "")),
            classes=_names(found.get("classes", [])),
            values={_text(k): _names(v) for k, v in found.get("values", {}).items()},
            banks={_text(k): _names(v) for k, v in found.get("banks", {}).items()},
            descriptions={
                _text(bank): tuple(map(_names, _list(texts)))
                for bank, texts in found.get("descriptions", {}).items()
            },
            pairs=tuple(map(_pair, _list(found.get("pairs", [])))),
            templates=_names(found.get("templates", [])),
            logit_scale=None if scale is None else float(scale),
        )
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise EmbedcalError(
            f"expected names as embedcal writes them under '{KEY}' in "
            f"{printable(str(source), longest=300)}, found {printable(str(error))}: remove that "
            "entry, or export the features again"
        ) from None


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} where a name should be")
    return value


def _list(values: object) -> list[object]:
    if not isinstance(values, list):
        raise TypeError(f"{values!r} where a list should be")
    return values


def _pair(value: object) -> Pair:
    match value:
        case [int(i), int(j), str(role)] if min(i, j) >= 0 and role in ROLES:
            return i, j, ROLES[ROLES.index(role)]
    raise ValueError(f"{value!r} where two rows and a role ({', '.join(ROLES)}) should be")


def _names(values: object) -> tuple[str, ...]:
    return tuple(map(_text, _list(values)))
