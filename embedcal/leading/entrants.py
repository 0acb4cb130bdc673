"""Who takes part: the settings of each method by the labels that they read, and who cannot."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from embedcal.comparing.budgets import EXTRA, kind
from embedcal.errors import did_you_mean
from embedcal.fitting import configure
from embedcal.grids import Setting, Space
from embedcal.grids.search import search_of
from embedcal.grids.settings import default_space, settings_of, space
from embedcal.methods import find, labels_of
from embedcal.methods.base import Method, Solver, options
from embedcal.types import EmbedcalError
from embedcal.workbench import Workbench

_Settings = dict[str, tuple[Method, Setting]]  # by what tells them apart once resolved

SPARE = 16  # draws for each setting wanted: many are refused, or read other labels
MANY = 20_000  # settings that no one tries on purpose


@dataclass(frozen=True, kw_only=True)
class Entrant:
    """Settings of one method that read the same kind of labels, the first of them by name.

    ``needs`` is all that they read; ``judged`` says whether the rule chooses within a run of them
    too (an epoch), and ``fits_val`` whether they are fitted to the rows that a rule would look at.
    """

    method: str
    settings: tuple[Setting, ...]
    needs: frozenset[str]
    judged: bool
    fits_val: bool


@dataclass(frozen=True, kw_only=True)
class Field:
    """All entrants, the reason of each method that this cache cannot serve, and remarks."""

    entrants: tuple[Entrant, ...]
    refused: Mapping[str, str]
    notes: tuple[str, ...] = ()


def field_of(
    on: Workbench,
    methods: Sequence[str],
    *,
    budget: int | None,
    search_seed: int = 0,
    fixed: Mapping[str, str] | None = None,
) -> Field:
    """The entrants of these methods with at most ``budget`` settings each; None: all of its grid.

    Each kind of labels that the defaults of a method read, or a setting of a name of its own
    (``dfr variant=train``), is an entrant. Its further settings are drawn at random from the
    method's own grid, the same for equal seeds, and a larger budget draws the same first. A
    setting that fits rows of val stays alone: its score there chooses nothing. ``fixed`` options,
    as texts, hold for every method that takes them.
    """
    entrants: list[Entrant] = []
    refused: dict[str, str] = {}
    notes: list[str] = []
    held = _fixed(on, methods, fixed or {}, notes)
    for name in methods:
        extras = [options for method, options in EXTRA if method == name]
        named = [Setting(method=name, options={**held[name], **extra}) for extra in ({}, *extras)]
        reasons = {setting.label: refusal(setting, on) for setting in named}
        able = [setting for setting in named if reasons[setting.label] is None]
        lacking = {label: reason for label, reason in reasons.items() if reason is not None}
        if able:
            refused |= lacking
            entrants += _of_method(on, able, held[name], budget, search_seed)
        else:  # one line for a method
            refused[name] = next(iter(lacking.values()))
    return Field(entrants=tuple(entrants), refused=refused, notes=tuple(notes))


def field_of_spaces(on: Workbench, spaces: Sequence[Space]) -> Field:
    """The entrants of a grid that somebody wrote down: every setting of every space takes part."""
    refused: dict[str, str] = {}
    by_kind: dict[tuple[str, str], _Settings] = {}
    for setting in settings_of(spaces):
        reason = refusal(setting, on)
        if reason is not None:
            refused.setdefault(setting.method, reason)
            continue
        method = _resolved(setting, on)
        same = by_kind.setdefault((setting.method, kind(labels_of(method))), {})
        same.setdefault(_key(method), (method, setting))
    return Field(entrants=tuple(map(_entrant, by_kind.values())), refused=refused)


def refusal(setting: Setting, on: Workbench) -> str | None:
    """Why this cache cannot serve a setting, its first run included; None if it can."""
    try:
        method: Method | None = _resolved(setting, on)
        while method is not None:
            on.task(method)
            stage = method.stage
            method = None
            if stage is not None:
                method = configure(stage.method, stage.options).resolve(on.offer)
    except EmbedcalError as error:
        return str(error)
    return None


def _resolved(setting: Setting, on: Workbench) -> Method:
    return configure(setting.method, setting.options).resolve(on.offer)


def _of_method(
    on: Workbench,
    named: Sequence[Setting],
    held: Mapping[str, Any],
    budget: int | None,
    search_seed: int,
) -> list[Entrant]:
    """An entrant for each kind of labels among the named settings, with more drawn for each."""
    by_kind: dict[str, _Settings] = {}
    for setting in named:
        method = _resolved(setting, on)
        by_kind.setdefault(kind(labels_of(method)), {_key(method): (method, setting)})
    served = {_reading(_resolved(setting, on)) for setting in named}
    if budget is None or budget > 1:
        for setting in _drawn(named[0].method, held, budget, search_seed):
            try:
                method = _resolved(setting, on)
            except EmbedcalError:  # no combination that its method takes
                continue
            same = by_kind.get(kind(labels_of(method)), {})
            room = same and not _fits_val(method) and (budget is None or len(same) < budget)
            if not room or _key(method) in same:
                continue
            if _reading(method) in served or refusal(setting, on) is None:
                served.add(_reading(method))
                same[_key(method)] = (method, setting)
    return [_entrant(settings) for settings in by_kind.values()]


def _drawn(
    method: str, held: Mapping[str, Any], budget: int | None, search_seed: int
) -> Iterable[Setting]:
    """Settings of a method's own grid with some options held, at random; all without a budget."""
    axes = {name: axis for name, axis in default_space(method).axes.items() if name not in held}
    whole = Space(method=method, axes=axes)
    if budget is None and whole.size > MANY:
        raise EmbedcalError(
            f"expected at most {MANY:,} settings of a method, found {whole.size:,.0f} in the grid "
            f"of {method}: try some of them with --budget N, or name other --methods"
        )
    wanted = None if budget is None else SPARE * budget
    for settings in search_of("random", [whole], wanted, search_seed).rounds():
        for setting in settings:
            yield Setting(method=method, options={**held, **setting.options})


