"""What a grid asks for: methods, each with values of its options, as text, as TOML, or as values.

``cfr:neg=rns,nns:lr=1e-4,1e-3`` is one :class:`Space` of four settings. No character of it means
anything to a shell. An option that is itself a list joins its items with ``+``: ``dfr:c=1+0.1``.
``lr=1e-5..1e-2`` is a range, for a search.
"""

from __future__ import annotations

import itertools
import math
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args, get_type_hints

from embedcal.fitting import configure
from embedcal.methods import find
from embedcal.methods.base import Method, default_of, options
from embedcal.types import EmbedcalError

DECADES = 100.0  # a positive range this wide is searched by its logarithm


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One configuration: a method and the options that are not its defaults.

    Example:
        >>> import embedcal
        >>> embedcal.Setting(method="erm", options={"lr": 1e-3}).label
        'erm lr=0.001'
    """

    method: str
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """The method and its options, as a table shows them."""
        return " ".join([self.method, *(f"{k}={written(v)}" for k, v in self.options.items())])


@dataclass(frozen=True, kw_only=True)
class Range:
    """Numbers from ``low`` to ``high``, both included; only a search can draw from them."""

    low: float
    high: float
    whole: bool

    @property
    def logarithmic(self) -> bool:
        return self.low > 0 and self.high / self.low >= DECADES

    @property
    def size(self) -> float:
        """How many numbers there are."""
        return int(self.high) - int(self.low) + 1 if self.whole else math.inf

    def at(self, share: float) -> float | int:
        """The number at a share of the way from low to high, 0 <= share < 1."""
        if self.whole:
            return int(self.low) + math.floor(share * (int(self.high) - int(self.low) + 1))
        if self.logarithmic:
            found = self.low * math.pow(self.high / self.low, share)
        else:
            found = self.low + share * (self.high - self.low)
        return min(max(found, self.low), self.high)  # rounding may step out


@dataclass(frozen=True, kw_only=True)
class Space:
    """A method and, for some of its options, the values or the range to try."""

    method: str
    axes: Mapping[str, tuple[Any, ...] | Range] = field(default_factory=dict)

    @property
    def size(self) -> float:
        """How many settings there are; infinite where an axis is a range of real numbers."""
        sizes = (axis.size if isinstance(axis, Range) else len(axis) for axis in self.axes.values())
        return math.prod(sizes)

    def product(self) -> Iterator[Setting]:
        """Every combination, the last option varying fastest."""
        for name, axis in self.axes.items():
            if isinstance(axis, Range):
                raise EmbedcalError(
                    f"expected values for {name} of {self.method}, found the range "
                    f"{axis.low:g}..{axis.high:g}: list values, or search it with --budget N"
                )
        axes: list[tuple[Any, ...]] = [a for a in self.axes.values() if isinstance(a, tuple)]
        for values in itertools.product(*axes):
            yield Setting(method=self.method, options=dict(zip(self.axes, values, strict=True)))


def parse(text: str) -> Space:
    """``METHOD[:OPTION=VALUE[,VALUE...]]...`` -> a space, every value of its option's type."""
    method, *parts = _parts(text)
    values: dict[str, list[Any]] = {}
    for part in parts:
        name, equals, listed = part.partition("=")
        if not equals or not name or not listed:
            raise EmbedcalError(
                f"expected METHOD:OPTION=VALUE,VALUE in a grid, found '{part}' in '{text}': "
                "write, say, cfr:neg=rns,nns"
            )
        again = next((known for known in values if _same(known, name)), None)
        if again is not None:
            raise EmbedcalError(
                f"expected each option once in a grid, found {again}={','.join(values[again])} and "
                f"{part} in '{text}': list all of its values after one, with commas"
            )
        values[name] = list(listed.split(","))
    return space(method, values)


def _same(name: str, other: str) -> bool:
    """Whether two spellings name one option."""
    return name.replace("-", "_") == other.replace("-", "_")


def _parts(text: str) -> list[str]:
    """Split at colons, but not inside the path of a method's file on Windows (``C:\\``)."""
    drive = 2 if text[1:3] in (":\\", ":/") else 0
    first, *rest = text[drive:].split(":")
    return [text[:drive] + first, *rest]


