"""A person's verdict on an attribute, with the labels that were inferred for it.

One JSON file for each attribute beside the cache. It holds a label of every row, and the SHA-256
of the rows that it is for: their ids and the bytes of their images. So it outlives a cache that is
labelled anew, and is refused by one of other images. Its own digest is part of the identity of
whatever is fitted with it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from embedcal.annotating.beside import beside, folders, keeping, kept, rows_digest
from embedcal.cache import FeatureCache
from embedcal.cache.format import canonical, escape_name, unescape_name
from embedcal.datasets.printable import printable
from embedcal.types import EmbedcalError

Verdict = Literal["healthy", "spurious"]
VERDICTS = ("healthy", "spurious")
FORMAT = 1
FOLDER = "attributes"
LONGEST = 200  # bytes of a file's name, which file systems bound at 255


@dataclass(frozen=True, kw_only=True)
class Annotation:
    """An inferred attribute: ``labels`` (N,) of every row of the cache, -1, 0 or 1, int8.

    Label a is ``values[a]``: without it, with it. ``digest`` is the SHA-256 of all of this.
    """

    attribute: str
    verdict: Verdict
    values: tuple[str, str]
    labels: npt.NDArray[np.int8]
    source: str
    digest: str


def annotate(
    cache: FeatureCache,
    attribute: str,
    verdict: str,
    labels: npt.NDArray[Any],
    *,
    source: str = "",
) -> Path:
    """Write a verdict and the labels (N,) of an attribute beside the cache; the file's path.

    Labels are 1 where the attribute is present, 0 where it is not, -1 where it is not known, one
    for each row of the cache, whatever its split. ``source`` says what inferred them. An earlier
    annotation of the attribute is replaced. EmbedcalError for an attribute that the cache has of
    its own, and for labels of another number or kind.
    """
    name = check_verdict(cache, attribute, verdict)
    given = np.asarray(labels)
    if given.shape != (len(cache),) or not np.isin(given, (-1, 0, 1)).all():
        raise EmbedcalError(
            f"expected a label of 1, 0 or -1 for each of the {len(cache)} rows, found shape "
            f"{given.shape} with values {np.unique(given)[:5].tolist()}: infer them with detect"
        )
    document = {
        "format": FORMAT,
        "attribute": name,
        "verdict": verdict,
        "values": list(values_of(name)),
        "source": source,
        "rows": {"count": len(cache), "sha256": rows_digest(cache)},
        "labels": given.astype(int).tolist(),
    }
    path = beside(cache, _file(name))
    with keeping(path) as part:
        part.write_text(json.dumps({**document, "digest": _digest(document)}) + "\n", "utf-8")
    return path


def check_verdict(cache: FeatureCache, attribute: str, verdict: str) -> str:
    """The name that a verdict is kept under, without blanks around it.

    EmbedcalError for no name, for a verdict that is none, and for a name that the cache has labels
    of itself.
    """
    name = attribute.strip()
    if not name or not name.isprintable() or len(escape_name(name)) > LONGEST:
        raise EmbedcalError(
            f"expected the name of an attribute, found '{printable(attribute)}': give a word or two"
        )
    if verdict not in VERDICTS:
        raise EmbedcalError(
            f"expected a verdict among {', '.join(VERDICTS)}, found '{printable(verdict)}': say "
            "spurious if the class could do without it"
        )
    own = {known for known, _ in cache.meta.attributes} - cache.inferred.keys()
    if name in own:
        raise EmbedcalError(
            f"expected another name than {name}, found that {cache.meta.path.name} has labels of "
            f"it: fit with --attribute '{name}', or call yours otherwise"
        )
    return name


def values_of(attribute: str) -> tuple[str, str]:
    """The names of an annotated attribute's values: without it, with it."""
    return f"no {attribute}", attribute


def annotation(cache: FeatureCache, attribute: str) -> Annotation:
    """The annotation of one attribute beside a cache, checked to be whole and of its rows."""
    path = kept(cache, _file(attribute))
    if not path.is_file():
        known = ", ".join(annotated(cache)) or "none"
        raise EmbedcalError(
            f"expected an annotated attribute '{printable(attribute)}' beside "
            f"{cache.meta.path.name}, found {known}: run detect, then annotate"
        )
    return _read(path, cache)


def annotated(cache: FeatureCache) -> tuple[str, ...]:
    """Names of the attributes that were annotated beside a cache, sorted."""
    files = (path for folder in folders(cache) for path in (folder / FOLDER).glob("*.json"))
    return tuple(sorted({unescape_name(path.stem) for path in files}))


def remove(cache: FeatureCache, attribute: str) -> None:
    """Delete an annotation, whole or damaged, with its prompts; runs that used it stay.

    EmbedcalError where there is none of that name.
    """
    path = kept(cache, _file(attribute))
    if not path.is_file():
        known = ", ".join(annotated(cache))
        raise EmbedcalError(
            f"expected an annotated attribute '{printable(attribute)}' beside "
            f"{cache.meta.path.name}, found {known or 'none'}: "
            + ("choose one of them" if known else "there is nothing to remove")
        )
    try:
        path.unlink()
        prompts_path(cache, attribute).unlink(missing_ok=True)
    except OSError as error:
        raise EmbedcalError(
            f"expected to delete {path}, found: {error.strerror}: make its folder writable"
        ) from None


def prompts_path(cache: FeatureCache, attribute: str) -> Path:
    """Where the text features of an annotated attribute's values lie, if they were made."""
    return kept(cache, _file(attribute)).with_suffix(".safetensors")


def _file(attribute: str) -> str:
    return f"{FOLDER}/{escape_name(attribute)}.json"


def _digest(document: Mapping[str, Any]) -> str:
    return hashlib.sha256(canonical(document).encode()).hexdigest()


def _read(path: Path, cache: FeatureCache) -> Annotation:
    shown = printable(str(path), longest=300)
    try:
        found = json.loads(path.read_text("utf-8"))
        document = {key: value for key, value in found.items() if key != "digest"}
        sound = found["format"] == FORMAT and found["digest"] == _digest(document)
        labels = np.asarray(found["labels"], np.int8)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError):
        sound = False
    if not sound:
        raise EmbedcalError(
            f"expected an annotation as it was written in {shown}, found another or a changed "
            "file: annotate again"
        )
    if found["rows"]["sha256"] != rows_digest(cache) or labels.shape != (len(cache),):
        raise EmbedcalError(
            f"expected labels of the rows of {cache.meta.path.name} in {shown}, found those of "
            "other images: annotate again"
        )
    return Annotation(
        attribute=found["attribute"],
        verdict=found["verdict"],
        values=(found["values"][0], found["values"][1]),
        labels=labels,
        source=found["source"],
        digest=found["digest"],
    )
