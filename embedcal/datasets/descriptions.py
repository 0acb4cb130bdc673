"""Descriptions: sentences about each class that take the place of its prompt in templates."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path

from embedcal.datasets.printable import printable
from embedcal.datasets.prompts import load_object, texts_of
from embedcal.types import EmbedcalError

FORM = '{"landbird": ["A land bird has ...", ...], "waterbird": [...]}'
Descriptions = Mapping[str, Sequence[str]]


def read_descriptions(
    given: str | Path | Descriptions | None, classes: tuple[str, ...]
) -> tuple[tuple[str, ...], ...]:
    """Sentences of each class, in the order of ``classes``, verbatim; empty for None.

    ``given`` is a JSON file, or a mapping, from class name to a list of sentences, as Pratt et
    al., 2023 (arXiv:2209.03320) publish theirs. Names match whatever their case, with ``_`` and
    ``-`` as spaces; names that are no classes are left out. A sentence may occur twice, and counts
    twice then. Raises EmbedcalError for a class without sentences, with the nearest name.
    """
    if given is None:
        return ()
    source = "the descriptions" if isinstance(given, Mapping) else str(given)
    shown = printable(source, longest=300)
    loaded = (
        given
        if isinstance(given, Mapping)
        else load_object(Path(given), what="a file of descriptions", form=FORM)
    )
    names: dict[str, str] = {}
    for name in loaded:
        first = names.setdefault(_plain(str(name)), name)
        if first != name and _plain(first) in map(_plain, classes):
            raise EmbedcalError(
                f"expected each class once in {shown}, found '{printable(first)}' and "
                f"'{printable(str(name))}': join their lists"
            )
    return tuple(_sentences(loaded, names, name, shown) for name in classes)


def even(sentences: tuple[tuple[str, ...], ...]) -> tuple[tuple[tuple[str, ...], ...], str]:
    """As many sentences of every class as the class with the fewest has, the first ones.

    A prototype is the plain mean over the sentences of a class. Repeating some of them would
    weigh them twice, so what goes beyond the fewest is left out; the note says how much, and is
    empty where nothing was.
    """
    counts = [len(each) for each in sentences]
    if len(set(counts)) <= 1:
        return sentences, ""
    fewest = min(counts)
    note = (
        f"descriptions: classes have {fewest} to {max(counts)} sentences, the first {fewest} of "
        f"each are used and {sum(counts) - fewest * len(counts):,} left out"
    )
    return tuple(each[:fewest] for each in sentences), note


def _plain(name: str) -> str:
    """A class name without its case, and with one blank for ``_``, ``-`` and blanks."""
    return " ".join(name.casefold().replace("_", " ").replace("-", " ").split())


def _sentences(
    loaded: Descriptions, names: Mapping[str, str], name: str, shown: str
) -> tuple[str, ...]:
    key = names.get(_plain(name))
    if key is None:
        near = difflib.get_close_matches(_plain(name), list(names), n=1)
        guess = f" (the nearest is '{printable(str(names[near[0]]))}')" if near else ""
        raise EmbedcalError(
            f"expected descriptions of the class '{printable(name)}' in {shown}, found none"
            f"{guess}: name the classes as they are, or give their names with --classes"
        )
    found = texts_of(loaded[key])
    if not found:
        raise EmbedcalError(
            f"expected a list of sentences, none blank, for '{printable(str(key))}' in {shown}, "
            f"found {printable(repr(loaded[key]))}: write it as {FORM}"
        )
    return found
