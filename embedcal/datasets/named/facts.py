"""What is known of a published data set, as a value, and its reader from TOML."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, Field, dataclass, field, fields, is_dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, get_args, get_origin, get_type_hints

from embedcal.datasets.downloads import Download
from embedcal.datasets.named.splitting import SplitRule
from embedcal.datasets.printable import printable
from embedcal.errors import did_you_mean
from embedcal.types import EmbedcalError

FACTS = Path(__file__).parent.parent / "facts"


@dataclass(frozen=True, kw_only=True)
class Join:
    """A second table that is joined to the first: the first of ``tables`` that is there.

    ``on`` is the header here and the header there. A row without a partner is a fault, or, with
    ``inner``, is left out and counted in a note. Without an ``optional`` one the attributes that
    it would bring are left out.
    """

    tables: tuple[str, ...]
    on: tuple[str, ...]
    inner: bool = False
    optional: bool = False


@dataclass(frozen=True, kw_only=True)
class Layout:
    """One way in which the data set lies on people's disks.

    ``folder`` is below the root, and may be a pattern such as ``waterbird_complete*``. ``table``
    is the file in it that lists the images, or ``files`` a regular expression over the images'
    paths whose named groups are the columns. ``more`` are tables whose rows follow. ``images`` is
    the folder of the images in ``folder``. ``columns`` adds to those of the data set.
    """

    name: str = "the folder itself"
    folder: str = "."
    table: str = ""
    files: str = ""
    more: tuple[str, ...] = ()
    images: str = "."
    columns: Mapping[str, str] = field(default_factory=dict)
    joins: tuple[Join, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """What is known of a published data set; nothing here is code.

    ``columns`` maps our column names to the table's headers, ``attributes`` an attribute to its
    value names, ``counts`` a split to rows in groups ``y * A + a`` over the product of the
    attributes. ``derived`` makes a column: its source and a regular expression whose first group
    it is. ``codes`` maps cells of ``y`` or of an attribute, as patterns tried in order, to
    labels. ``keep`` names the only cells of a column whose rows count. ``splits`` are rules by
    name, the first the default; without one the table has the split. ``masks`` is a pattern of
    ``{parent}`` and ``{stem}`` of an image's path. ``crop`` is the centre crop in pixels for
    encoders that are not CLIP. ``versions`` names known tables by the digest of their rows (see
    ``row_digest``). A ``made`` one is made on the spot by the package of that name, as ``making``
    says. ``terms`` are the licence in a word or two, ``obtain`` the steps to get it by hand,
    ``downloads`` what can be fetched.
    """

    name: str
    title: str
    source: str
    licence: str
    classes: tuple[str, ...]
    layouts: tuple[Layout, ...]
    columns: Mapping[str, str] = field(default_factory=dict)
    attributes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    derived: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    codes: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    keep: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    splits: Mapping[str, SplitRule] = field(default_factory=dict)
    prompts: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    counts: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    boxes: str | None = None
    masks: str | None = None
    crop: int | None = None
    versions: Mapping[str, str] = field(default_factory=dict)
    paper: str | None = None
    terms: str = ""
    notes: tuple[str, ...] = ()
    obtain: tuple[str, ...] = ()
    downloads: tuple[Download, ...] = ()
    made: str | None = None
    making: Mapping[str, str] = field(default_factory=dict)


def benchmark_names() -> tuple[str, ...]:
    """Names of all benchmarks, sorted: the facts files that come with the package."""
    return tuple(sorted(path.stem for path in FACTS.glob("*.toml")))


def benchmark(name: str) -> Benchmark:
    """The facts about ``name``; EmbedcalError with the nearest names where it is none of them."""
    names = benchmark_names()
    if name not in names:
        hint = did_you_mean(name, names, f"it is one of {', '.join(names)}")
        raise EmbedcalError(f"expected a named data set, found '{printable(name)}': {hint}")
    return read_facts(FACTS / f"{name}.toml")


def read_facts(path: Path) -> Benchmark:
    """The facts in a TOML file, one of the package's or one's own."""
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise EmbedcalError(
            f"expected facts as TOML in UTF-8 in {printable(str(path), longest=300)}, found: "
            f"{printable(str(error), longest=300)}: check the file"
        ) from None
    return parse_facts(text, source=str(path))


def parse_facts(text: str, *, source: str) -> Benchmark:
    """A ``Benchmark`` from TOML text; ``source`` is how messages call it."""
    import tomllib  # compiles its patterns on import, which listing names need not wait for

    shown = printable(source, longest=300)
    try:
        loaded = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise EmbedcalError(
            f"expected TOML in {shown}, found a fault ({printable(str(error))}): mend it"
        ) from None
    made: Benchmark = _value(Benchmark, loaded, shown)
    return made


def _value(kind: Any, value: object, where: str) -> Any:
    """A TOML value as the type that a field is annotated with; EmbedcalError where it is none."""
    if isinstance(kind, UnionType):
        kind = next(each for each in get_args(kind) if each is not NoneType)
    if is_dataclass(kind) and isinstance(kind, type):
        if isinstance(value, dict):
            return _made(kind, value, where)
    elif get_origin(kind) is tuple:
        if isinstance(value, list):
            inner = get_args(kind)[0]
            return tuple(_value(inner, item, where) for item in value)
    elif get_origin(kind) is Mapping:
        if isinstance(value, dict):
            inner = get_args(kind)[1]
            return {key: _value(inner, item, f"{key} of {where}") for key, item in value.items()}
    elif type(value) is kind or (kind is float and type(value) is int):
        return value
    raise EmbedcalError(
        f"expected {where} to be {_called(kind)}, found {printable(repr(value))}: mend it"
    )


def _made(kind: type, given: Mapping[str, object], where: str) -> Any:
    known: dict[str, Field[Any]] = {item.name: item for item in fields(kind)}
    strange = sorted(set(given) - set(known))
    missing = [name for name, item in known.items() if name not in given and _is_required(item)]
    if strange or missing:
        raise EmbedcalError(
            f"expected the keys {', '.join(known)} in {where}, found "
            f"{printable(', '.join(strange)) or 'none'} unknown and "
            f"{', '.join(missing) or 'none'} missing: mend them"
        )
    hints = get_type_hints(kind)
    return kind(**{k: _value(hints[k], v, f"{k} of {where}") for k, v in given.items()})


def _is_required(item: Field[Any]) -> bool:
    return item.default is MISSING and item.default_factory is MISSING


def _called(kind: Any) -> str:
    """A type as a person who writes TOML would call it."""
    if get_origin(kind) is tuple:
        return f"a list of {_called(get_args(kind)[0])}"
    if get_origin(kind) is Mapping:
        return f"a table of {_called(get_args(kind)[1])}"
    names = {str: "text", int: "an integer", float: "a number", bool: "true or false"}
    return names.get(kind, "a table")
