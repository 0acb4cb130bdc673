"""The records of many runs: from folders of runs, single runs and ``results.jsonl`` files."""

from __future__ import annotations

import json
import math
import os
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from embedcal.annotating import labelled
from embedcal.comparing.verdicts import counted
from embedcal.errors import did_you_mean
from embedcal.evaluate import RULES, Rule, default_rule, rule
from embedcal.evaluate.paired import COMPARABLE
from embedcal.grids.results import load, no_garbage
from embedcal.runs import RESULTS, Run, load_run
from embedcal.types import EmbedcalError

if TYPE_CHECKING:
    from embedcal.comparing.judging import Judge

RULE_NAMES = frozenset(known.name for known in RULES)
GROUP_METRICS = frozenset({"worst_group", "group_mean", "train_weighted"})
_NEEDED = frozenset({"id", "method", "variant", "head", "options", "seed", "attributes"})

Found = tuple[Run, Mapping[str, Any]]  # a run, and what its rule kept
Groups = tuple[tuple[str, str], ...]  # attributes, each with a digest, empty for the cache's own


@dataclass(frozen=True, kw_only=True)
class Pool:
    """Runs over one cache under one choice of attributes: the only ones that may be compared.

    ``inferred`` are those of the attributes that have no labels of the cache's own, with the digest
    of their labels. A ``judge`` scores the runs on test by these attributes, whatever they were
    fitted and selected with; else all of them were fitted with these.
    """

    dataset: str
    backbone: str
    path: str
    fingerprint: str
    attributes: tuple[str, ...]
    done: tuple[Run, ...]
    failed: tuple[Run, ...]
    inferred: Mapping[str, str] = field(default_factory=dict)
    judge: Judge | None = None

    @property
    def by_groups(self) -> bool:
        """Whether the runs were selected by groups, unless a rule is named."""
        kept = [run.record["rules"] for run in self.done]
        trained = [rules for rules in kept if "val.worst_class" in rules]
        if trained:
            able = any("val.worst_group" in rules for rules in trained)
        else:  # attributes may be known in no row of val, which a solver's own rule does not tell
            able = any("worst_group" in e["val"] for rules in kept for e in rules.values())
        return able and any(run.record["attributes"] for run in self.done)

    def rule(self, select: str | None, *, oracle: bool) -> Rule:
        """The rule of that name or the default one; an oracle only where it was asked for."""
        wanted = rule(select) if select else default_rule(self.by_groups)
        if wanted.oracle and not oracle:
            raise EmbedcalError(
                f"expected a rule on validation, found '{wanted.name}', which looks at test: give "
                "--oracle to see an upper bound, or choose val.worst_group"
            )
        return wanted

    def metric(self, metric: str | None, split: str = "test") -> str:
        """A metric's name, checked; by default the worst group, or class where there is none."""
        whose = f"{split} of the runs over {self.dataset}"
        return metric_of(metric, self._of_groups(split), whose)

    def _of_groups(self, split: str) -> frozenset[str]:
        """Which metrics of groups there are: attributes may be known in no row of a split."""
        if self.judge is not None and split == "test":
            counted_in_train = self.judge.cells.train_group_counts is not None
            return GROUP_METRICS - (set() if counted_in_train else {"train_weighted"})
        entries = [entry for run in self.done for entry in run.record["rules"].values()]
        return frozenset(
            name for name in GROUP_METRICS if any(name in entry[split] for entry in entries)
        )

    def group_names(self, groups: int, classes: int) -> tuple[str, ...]:
        """Names of so many groups, from the cache if it still lies in its place, else numbers."""
        from embedcal.cache import open_cache

        with suppress(EmbedcalError, OSError), open_cache(Path(self.path)) as cache:
            names = labelled(cache, self.attributes).group_names(self.attributes)
            if cache.fingerprint == self.fingerprint and len(names) == groups:
                return names
        values = groups // max(classes, 1)
        what = self.attributes[0] if len(self.attributes) == 1 else "value"
        return tuple(f"class {g // values} | {what} {g % values}" for g in range(groups))

    def under(self, wanted: Rule) -> tuple[list[Found], tuple[Run, ...]]:
        """Every run with what the rule kept of it, and the runs of which it kept nothing.

        A solver has one entry, of a name of its own, which stands under any rule that has judged
        it: one of environments judges those alone that it was asked for. Where there is a judge,
        the metrics on test are its own.
        """
        found: list[Found] = []
        lacking: list[Run] = []
        for run in self.done:
            rules = run.record["rules"]
            own = [name for name in rules if name not in RULE_NAMES]
            name = own[0] if own else wanted.name
            entry = rules.get(name)
            if entry is None or (wanted.environments and wanted.statistic not in entry["val"]):
                lacking.append(run)
                continue
            kept = {"rule": name, **entry}
            found.append((run, {**kept, "test": self.judge(run, name)} if self.judge else kept))
        return found, tuple(lacking)


