"""Prompts: one for each class, one for each attribute value, further banks and pairs from files."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from embedcal.datasets.options import Prompts
from embedcal.datasets.printable import printable
from embedcal.errors import did_you_mean
from embedcal.types import ROLES, EmbedcalError, Pair, Pairs

BANKS = ("class", "attribute", "context", "group")
FORM = '{"class": [...], "attribute": [...], "context": [...]}'
PAIRS = Path(__file__).parent / "pairs"  # concept pairs that come with the package
PAIRS_FORM = 'reject = [["a bird on land", "a bird on water"]]'


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
    banks = (
        given
        if isinstance(given, Mapping)
        else load_object(Path(given), what="a prompts file", form=FORM)
    )
    n_values = sum(len(names) for names in attributes)
    n_groups = len(classes) * len(attributes[0]) if attributes else 0
    wanted = {"class": len(classes), "attribute": n_values, "context": n_values, "group": n_groups}
    for bank, listed in banks.items():
        texts = texts_of(listed)
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


def prompts_for(
    known: Mapping[str, Sequence[str]], *, classes_overridden: bool, attributes_overridden: bool
) -> dict[str, tuple[str, ...]]:
    """A named data set's own prompts, less the banks that speak of names which were replaced.

    Other class names make ``class`` and ``group`` unfit, other attributes or value names
    ``attribute``, ``context`` and ``group``. What goes is filled by :func:`resolve_prompts` from
    the names, as far as names can; :func:`left_out` says what cannot be filled.
    """
    unfit = {"class", "group"} if classes_overridden else set()
    unfit |= {"attribute", "context", "group"} if attributes_overridden else set()
    return {bank: tuple(texts) for bank, texts in known.items() if bank not in unfit}


def left_out(known: Mapping[str, Sequence[str]], kept: Mapping[str, object]) -> tuple[str, ...]:
    """A warning where banks of a named data set went that names alone cannot replace."""
    gone = [bank for bank in known if bank not in kept and bank not in ("class", "attribute")]
    if not gone:
        return ()
    return (
        f"the data set's own prompts of {' and '.join(gone)} do not fit the names given and are "
        "left out: give others in a file of prompts",
    )


def texts_of(listed: object) -> tuple[str, ...] | None:
    """A list of texts, none blank, as a tuple; None where it is anything else."""
    if not isinstance(listed, list | tuple):
        return None
    good = all(isinstance(text, str) and text.strip() and _is_unicode(text) for text in listed)
    return tuple(listed) if good else None


def _is_unicode(text: str) -> bool:
    """False for half a character, which JSON can spell and UTF-8 cannot."""
    return not any("\ud800" <= letter <= "\udfff" for letter in text)


def load_object(path: Path, *, what: str, form: str) -> Mapping[str, Any]:
    """The JSON object in a file; ``what`` it should be and its ``form`` are for messages."""
    shown = printable(str(path), longest=300)
    try:
        loaded = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise EmbedcalError(
            f"expected {what} at {shown}, found: {error.strerror}: check the path"
        ) from None
    except (ValueError, RecursionError) as error:
        raise EmbedcalError(
            f"expected JSON in UTF-8 in {shown}, found a fault ({printable(str(error))}): write "
            f"it as {form}"
        ) from None
    if not isinstance(loaded, dict):
        raise EmbedcalError(
            f"expected a JSON object in {shown}, found a {type(loaded).__name__}: write it as "
            f"{form}"
        )
    return loaded


def pairs_for(
    asked: str | Path | Mapping[str, Any] | None, dataset: str, *, renamed: bool
) -> Pairs | None:
    """The concept pairs to cache: those asked for, else those that the package has for a data set.

    ``asked`` is a TOML file or a mapping as one holds; "none": no pairs at all. ``renamed``: the
    classes or attribute values got other names, of which the package's pairs do not speak.
    """
    if asked == "none":
        return None
    if asked is not None:
        return read_pairs(asked)
    own = PAIRS / f"{dataset}.toml"
    known = dataset in {path.stem for path in PAIRS.glob("*.toml")}
    return read_pairs(own) if known and not renamed else None


def read_pairs(given: str | Path | Mapping[str, Any]) -> Pairs:
    """Concept pairs from a TOML file, or a mapping: lists of two prompts each, by role.

    Prompts are kept word for word, each once, in the order of their first mention; pairs come in
    the order of the roles ``reject``, ``accept``, ``equal``. A pair that is listed twice is there
    twice. Raises EmbedcalError for any other form, and for a file without a single pair.
    """
    source = "the concept pairs" if isinstance(given, Mapping) else str(given)
    shown = printable(source, longest=300)
    listed = given if isinstance(given, Mapping) else _load_toml(Path(given).expanduser(), shown)
    for key in listed:
        if key not in ROLES:
            hint = did_you_mean(str(key), ROLES, f"write it as {PAIRS_FORM}")
            raise EmbedcalError(
                f"expected pairs under {', '.join(ROLES)} in {shown}, found "
                f"'{printable(str(key))}': {hint}"
            )
    rows: dict[str, int] = {}
    pairs: list[Pair] = []
    for role in ROLES:
        entries = listed.get(role, ())
        for number, entry in enumerate(entries if isinstance(entries, list | tuple) else [entries]):
            texts = texts_of(entry)
            if texts is None or len(texts) != 2 or texts[0] == texts[1]:
                raise EmbedcalError(
                    f"expected two different prompts in pair {number + 1} of '{role}' in {shown}, "
                    f"found {printable(repr(entry))}: write it as {PAIRS_FORM}"
                )
            first, second = (rows.setdefault(text, len(rows)) for text in texts)
            pairs.append((first, second, role))
    if not pairs:
        raise EmbedcalError(
            f"expected at least one pair in {shown}, found none: write it as {PAIRS_FORM}"
        )
    return Pairs(prompts=tuple(rows), pairs=tuple(pairs))


def _load_toml(path: Path, shown: str) -> Mapping[str, Any]:
    import tomllib  # compiles its patterns on import

    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise EmbedcalError(
            f"expected a file of concept pairs at {shown}, found: {error.strerror}: check the path"
        ) from None
    except (ValueError, RecursionError) as error:
        raise EmbedcalError(
            f"expected TOML in UTF-8 in {shown}, found a fault ({printable(str(error))}): write "
            f"it as {PAIRS_FORM}"
        ) from None
