"""A study as a file: a question, the grid of runs that answers it, and how the answer is shown.

A preset is TOML: ``[[runs]]`` tables as a grid has them, and beside them ``title``, ``question``
and the keys of :class:`Preset`. A file dropped into ``presets/`` is a study by the file's name; any
other file is one by its path.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from embedcal.errors import did_you_mean
from embedcal.grids import Setting, Space, read_grid
from embedcal.grids.settings import settings_of, written
from embedcal.studies.needs import NEEDS
from embedcal.types import EmbedcalError

FOLDER = Path(__file__).parent / "presets"
CHOICES = {
    "figure": ("points", "lines", "scatter"),
    "look": ("", "calibration", "operations"),
    "every": ("", "method", "variant"),
    "attributes": ("together", "each"),
    "reference": ("first", "of its method"),
}

KINDS = {  # what a key is, where it is no text, and an example
    "seeds": ("a whole number from 1 on", "seeds = 3"),
    "needs": ("a list of text", 'needs = ["attributes"]'),
    "x": ("a list of text", 'x = ["epochs"]'),
    "names": ("a table of text", '[names] and below it "neg=rns" = "random"'),
}
OVER = {"lines": "epochs", "scatter": "seconds"}  # figures that need x, and an example of it


@dataclass(frozen=True, kw_only=True)
class Preset:
    """A study before it is run.

    ``needs``: what a cache must have, names of ``embedcal.studies.needs``. ``seeds``: how many.
    ``reference``: what every row is compared with, the first row, or the first of its method.
    ``every``: add every method with its defaults, or every variant of those that have an official
    one. ``attributes``: groups by the product of all attributes, or runs with the groups of each
    alone as well. ``look``: what is found out beside accuracies, of calibration sets or of floating
    point operations. ``figure`` and ``x``: how it is drawn, over which option, or over which
    things looked at. ``names``: how methods and options are called in tables: ``"neg=rns" =
    "random"``; an empty name leaves the option out.
    """

    name: str
    title: str
    question: str
    spaces: tuple[Space, ...]
    needs: tuple[str, ...] = ()
    seeds: int = 3
    figure: str = "points"
    x: tuple[str, ...] = ()
    reference: str = "first"
    every: str = ""
    attributes: str = "together"
    look: str = ""
    names: Mapping[str, str] = field(default_factory=dict)

    @property
    def settings(self) -> tuple[Setting, ...]:
        return settings_of(self.spaces)

    def labels(self) -> dict[str, str]:
        """What each setting is called, by ``Setting.label``: its method and what varies in it.

        The method is left out where there is only one. Equal names fall back on the full ones.
        """
        found = self._named(())
        twice = {name for name in found.values() if list(found.values()).count(name) > 1}
        return {key: key if name in twice else name for key, name in found.items()}

    def series(self) -> dict[str, str]:
        """The same without the options of ``x``: which line of a figure each setting is on."""
        return self._named(self.x)

    def _named(self, without: Iterable[str]) -> dict[str, str]:
        settings, varying = self.settings, self.varying()
        several = len(varying) > 1
        found = {}
        for setting in settings:
            texts = [
                f"{name}={written(value)}"
                for name, value in setting.options.items()
                if name in varying[setting.method] and name not in without
            ]
            shown = " ".join(name for text in texts if (name := self.names.get(text, text)))
            method = self.names.get(setting.method, setting.method)
            named = [method] if several or not shown else []
            found[setting.label] = " ".join([*named, shown]).strip()
        return found

    def varying(self) -> dict[str, tuple[str, ...]]:
        """For each method the options that are not the same in all of its settings."""
        found: dict[str, tuple[str, ...]] = {}
        for method in dict.fromkeys(setting.method for setting in self.settings):
            own = [s.options for s in self.settings if s.method == method]
            names = dict.fromkeys(name for options in own for name in options)
            found[method] = tuple(
                name for name in names if len({repr(options.get(name)) for options in own}) > 1
            )
        return found


def names() -> list[str]:
    """Every study of the package, without reading any."""
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


def preset(name: str | Path) -> Preset:
    """A study by its name, or from a TOML file; EmbedcalError with the nearest names otherwise."""
    path = Path(name).expanduser()
    if path.suffix != ".toml":
        if str(name) not in names():
            hint = did_you_mean(str(name), names(), f"choose {', '.join(names())}")
            raise EmbedcalError(
                f"expected the name of a study or a .toml file, found '{name}': {hint}"
            )
        path = FOLDER / f"{name}.toml"
    spaces, keys = read_grid(path)
    given: dict[str, Any] = {"title": path.stem, "question": "", **keys}
    _check(given, path)
    every = _every(given.get("every", ""))
    if not spaces and not every:
        raise EmbedcalError(f"expected [[runs]] in {path}, found none: give each a method")
    lists: dict[str, Any] = {key: tuple(given[key]) for key in ("needs", "x") if key in given}
    return Preset(**{**given, **lists, "name": path.stem, "spaces": (*spaces, *every)})


def _check(given: Mapping[str, Any], path: Path) -> None:
    """Every key known, of its type, and one of its choices."""
    known = [item.name for item in fields(Preset) if item.name not in ("name", "spaces")]
    for key, value in given.items():
        if key not in known:
            hint = did_you_mean(key, known, f"it may have {', '.join(known)}")
            raise EmbedcalError(f"expected the keys of a study in {path}, found '{key}': {hint}")
        if key in CHOICES and value not in CHOICES[key]:
            allowed = ", ".join(choice for choice in CHOICES[key] if choice)
            mend = did_you_mean(str(value), CHOICES[key], f"leave {key} out, or choose one")
            raise EmbedcalError(
                f"expected {key} in {path} to be one of {allowed}, found {value!r:.60}: {mend}"
            )
        if not _fits(key, value):
            kind, example = KINDS.get(key, ("text", f'{key} = "some words"'))
            raise EmbedcalError(
                f"expected {key} in {path} to be {kind}, found {value!r:.60}: write, say, {example}"
            )
    figure = given.get("figure")
    if figure in OVER and not given.get("x"):
        raise EmbedcalError(
            f"expected x in {path}, what figure '{figure}' is drawn over, found none: write, say, "
            f'x = ["{OVER[figure]}"]'
        )
    for need in given.get("needs", ()):
        if need not in NEEDS:
            raise EmbedcalError(
                f"expected needs in {path} among {', '.join(NEEDS)}, found '{need}': "
                + did_you_mean(need, NEEDS, "leave out what is none of them")
            )


def _fits(key: str, value: Any) -> bool:
    if key == "seeds":
        return isinstance(value, int) and not isinstance(value, bool) and value >= 1
    if key in ("needs", "x"):
        return isinstance(value, list) and all(isinstance(item, str) for item in value)
    if key == "names":
        return isinstance(value, dict) and all(isinstance(item, str) for item in value.values())
    return isinstance(value, str)


def _every(what: str) -> Iterable[Space]:
    from embedcal import methods

    if what == "method":
        return tuple(Space(method=name) for name in methods.names())
    if what == "variant":
        found = [(name, methods.find(name).variants) for name in methods.names()]
        return tuple(
            Space(method=name, axes={"variant": variants})
            for name, variants in found
            if any(variant.startswith("official") for variant in variants)
        )
    return ()
