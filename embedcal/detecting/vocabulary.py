"""Names of what a picture may show beside its subject: shipped, the user's own, Visual Genome's."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from embedcal.cache import FeatureCache
from embedcal.datasets.places import data_dir
from embedcal.datasets.printable import printable
from embedcal.detecting.presence import plain
from embedcal.types import EmbedcalError

SHIPPED = Path(__file__).with_name("vocabulary.txt")
VISUAL_GENOME = "visual-genome"
SYNSETS = ("attribute_synsets.json", "object_synsets.json")
LONGEST = 60  # characters of a name


def vocabulary(source: str | Path | Sequence[str] | None = None) -> tuple[str, ...]:
    """The names of a vocabulary, each once (whatever its case), in their order.

    None: the few hundred nouns and scenes that come with the package. A text file: one name a
    line; blank lines and what follows a ``#`` are passed over. ``visual-genome``: the synsets of
    Visual Genome (Krishna et al. 2017, arXiv:1602.07332) in the folder of that name in the user's
    data directory; a folder that holds ``attribute_synsets.json`` or ``object_synsets.json``, or
    one of these files, is read likewise. A sequence: the names themselves.
    """
    if source is None:
        return _lines(SHIPPED)
    if not isinstance(source, (str, Path)):
        return _once(source, "the names given")
    if str(source) == VISUAL_GENOME:
        return _synsets(data_dir() / VISUAL_GENOME)
    path = Path(source).expanduser()
    if path.is_dir() or path.suffix == ".json":
        return _synsets(path)
    return _lines(path)


def candidates(names: Sequence[str], cache: FeatureCache) -> tuple[str, ...]:
    """The names that are no class of the cache: neither its name nor its prompt."""
    taken = {plain(name) for name in cache.meta.classes}
    if "class" in cache.banks:
        taken |= {plain(prompt) for prompt in cache.text("class").prompts}
    found = tuple(name for name in names if plain(name) not in taken)
    if not found:
        raise EmbedcalError(
            f"expected names beside those of the classes in the vocabulary, found {len(names)} "
            "that all are classes: add what else images may show, such as water"
        )
    return found


def _lines(path: Path) -> tuple[str, ...]:
    shown = printable(str(path), longest=300)
    try:
        lines = path.read_text("utf-8-sig").splitlines()
    except OSError as error:
        raise EmbedcalError(
            f"expected a vocabulary at {shown}, found: {error.strerror}: give a text file with "
            f"one name a line, or {VISUAL_GENOME}"
        ) from None
    except UnicodeDecodeError:
        raise EmbedcalError(
            f"expected UTF-8 text in {shown}, found other bytes: save the file as UTF-8"
        ) from None
    return _once((line.partition("#")[0].strip() for line in lines), shown)


def _synsets(place: Path) -> tuple[str, ...]:
    """Names before the first dot of the synsets, as "hot dog" of "hot_dog.n.01", sorted."""
    files = [place / name for name in SYNSETS] if place.is_dir() else [place]
    files = [file for file in files if file.is_file()]
    shown = printable(str(place), longest=300)
    if not files:
        raise EmbedcalError(
            f"expected {' and '.join(SYNSETS)} in {shown}, found neither: download them from "
            "Visual Genome's page into that folder, or name the folder"
        )
    names: set[str] = set()
    for file in files:
        try:
            found = json.loads(file.read_text("utf-8-sig"))
        except (OSError, ValueError, RecursionError) as error:
            raise EmbedcalError(
                f"expected JSON in {printable(str(file), longest=300)}, found: "
                f"{printable(str(error))}: download it again"
            ) from None
        if not isinstance(found, dict) or not all(isinstance(v, str) for v in found.values()):
            raise EmbedcalError(
                f"expected an object from names to synsets in {printable(str(file), longest=300)}, "
                "found something else: download it again"
            )
        names |= {synset.partition(".")[0].replace("_", " ") for synset in found.values()}
    return _once(sorted(names), shown)


def _once(names: Iterable[str], where: str) -> tuple[str, ...]:
    kept: dict[str, str] = {}
    for name in names:
        shown = name.strip()
        if len(shown) > LONGEST or not shown.isprintable():
            raise EmbedcalError(
                f"expected names of at most {LONGEST} printable characters in {where}, found "
                f"'{printable(shown)}': shorten it"
            )
        if shown:
            kept.setdefault(plain(shown), shown)
    if not kept:
        raise EmbedcalError(
            f"expected at least one name in {where}, found none: add what images may show, such as "
            "water"
        )
    return tuple(kept.values())