def space(method: str, values: Mapping[str, Any]) -> Space:
    """A space of values that are texts or are of their option's type already; one or several.

    EmbedcalError for an unknown method or option and for a value that is none of its type.
    """
    cls = find(method)
    hints = get_type_hints(cls)
    plain = {name.replace("-", "_"): value for name, value in values.items()}
    if len(plain) < len(values):
        raise EmbedcalError(
            f"expected each option of {method} once in a grid, found {', '.join(values)}: - and _ "
            "name the same option, so keep one"
        )
    configure(method, {name: _default(cls, name) for name in plain})  # unknown names end here
    axes: dict[str, tuple[Any, ...] | Range] = {}
    for name, given in plain.items():
        listed = list(given) if isinstance(given, list | tuple) else [given]
        if not listed:
            raise EmbedcalError(
                f"expected values for {name} of {method}, found none: list some, or leave it out"
            )
        ranges = [v for v in listed if isinstance(v, str) and ".." in v]
        if ranges and len(listed) > 1:
            raise EmbedcalError(
                f"expected values or one range for {name} of {method}, found both: choose one"
            )
        if ranges:
            axes[name] = _range(cls, name, ranges[0], hints[name])
        else:
            axes[name] = tuple(dict.fromkeys(_value(cls, name, v, hints[name]) for v in listed))
    return Space(method=method, axes=axes)


def default_space(method: str) -> Space:
    """Every option of a method that declares a grid of its own."""
    cls = find(method)
    grids = {item.name: tuple(item.metadata["grid"]) for item in options(cls)}
    return Space(method=method, axes={name: grid for name, grid in grids.items() if grid})


def read_grid(path: str | Path) -> tuple[tuple[Space, ...], dict[str, Any]]:
    """A TOML file of ``[[runs]]`` tables -> their spaces, and the other keys as they are.

    Each table has a ``method`` and, for any option, a value or a list of values.
    """
    try:
        document = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise EmbedcalError(
            f"expected a grid in {path}, found: {error.strerror}: give a TOML file with [[runs]]"
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise EmbedcalError(f"expected TOML in {path}, found: {error}: correct the file") from None
    tables = document.pop("runs", None)
    if not isinstance(tables, list) or not all(isinstance(t, dict) for t in tables):
        raise EmbedcalError(
            f"expected [[runs]] tables in {path}, found {', '.join(document) or 'nothing'}: give "
            "each a method and lists of values"
        )
    spaces = []
    for number, table in enumerate(tables, start=1):
        method = table.pop("method", None)
        if not isinstance(method, str):
            raise EmbedcalError(
                f"expected a method in [[runs]] number {number} of {path}, found "
                f'{", ".join(table) or "nothing"}: add, say, method = "erm"'
            )
        spaces.append(space(method, table))
    return tuple(spaces), document


def written(value: Any) -> str:
    """A value as a grid on the command line has it."""
    if isinstance(value, tuple | list):
        return "+".join(written(item) for item in value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def _default(cls: type[Method], name: str) -> Any:
    return next((default_of(item) for item in options(cls) if item.name == name), None)


def _value(cls: type[Method], name: str, given: Any, hint: Any) -> Any:
    """One value of an option; texts are read as the option's type."""
    if getattr(hint, "__origin__", None) is tuple:
        kind = get_args(hint)[0]
        items = given.split("+") if isinstance(given, str) else given
        items = items if isinstance(items, list | tuple) else [items]
        return tuple(_scalar(cls, name, item, kind) for item in items)
    return _scalar(cls, name, given, hint)


def _scalar(cls: type[Method], name: str, given: Any, kind: Any) -> Any:
    try:
        if isinstance(given, bool) or (kind is int and isinstance(given, float)):
            raise ValueError
        value = kind(given)
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError
    except (TypeError, ValueError):
        raise EmbedcalError(
            f"expected {name} of {cls.name} to be {_kind(kind)}, found '{given}': correct the grid"
        ) from None
    return value


def _range(cls: type[Method], name: str, text: str, hint: Any) -> Range:
    if hint not in (int, float):
        raise EmbedcalError(
            f"expected values for {name} of {cls.name}, found the range '{text}': list them"
        )
    low, high = (_scalar(cls, name, end, hint) for end in text.split("..", 1))
    if not low < high:
        raise EmbedcalError(
            f"expected a range from low to high for {name} of {cls.name}, found '{text}': turn it "
            "round"
        )
    return Range(low=low, high=high, whole=hint is int)


def _kind(kind: Any) -> str:
    names: dict[Any, str] = {int: "a whole number", float: "a number", str: "a word"}
    return names.get(kind, str(kind))


def settings_of(spaces: Sequence[Space]) -> tuple[Setting, ...]:
    """Every setting of every space, in their order."""
    return tuple(setting for space in spaces for setting in space.product())
