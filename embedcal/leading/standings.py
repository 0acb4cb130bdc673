"""Runs -> where each method stands within its budget of labels, and what that cost."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np

from embedcal.comparing.budgets import KINDS, kind
from embedcal.comparing.choosing import choose, mean_ranks
from embedcal.comparing.recorded import Found, Pool, number
from embedcal.comparing.rows import Row, rights, row_of
from embedcal.comparing.verdicts import counted
from embedcal.evaluate import Interval, Rule, Strata, bootstrap, default_rule, holm, paired
from embedcal.grids import Setting
from embedcal.grids.settings import written
from embedcal.leading.entrants import Entrant

LEVEL = 0.05
FEWEST_DRAWS, MOST_DRAWS = 2000, 10_000
Record = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Standing:
    """A method within one budget of labels, by the setting that the rule chose. Fractions.

    ``kind`` is one of ``KINDS``: what the method, its first run, the choice of an epoch and that of
    a setting read; ``reads`` are the arrays of labels among it. ``setting`` has the options that
    are not the defaults; ``rule`` chose it among several, and is empty for one. ``rank`` goes from
    the best to the worst place within the budget that test rows and seeds allow; all ranks of a
    budget hold together with 95 % confidence. ``seconds`` are those of a run of the chosen setting,
    ``search_seconds`` of all runs of all settings, first runs included.
    """

    row: Row
    kind: str
    reads: tuple[str, ...]
    setting: Mapping[str, Any]
    rule: str
    rank: tuple[int, int]
    seconds: float
    search_seconds: float

    @property
    def options(self) -> str:
        """The options that are not defaults, as a grid on the command line has them."""
        return " ".join(f"{name}={written(value)}" for name, value in self.setting.items())


@dataclass(frozen=True, kw_only=True)
class Done:
    """The runs of a leaderboard as a pool, and the setting of each by its id.

    ``records`` are all of the folder's: also the first runs that others start from.
    """

    pool: Pool
    settings: Mapping[str, Setting]
    records: Mapping[str, Record]

    def ids(self, entrant: Entrant) -> list[str]:
        """The runs of an entrant's settings, finished or failed."""
        return [name for name, setting in self.settings.items() if setting in entrant.settings]

    def seconds(self, ids: Sequence[str]) -> float:
        """What these runs took, and the runs that they started from, each once."""
        every = dict.fromkeys(ids)
        for name in ids:
            stage = self.records[name].get("stage")
            while stage is not None and stage in self.records:
                every[stage] = None
                stage = self.records[stage].get("stage")
        return math.fsum(number(self.records[name].get("seconds")) for name in every)


@dataclass(frozen=True, kw_only=True)
class _Draft:
    """A standing before the others of its budget are known, and the runs that it rests on."""

    standing: Standing
    behind: tuple[Found, ...]


def standings(
    entrants: Sequence[Entrant], rules: Sequence[Rule], done: Done, metric: str
) -> tuple[tuple[Standing, ...], tuple[str, ...]]:
    """Every entrant in each budget that it comes to, the best test mean first; and remarks.

    An entrant is in a budget once, under the last of the ``rules`` that brings it there.
    """
    under = {
        rule: {run.id: (run, kept) for run, kept in done.pool.under(rule)[0]} for rule in rules
    }
    drafts: dict[tuple[int, str], _Draft] = {}
    notes: dict[str, None] = {}
    for index, entrant in enumerate(entrants):
        for own, rule in bids(entrant, rules, by_groups=done.pool.by_groups):
            items = [under[rule][name] for name in done.ids(own) if name in under[rule]]
            if items:
                draft, remarks = _draft(own, rule, items, done, metric)
                drafts[index, draft.standing.kind] = draft
                notes |= {f"{entrant.method}: {remark}": None for remark in remarks}
    ranked = [
        standing
        for name in KINDS
        for standing in _ranked([d for d in drafts.values() if d.standing.kind == name], metric)
    ]
    return tuple(ranked), tuple(notes)


def bids(
    entrant: Entrant, rules: Sequence[Rule], *, by_groups: bool
) -> Iterator[tuple[Entrant, Rule]]:
    """An entrant under each rule; and untuned, where any choice would cost labels of its own."""
    for rule in rules:
        yield entrant, rule
    if not entrant.judged and len(entrant.settings) > 1:
        alone = replace(entrant, settings=entrant.settings[:1])
        tuned = {kind(reads(entrant, rule, by_groups=by_groups)) for rule in rules}
        if kind(reads(alone, rules[-1], by_groups=by_groups)) not in tuned:
            yield alone, rules[-1]