def lacking_note(lacking: Sequence[Run], wanted: Rule) -> str:
    """Whose runs a rule kept nothing of: how many of each method, and what to do about it."""
    counts = Counter(run.record["method"] for run in lacking)
    whose = ", ".join(f"{name} {times:,}" for name, times in counts.items())
    note = f"{counted(len(lacking), 'run')} left out: kept nothing under {wanted.name} ({whose})"
    if wanted.on_demand:  # the others are kept wherever there are labels for them
        note += f"; fit again with --select {wanted.name}"
    return note


def none_under(pools: Sequence[Pool], wanted: Rule) -> EmbedcalError:
    """What to raise where a rule kept nothing of any run."""
    runs = [run for pool in pools for run in pool.done]
    methods = ", ".join(dict.fromkeys(str(run.record["method"]) for run in runs))
    again = f"fit them again with --select {wanted.name}, or choose another rule"
    return EmbedcalError(
        f"expected runs that kept the rule '{wanted.name}', found none among "
        f"{counted(len(runs), 'run')} of {methods}: "
        + (again if wanted.on_demand else "choose another rule")
    )


def collect(runs: Sequence[str | Path] | str | Path) -> tuple[Pool, ...]:
    """The records of all ``runs``, parted by cache and labels of groups, in the order found.

    Each of ``runs`` is a folder of runs, the folder of one run, or a ``results.jsonl``. An id that
    several hold counts once; a finished run replaces a failed one. Runs that a grid made only as
    the first stage of others are left out where its ``grid.json`` tells them apart. EmbedcalError
    where nothing is found and where no run is done.
    """
    given = _places(runs)
    known: dict[str, Run] = {}
    with no_garbage():
        for path in given:
            for run in _read(Path(path)):
                held = known.get(run.id)
                if held is None or (_is_done(run) and not _is_done(held)):
                    known[run.id] = run
    parts: dict[tuple[str, Groups], list[Run]] = {}
    for run in known.values():
        key = (run.record["cache"]["fingerprint"], groups_of(run.record))
        parts.setdefault(key, []).append(run)
    pools = tuple(pool_of(members) for members in parts.values())
    if not any(pool.done for pool in pools):
        failed = sum(len(pool.failed) for pool in pools)
        reason = next((run.record.get("reason") for pool in pools for run in pool.failed), None)
        raise EmbedcalError(
            f"expected finished runs in {', '.join(map(str, given))}, found {failed or 'none'}"
            + (f" that failed, the first with: {reason}" if reason else ": fit some first")
        )
    return pools


def _places(runs: Any) -> list[str | Path]:
    """One place of runs or several, as a list; EmbedcalError for none and for what is no place."""
    several = isinstance(runs, Iterable) and not isinstance(runs, str | os.PathLike)
    given: list[Any] = list(runs) if several else [runs]
    for place in given:
        if not isinstance(place, str | os.PathLike):
            raise EmbedcalError(
                f"expected folders of runs, found {place!r:.60}: give the path of one, such as a "
                "grid's or a run's .folder"
            )
    if not given:
        raise EmbedcalError("expected at least one folder of runs, found none: name some")
    return given


def groups_of(record: Mapping[str, Any]) -> Groups:
    """The attributes that a run's groups are of, each with the digest of labels not the cache's."""
    inferred = record.get("inferred") or {}
    return tuple((str(name), str(inferred.get(name, ""))) for name in record["attributes"])


