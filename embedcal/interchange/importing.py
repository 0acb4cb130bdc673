"""From a file of features, in any of the forms that people have, to a cache."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from embedcal.cache.importing import Names, Text, import_features
from embedcal.datasets.places import remember_last_cache
from embedcal.datasets.printable import printable
from embedcal.interchange.arrays import (
    read_banks,
    read_npy,
    read_npz,
    read_safetensors,
    read_torch,
)
from embedcal.interchange.folders import (
    is_clip_benchmark,
    is_clip_retrieval,
    read_clip_benchmark,
    read_clip_retrieval,
)
from embedcal.interchange.imported import Found, Imported
from embedcal.interchange.joining import joined
from embedcal.interchange.labels import Asked, Labels
from embedcal.interchange.parquet import read_parquet_features
from embedcal.types import EmbedcalError

IMPORTS: dict[str, Callable[[Path, str | None], Found]] = {
    "npz": read_npz,
    "npy": read_npy,
    "pt": read_torch,
    "safetensors": read_safetensors,
    "parquet": read_parquet_features,
    "clip-retrieval": read_clip_retrieval,
    "clip-benchmark": read_clip_benchmark,
}
_FOLDERS = {"clip-retrieval": is_clip_retrieval, "clip-benchmark": is_clip_benchmark}


def read_features(
    path: str | Path,
    *,
    table: str | Path | None = None,
    format: str | None = None,
    features: str | None = None,
    attributes: Sequence[str] = (),
    classes: str | Sequence[str] | None = None,
    values: str | Mapping[str, str | Sequence[str]] | None = None,
) -> Imported:
    """Features and labels from a file or folder, mapped where the form allows it.

    Args:
        path: an ``.npz``, ``.npy``, ``.pt``, ``.safetensors`` or ``.parquet`` file, or the output
            folder of clip-retrieval or of CLIP_benchmark's linear probe.
        table: CSV, TSV or Parquet with ``y``, ``split``, attributes, ``id``; joined by the id
            where features and table have one, else row by row. What it has goes before the
            file's own labels.
        format: one of ``IMPORTS``; by default what suffix and contents say.
        features: name of the array or column of features, by default ``features``, else
            ``embedding``.
        attributes: names of arrays or columns of attribute values; by default those that the
            file itself says it has.
        classes: class names in the order of their labels, also separated by commas.
        values: value names of the first attribute, or ``place=land,water;time=day,night``, which
            adds what it names to the attributes.

    Returns:
        Everything that was found, lengths, ranges and ids checked.

    Raises:
        EmbedcalError: in one line, for anything else. Nothing is unpickled.
    """
    path = Path(path).expanduser()
    found = IMPORTS[_form(path, format)](path, features)
    own = () if found.table is None else (found.table,)
    tables, notes = own, tuple[str, ...]()
    if table is not None:
        given, notes = joined(found, Path(table).expanduser())
        tables = (given, *own)
    elif found.table is not None and len(found.table) != len(found):
        raise EmbedcalError(
            f"expected {len(found)} rows in {printable(found.table.source, longest=300)}, one for "
            f"each row of features, found {len(found.table)}: name the table of these features"
        )
    asked = Asked(attributes=tuple(attributes), classes=classes, values=values)
    labels = Labels(found, tables).read(asked)
    beside = {
        name: next((t.columns[name] for t in tables if name in t.columns), ())
        for name in ("id", "path")
    }
    return Imported(
        source=found.source,
        parts=found.parts,
        y=labels.y,
        split=labels.split,
        attributes=labels.attributes,
        ids=found.ids or beside["id"],
        paths=found.paths or beside["path"],
        classes=labels.classes,
        values=labels.values,
        banks=read_banks(found, labels.classes, labels.values),
        logit_scale=found.description.logit_scale,
        dataset=found.description.dataset,
        notes=notes,
    )


def import_from(  # noqa: PLR0913 - each is an option of the command
    path: str | Path,
    *,
    table: str | Path | None = None,
    format: str | None = None,
    features: str | None = None,
    attributes: Sequence[str] = (),
    classes: str | Sequence[str] | None = None,
    values: str | Mapping[str, str | Sequence[str]] | None = None,
    name: str | None = None,
    out: str | Path | None = None,
) -> Path:
    """A cache of the features in a file or folder, which becomes the one used last.

    ``name`` is that of the data set, by default what the file says, else the file's own; ``out``
    the cache file. All others are those of :func:`read_features`. EmbedcalError for what cannot be
    read, and for features and labels that do not fit.

    Example:
        >>> import embedcal
        >>> with embedcal.open("birds.h5") as cache:
        ...     path = embedcal.export_features(cache, "birds.npz")
        >>> with embedcal.open(embedcal.import_from("birds.npz", out="again.h5")) as cache:
        ...     len(cache), cache.meta.classes
        (600, ('landbird', 'waterbird'))
    """
    found = read_features(
        path,
        table=table,
        format=format,
        features=features,
        attributes=attributes,
        classes=classes,
        values=values,
    )
    cache = import_features(
        found.parts,
        found.y,
        found.split,
        found.attributes,
        names=Names(
            dataset=name or found.dataset or found.source.stem,
            ids=found.ids,
            paths=found.paths,
            classes=found.classes,
            values=found.values,
            warnings=found.notes,
        ),
        text=Text(banks=found.banks, logit_scale=found.logit_scale),
        out=None if out is None else Path(out),
    )
    remember_last_cache(cache)
    return cache


def _form(path: Path, given: str | None) -> str:
    """The form of a path: as given, by its suffix, or by what lies in the folder."""
    shown = printable(str(path), longest=300)
    listed = ", ".join(IMPORTS)
    if given is not None and given not in IMPORTS:
        raise EmbedcalError(
            f"expected a form to read among {listed}, found '{printable(given)}': leave --format "
            "out where the name or the folder tells it"
        )
    if not path.exists():
        raise EmbedcalError(f"expected features at {shown}, found nothing there: check the path")
    if given is not None:
        return given
    if path.is_dir():
        fitting = [form for form, fits in _FOLDERS.items() if fits(path)]
    else:
        suffix = path.suffix.lower().lstrip(".")
        fitting = [{"pth": "pt"}.get(suffix, suffix)]
    if len(fitting) != 1 or fitting[0] not in IMPORTS:
        raise EmbedcalError(
            f"expected features in one of the forms {listed}, found {shown}, which is "
            f"{'several of them' if len(fitting) > 1 else 'none by its name or contents'}: say "
            "which with --format"
        )
    return fitting[0]