def _reading(method: Method) -> frozenset[str]:
    """What decides whether a cache can serve a method of this name."""
    return labels_of(method) | {method.level}


def _key(method: Method) -> str:
    """What tells resolved settings of a method apart; a file's class is a new one each time."""
    return f"{method.variant} {method.head_name} {sorted(method.record().items())}"


def _entrant(settings: _Settings) -> Entrant:
    methods = [method for method, _ in settings.values()]
    return Entrant(
        method=methods[0].name,
        settings=tuple(setting for _, setting in settings.values()),
        needs=frozenset().union(*map(labels_of, methods)),
        judged=not isinstance(methods[0], Solver),
        fits_val=any(map(_fits_val, methods)),
    )


def _fits_val(method: Method) -> bool:
    return isinstance(method, Solver) and method.fits_val


def _fixed(
    on: Workbench, methods: Sequence[str], fixed: Mapping[str, str], notes: list[str]
) -> dict[str, dict[str, Any]]:
    """For each method those of the fixed options that it has and takes, with values of its own."""
    held: dict[str, dict[str, Any]] = {name: {} for name in methods}
    fixed = {option.replace("-", "_"): text for option, text in fixed.items()}
    known = {name: {item.name for item in options(find(name))} for name in methods}
    for option, text in fixed.items():
        _check_known(option, known.values())
        reasons: list[EmbedcalError] = []
        having = [name for name in methods if option in known[name]]
        for name in having:
            taken = held[name] | {option: _one(name, option, text)}
            reason = _unresolved(name, taken, on)
            if reason is None:
                held[name] = taken
            elif _unresolved(name, held[name], on) is None:  # else it is left out in any case
                reasons.append(reason)
                notes.append(f"{name} does not take {option}={text} and goes without")
        if reasons and len(reasons) == len(having):
            raise reasons[0]
    return held


def _unresolved(name: str, options: Mapping[str, Any], on: Workbench) -> EmbedcalError | None:
    try:
        configure(name, options).resolve(on.offer)
    except EmbedcalError as error:
        return error
    return None


def _check_known(option: str, known: Iterable[set[str]]) -> None:
    names = sorted(set().union(*known))
    if option not in names:
        hint = did_you_mean(option, names, "embedcal methods lists them")
        raise EmbedcalError(f"expected an option of some method, found '{option}': {hint}")


def _one(method: str, option: str, text: str) -> Any:
    axis = space(method, {option: text}).axes[option]
    if not isinstance(axis, tuple):
        raise EmbedcalError(
            f"expected one value for {option}, found the range '{text}': choose one"
        )
    return axis[0]