def reads(entrant: Entrant, rule: Rule, *, by_groups: bool) -> frozenset[str]:
    """What an entrant reads under a rule, in the words of a method's needs.

    The rule reads for the choice of an epoch, where there is one, and for the choice among
    settings, where there are several; one that scores nothing leaves the latter to the default.
    """
    read = entrant.needs
    if entrant.judged:
        read |= rule.needs
    if len(entrant.settings) > 1:
        read |= rule.needs if rule.statistic else default_rule(by_groups).needs
    return read


def _draft(
    entrant: Entrant, rule: Rule, items: Sequence[Found], done: Done, metric: str
) -> tuple[_Draft, tuple[str, ...]]:
    choice = choose(items, rule, done.pool)
    ids = done.ids(entrant)
    failed = sum(done.records[name]["status"] == "failed" for name in ids)
    read = reads(entrant, rule, by_groups=done.pool.by_groups)
    mark = f" (inferred: {', '.join(done.pool.inferred)})" if done.pool.inferred else ""
    row = replace(row_of(entrant.method, choice, rule, metric), failed=failed)
    standing = Standing(
        row=row,
        kind=kind(read),
        reads=tuple(
            name if name.endswith(".y") else name + mark
            for name in sorted(read)
            if name.endswith((".y", ".g", ".a"))
        ),
        setting=done.settings[row.runs[0]].options,
        rule=rule.name if len(entrant.settings) > 1 else "",
        rank=(1, 1),
        seconds=done.seconds(row.runs) / len(row.runs),
        search_seconds=done.seconds(ids),
    )
    return _Draft(standing=standing, behind=choice.found), choice.notes


def _ranked(drafts: Sequence[_Draft], metric: str) -> list[Standing]:
    """The standings of one budget with intervals and ranks, the best mean first."""
    correct, cells = rights({str(at): draft.behind for at, draft in enumerate(drafts)})
    rows = [draft.standing.row for draft in drafts]
    means = mean_ranks([dict(zip(row.seeds, row.values, strict=True)) for row in rows])
    places = ranks([correct.get(str(at)) for at in range(len(drafts))], cells, metric)
    found = []
    for at, draft in enumerate(drafts):
        ends: Interval | None = None
        if cells is not None and str(at) in correct:
            ends = getattr(bootstrap(correct[str(at)], cells), metric)
        row = replace(rows[at], interval=ends, mean_rank=means[at])
        found.append(replace(draft.standing, row=row, rank=places[at]))
    return sorted(found, key=lambda s: -math.inf if math.isnan(s.row.mean) else s.row.mean)[::-1]


def ranks(
    correct: Sequence[np.ndarray | None], cells: Strata | None, metric: str
) -> list[tuple[int, int]]:
    """For each row the best and the worst place among all that the test rows and seeds allow.

    ``correct`` has rights and wrongs (r, n) of each row, None where they are gone. A row is below
    as many others as are shown to beat it, and above as many as it is shown to beat, with p-values
    adjusted by Holm's method over all pairs: so all ranks hold at once with 95 % confidence
    (Mogstad, Romano, Shaikh and Wilhelm 2024, Review of Economic Studies 91).
    """
    able = [at for at, found in enumerate(correct) if found is not None]
    pairs = list(combinations(able, 2))
    # Enough draws that the smallest p-value, 2 / (draws + 1), can pass Holm's correction.
    draws = min(MOST_DRAWS, max(FEWEST_DRAWS, 50 * len(pairs)))
    ahead, behind = np.zeros(len(correct), int), np.zeros(len(correct), int)
    if cells is not None and pairs:
        sides = [(correct[a], correct[b]) for a, b in pairs]
        differences = [paired(a, b, cells, metric, draws=draws) for a, b in sides]  # type: ignore[arg-type]
        adjusted = holm([found.p_value for found in differences])
        for (a, b), found, p in zip(pairs, differences, adjusted, strict=True):
            if p < LEVEL:
                winner, loser = (a, b) if found.difference > 0 else (b, a)
                ahead[loser] += 1
                behind[winner] += 1
    count = len(correct)
    return [(1 + int(ahead[at]), count - int(behind[at])) for at in range(count)]


def failures(entrants: Sequence[Entrant], done: Done) -> tuple[dict[str, str], tuple[str, ...]]:
    """Methods of which no run ended, with the reason, and a remark on others that failed."""
    lost: dict[str, str] = {}
    notes = []
    for entrant in entrants:
        ids = done.ids(entrant)
        failed = [done.records[name] for name in ids if done.records[name]["status"] == "failed"]
        if failed and len(failed) == len(ids):
            what = "its only run" if len(ids) == 1 else f"all of its {counted(len(ids), 'run')}"
            lost[entrant.settings[0].label] = f"{what} failed: {failed[0]['reason']}"
        elif failed:
            notes.append(
                f"{entrant.method}: {len(failed):,} of {counted(len(ids), 'run')} failed, the "
                f"first with: {failed[0]['reason']}"
            )
    return lost, tuple(notes)
