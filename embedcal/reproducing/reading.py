"""Recipes from TOML: those of the package and one's own, checked whole before anything is run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, fields
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from embedcal.datasets.printable import printable
from embedcal.errors import did_you_mean
from embedcal.evaluate import rule
from embedcal.reproducing.recipe import (
    OVERLAP,
    REGIONS,
    Column,
    Part,
    Planned,
    Recipe,
    Row,
    Tolerance,
)
from embedcal.types import EmbedcalError

FOLDER = Path(__file__).parent / "recipes"
RECORDED = ("worst_group", "train_weighted", "group_mean", "worst_class", "class_mean", "mean")
SCALARS = (*RECORDED, *OVERLAP)
VECTORS = ("groups", "classes", "worst_group_of_class")
T = TypeVar("T")


def recipe_names() -> tuple[str, ...]:
    """Names of all recipes of the package, sorted."""
    return tuple(sorted(path.stem for path in FOLDER.glob("*.toml")))


def recipes() -> tuple[Recipe, ...]:
    """Every recipe of the package."""
    return tuple(recipe(name) for name in recipe_names())


def recipe(name: str | Path) -> Recipe:
    """A recipe by its name, or the one in a file ``path.toml``.

    EmbedcalError with the nearest names for any other, and for a file that is no recipe.
    """
    path = Path(name).expanduser()
    if path.suffix != ".toml":
        known = recipe_names()
        if str(name) not in known:
            hint = did_you_mean(str(name), known, f"it is one of {', '.join(known)}")
            raise EmbedcalError(
                f"expected the name of a recipe or a .toml file, found '{printable(str(name))}': "
                f"{hint}"
            )
        path = FOLDER / f"{name}.toml"
    return parse(_text(path), name=path.stem, source=str(path))


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise EmbedcalError(
            f"expected a recipe as TOML in UTF-8 in {printable(str(path), longest=300)}, found: "
            f"{printable(str(error), longest=200)}: check the path"
        ) from None


def parse(text: str, *, name: str, source: str) -> Recipe:
    """A recipe from TOML text; ``source`` is how messages call it."""
    import tomllib

    shown = printable(source, longest=300)
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise EmbedcalError(
            f"expected TOML in {shown}, found a fault ({printable(str(error))}): mend it"
        ) from None
    kinds: dict[str, Any] = {
        "parts": Part,
        "runs": Planned,
        "columns": Column,
        "tolerances": Tolerance,
        "rows": Row,
    }
    lists = {
        key: tuple(
            _value(cls, table, f"[[{key}]] number {number} of {shown}")
            for number, table in enumerate(_tables(document.get(key, []), key, shown), start=1)
        )
        for key, cls in kinds.items()
    }
    top = {key: value for key, value in document.items() if key not in kinds}
    found: Recipe = _value(Recipe, {"name": name, **top}, f"the top of {shown}", lists)
    _check(found, shown)
    return found


def _tables(found: object, key: str, shown: str) -> list[dict[str, Any]]:
    if not isinstance(found, list) or not all(isinstance(table, dict) for table in found):
        raise EmbedcalError(
            f"expected [[{key}]] tables in {shown}, found {printable(repr(found))}: write one a "
            f"{key.rstrip('s')}"
        )
    return found


def _value(
    cls: type[T], table: Mapping[str, Any], where: str, given: Mapping[str, Any] | None = None
) -> T:
    """A frozen value from a TOML table: keys known, none missing, each of its field's type."""
    hints = get_type_hints(cls)
    own = [item for item in fields(cls) if item.name not in (given or {})]  # type: ignore[arg-type]
    names = [item.name for item in own]
    strange = sorted(set(table) - set(names))
    if strange:
        raise EmbedcalError(
            f"expected the keys {', '.join(names)} in {where}, found {printable(strange[0])}: "
            "mend it"
        )
    for item in own:
        optional = item.default is not MISSING or item.default_factory is not MISSING
        if item.name not in table and not optional:
            raise EmbedcalError(f"expected {item.name} in {where}, found none: add it")
        if item.name in table and not _fits(table[item.name], hints[item.name]):
            raise EmbedcalError(
                f"expected {item.name} of {where} to be {_told(hints[item.name])}, found "
                f"{printable(repr(table[item.name]))}: mend it"
            )
    frozen = {key: tuple(v) if isinstance(v, list) else v for key, v in table.items()}
    return cls(**frozen, **(given or {}))