def metric_of(asked: str | None, of_groups: Collection[str], whose: str) -> str:
    """A metric's name, checked; by default the worst group, or class where there is none.

    ``of_groups`` are those of GROUP_METRICS that exist, ``whose`` says in words where.
    """
    if asked is None:
        return "worst_group" if "worst_group" in of_groups else "worst_class"
    named(asked, COMPARABLE, "a metric")
    if asked in GROUP_METRICS and asked not in of_groups:
        where = f"train or {whose}" if asked == "train_weighted" else whose
        raise EmbedcalError(
            f"expected attribute labels for '{asked}', found none in {where}: compare by "
            "worst_class, class_mean or mean"
        )
    return asked


def named(name: str, names: Iterable[str], what: str) -> None:
    """EmbedcalError with the nearest names where ``name`` is none of them."""
    known = sorted(set(names))
    if name not in known:
        hint = did_you_mean(name, known, f"it is one of {', '.join(known)}")
        raise EmbedcalError(f"expected {what}, found '{name}': {hint}")


def option(record: Mapping[str, Any], name: str) -> Any:
    """A fact of a run by name: method, variant, head, data set, backbone, or any option."""
    if name in ("method", "variant", "head"):
        return record[name]
    if name in ("dataset", "backbone"):
        return record["cache"][name]
    return record["options"].get(name)


def number(value: Any) -> float:
    """A metric of a record; NaN where it is null or not there."""
    return math.nan if value is None else float(value)


def plain(value: Any) -> Any:
    """A value as JSON holds it: tuples as lists, what is not a finite number as null."""
    if isinstance(value, Mapping):
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, tuple | list):
        return [plain(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def varied(records: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """Variant, head and the options that are not the same in all of the records."""
    names = dict.fromkeys(["variant", "head", *(key for r in records for key in r["options"])])
    return tuple(
        name for name in names if len({_comparable(option(record, name)) for record in records}) > 1
    )


def configuration(record: Mapping[str, Any]) -> str:
    """All that was set but the seed, as one text."""
    options = orjson.dumps(record["options"], option=orjson.OPT_SORT_KEYS).decode()
    return f"{record['method']} {record['variant']} {record['head']} {options}"


def _comparable(value: Any) -> Any:
    """A value as JSON holds it, as something that a set takes."""
    return json.dumps(value) if isinstance(value, list | dict) else value


def _read(path: Path) -> list[Run]:
    folder = path.parent if path.name == RESULTS else path
    if (folder / RESULTS).is_file():
        return [
            Run(folder=folder / name.replace("/", "_"), record=record)
            for name, record in load(folder).asked.items()
            if _whole(record)
        ]
    if not path.exists():
        raise EmbedcalError(f"expected a folder of runs, found nothing at {path}: check the path")
    run = load_run(folder) if path.is_dir() else None
    if run is None:
        inner = sorted(found.parent for found in path.glob(f"*/{RESULTS}"))
        hint = f"did you mean {inner[0]}?" if inner else "name a folder that grid or fit wrote into"
        raise EmbedcalError(f"expected {RESULTS} or run.json in {path}, found neither: {hint}")
    return [run] if _whole(run.record) else []


def _whole(record: Any) -> bool:
    if not (isinstance(record, dict) and isinstance(record.get("cache"), dict)):
        return False
    needed = _NEEDED if record.get("status") == "failed" else _NEEDED | {"rules"}
    known = needed <= record.keys() and isinstance(record["id"], str)
    return known and "fingerprint" in record["cache"]


def _is_done(run: Run) -> bool:
    return run.record.get("status") != "failed"


def pool_of(members: Sequence[Run]) -> Pool:
    """Runs over one cache under one choice of attributes, finished or failed, as a pool."""
    record = members[0].record
    cache = record["cache"]
    return Pool(
        dataset=str(cache.get("dataset", "")),
        backbone=str(cache.get("backbone", "")),
        path=str(cache.get("path", "")),
        fingerprint=str(cache["fingerprint"]),
        attributes=tuple(record["attributes"]),
        done=tuple(run for run in members if _is_done(run)),
        failed=tuple(run for run in members if not _is_done(run)),
        inferred={name: digest for name, digest in groups_of(record) if digest},
    )
