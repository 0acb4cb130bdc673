"""Facts about a cache, read from its file and held against each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from embedcal.cache.format import PAIR_ROLES, PAIR_ROWS, PAIRS, SHARD, unescape_name
from embedcal.cache.identity import Identity
from embedcal.cache.layout import Stored, StoredFile
from embedcal.types import LEVELS, ROLES, SPLITS, EmbedcalError, Pair


@dataclass(frozen=True, kw_only=True)
class CacheMeta:
    """Facts about a cache. ``levels`` maps each stored level to its stored type ("float32").

    ``attributes`` holds (name, value names) in order; ``created`` is UTC, ISO 8601; ``sha256`` is
    of everything behind the user block; ``ingredients`` is what the identity was made from.
    """

    path: Path
    format_version: int
    dataset: str
    backbone: str
    weights: str
    weights_sha256: str
    library: str
    precision: str
    preprocessing: Mapping[str, Any]
    levels: Mapping[str, str]
    shapes: Mapping[str, tuple[int, ...]]
    classes: tuple[str, ...]
    attributes: tuple[tuple[str, tuple[str, ...]], ...]
    templates: tuple[str, ...]
    warnings: tuple[str, ...]
    context_length: int
    batch_size: int
    rows: int
    identity: str
    fingerprint: str
    created: str
    sha256: str
    ingredients: Identity = field(repr=False)

    def chosen(self, attribute: str | Sequence[str] | None) -> tuple[str, ...]:
        """Names of the attributes that one name or several choose; all where none is named.

        They stand in the cache's order, however they were asked for, so that a choice has one
        form. EmbedcalError for a name that the cache lacks.
        """
        known = tuple(name for name, _ in self.attributes)
        asked = (attribute,) if isinstance(attribute, str) else tuple(attribute or known)
        for name in asked:
            if name not in known:
                raise EmbedcalError(
                    f"expected an attribute of {self.path.name}, found '{name}': choose "
                    f"{', '.join(known) or 'none, it has none'}"
                )
        return tuple(name for name in known if name in asked)


def labels_path(stored: StoredFile, name: str) -> str:
    """Where the labels of an attribute lie."""
    wanted = {unescape_name(link): link for link in stored.below("/samples/attributes/")}
    return f"/samples/attributes/{wanted[name]}"


def read_meta(stored: StoredFile) -> CacheMeta:
    """The facts of a whole cache; EmbedcalError for a shard, which is none."""
    if f"{SHARD}part" in stored.arrays:
        number, count = stored.read(f"{SHARD}part").tolist()
        raise EmbedcalError(
            f"expected a whole cache, found shard {number} of {count} in {stored.path}: join all "
            "of them with 'embedcal merge'"
        )
    return read_facts(stored)


def read_facts(stored: StoredFile) -> CacheMeta:
    """The facts in attributes, small arrays and user block; of a shard those of its own rows."""
    facts, arrays = stored.attributes, stored.arrays
    prompts = {
        unescape_name(bank): stored.text(f"/text/{bank}/prompt") for bank in stored.below("/text/")
    }
    levels: dict[str, Stored] = {
        level: arrays[f"/images/{level}"] for level in LEVELS if f"/images/{level}" in arrays
    }
    types: dict[str, str] = {level: array.dtype.name for level, array in levels.items()}
    templates = stored.text("/templates")
    return CacheMeta(
        path=stored.path,
        format_version=facts["format_version"],
        dataset=facts["dataset"],
        backbone=facts["encoder"],
        weights=facts["weights"],
        weights_sha256=facts["weights_sha256"],
        library=facts["library"],
        precision=facts["precision"],
        preprocessing=facts["preprocessing"],
        levels=types,
        shapes={level: array.shape[1:] for level, array in levels.items()},
        classes=stored.text("/classes"),
        attributes=_attributes(stored),
        templates=templates,
        warnings=stored.text("/warnings"),
        context_length=facts["context_length"],
        batch_size=facts["batch_size"],
        rows=arrays["/samples/id"].shape[0],
        identity=facts["identity"],
        fingerprint=facts["fingerprint"],
        created=stored.head.created,
        sha256=stored.head.sha256,
        ingredients=Identity(
            encoder=facts["encoder"],
            weights_sha256=facts["weights_sha256"],
            preprocessing=facts["preprocessing"],
            precision=facts["precision"],
            levels=types,
            templates=templates,
            prompts=prompts,
            rows=stored.read("/samples/sha256"),
            descriptions={
                unescape_name(bank): stored.texts(f"/text/{bank}/text")
                for bank in stored.below("/text/")
                if f"/text/{bank}/text" in arrays
            },
            pairs=_pairs(stored, len(prompts.get(PAIRS, ()))),
        ),
    )


def _pairs(stored: StoredFile, n_prompts: int) -> tuple[Pair, ...]:
    """The concept pairs of a file, checked, so that none points beside the prompts; or none."""
    there = [path in stored.arrays for path in (PAIR_ROWS, PAIR_ROLES)]
    if not any(there):
        return ()
    rows = stored.read(PAIR_ROWS) if all(there) else None
    roles = stored.read(PAIR_ROLES) if all(there) else None
    if (
        rows is None
        or roles is None
        or rows.min() < 0
        or rows.max() >= n_prompts
        or roles.max() >= len(ROLES)
    ):
        raise EmbedcalError(
            f"expected pairs of the {n_prompts} prompts in the bank '{PAIRS}', each with a role, "
            f"found others in {stored.path}: do not use this file; make the cache again"
        )
    return tuple(
        (i, j, ROLES[role]) for (i, j), role in zip(rows.tolist(), roles.tolist(), strict=True)
    )


def _attributes(stored: StoredFile) -> tuple[tuple[str, tuple[str, ...]], ...]:
    labels = {unescape_name(link) for link in stored.below("/samples/attributes/")}
    values = {unescape_name(link): link for link in stored.below("/attributes/")}
    order = stored.attributes["attributes"]
    listed = isinstance(order, list) and all(isinstance(name, str) for name in order)
    if not listed or not (set(order) == labels == set(values)):
        raise EmbedcalError(
            "expected the root attribute 'attributes' to list the attributes of the file, found "
            f"another list in {stored.path}: do not use this file; make the cache again"
        )
    return tuple((name, stored.text(f"/attributes/{values[name]}")) for name in order)


def check_labels(stored: StoredFile, meta: CacheMeta) -> None:
    """Labels within their ranges and a full count, so that no index of a fit is out of bounds."""
    ranges = [("/samples/y", 0, len(meta.classes)), ("/samples/split", 0, len(SPLITS))]
    ranges += [("/samples/status", 0, 2), ("/rows_done", meta.rows, meta.rows + 1)]
    ranges += [(labels_path(stored, name), -1, len(values)) for name, values in meta.attributes]
    for path, least, bound in ranges:
        labels = stored.read(path)
        if labels.min() < least or labels.max() >= bound:
            raise EmbedcalError(
                f"expected {path} between {least} and {bound - 1}, found {labels.min()} to "
                f"{labels.max()} in {stored.path}: do not use this file; make the cache again"
            )