def _fits(value: object, hint: Any) -> bool:
    """Whether a TOML value is of a field's type; a whole number is a float, a bool is neither."""
    origin, inner = get_origin(hint), get_args(hint)
    if hint is Any:
        return True
    if origin in (Union, UnionType):
        return any(_fits(value, kind) for kind in inner)
    if origin is tuple:
        return isinstance(value, list) and all(_fits(item, inner[0]) for item in value)
    if origin is not None:
        return isinstance(value, dict) and all(_fits(item, inner[1]) for item in value.values())
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    return type(value) is hint and hint is not NoneType


def _told(hint: Any) -> str:
    """A type in words."""
    origin, inner = get_origin(hint), get_args(hint)
    words: dict[Any, str] = {str: "a text", int: "a whole number", float: "a number", bool: "true "
                             "or false"}  # fmt: skip
    if origin in (Union, UnionType):
        return " or ".join(_told(kind) for kind in inner if kind is not NoneType)
    if origin is tuple:
        return f"a list, each {_told(inner[0])}"
    return words.get(hint, "a table")


def _check(found: Recipe, shown: str) -> None:
    """Names that a row gives are there, its numbers fit the columns, and no rule looks at test."""

    def expect(good: object, wanted: str, instead: object) -> None:
        if not good:
            raise EmbedcalError(
                f"expected {wanted} in {shown}, found {printable(str(instead))}: mend it"
            )

    named = {
        "parts": [part.name for part in found.parts],
        "runs": [run.name for run in found.runs],
        "columns": [column.name for column in found.columns],
        "tolerances": [tolerance.name for tolerance in found.tolerances],
    }
    for key, names in named.items():
        expect(len(set(names)) == len(names), f"a name of its own for each of {key}", _twice(names))
    for key in ("parts", "columns", "rows"):
        expect(getattr(found, key), f"at least one of [[{key}]]", "none")
    expect(found.seeds >= 1, "seeds of 1 or more", found.seeds)
    for select in {found.select, *(run.select for run in found.runs if run.select)}:
        expect(not rule(select).oracle, "a rule on validation", f"'{select}', which looks at test")
    expect(found.region in REGIONS, f"a region among {', '.join(REGIONS)}", found.region)
    for part in found.parts:
        expect(
            isinstance(part.templates, str) or part.command,
            f"a command for the part '{part.name}', whose templates have no name,",
            "none",
        )
    for column in found.columns:
        expect(
            bool(column.metric) != bool(column.unmeasured),
            f"a metric for the column '{column.name}', or why it is unmeasured,",
            "both" if column.metric else "neither",
        )
        if column.metric:
            expect(
                _is_metric(column.metric),
                f"a metric ({', '.join(SCALARS)}, or {', '.join(VECTORS)} with .INDEX)",
                column.metric,
            )
    for row in found.rows:
        label = f"the row '{row.name}'"
        expect(row.part in named["parts"], f"a part for {label}", row.part)
        expect(
            len(row.values) == len(found.columns),
            f"{len(found.columns)} values in {label}, one a column,",
            len(row.values),
        )
        expect(
            row.run in named["runs"] or (row.unmeasured and not row.run),
            f"a run for {label}",
            row.run or "none",
        )
        for column in found.columns:
            judged = not (row.doubt or row.unmeasured or column.doubt or column.unmeasured)
            tolerance = found.tolerance(row, column)
            points = tolerance.of(column.name) if tolerance else None
            expect(
                not judged or (points is not None and points >= 0),
                f"a tolerance for the column '{column.name}' of {label}",
                row.tolerance or "none",
            )


def _is_metric(name: str) -> bool:
    base, dot, index = name.partition(".")
    return (base in SCALARS and not dot) or (base in VECTORS and index.isdecimal())


def _twice(names: Sequence[str]) -> str:
    seen: set[str] = set()
    repeated: Iterable[str] = (name for name in names if name in seen or seen.add(name))  # type: ignore[func-returns-value]
    return f"'{next(iter(repeated), '')}' twice"
