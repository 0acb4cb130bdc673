"""Runs as a pandas table, for whoever wants to look at them with tools of their own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from embedcal.comparing.recorded import collect
from embedcal.evaluate import rule
from embedcal.records import JUDGED, kept_under
from embedcal.runs import Run

if TYPE_CHECKING:
    from pandas import DataFrame

FACTS = ("id", "status", "method", "variant", "head", "seed")


def results(runs: Sequence[str | Path] | str | Path, *, select: str | None = None) -> DataFrame:
    """One row a run, with its options and its metrics on val and test: fractions, not percent.

    Args:
        runs: folders of runs, folders of single runs, or ``results.jsonl`` files.
        select: the rule whose epochs are judged; by default each run's own. A method that
            computes its head at once has one choice, which stands under every rule.

    Returns:
        A table with the columns ``id``, ``status``, ``method``, ``variant``, ``head``, ``seed``,
        ``dataset``, ``backbone``, ``attributes``, ``selection``, ``labels_used`` and ``folder``,
        every option as ``option.NAME``, every metric as ``val.NAME`` and ``test.NAME``; metrics
        that are vectors are lists, in the order of classes or groups. The ends of the 95 %
        interval of an accuracy are ``test.NAME_low`` and ``test.NAME_high``, for a run under its
        own rule. NaN: the run has no such option, metric or interval, kept nothing under the
        rule, or failed.

    Raises:
        EmbedcalError: where no finished run is found, and for a rule that does not exist.

    Example:
        >>> import embedcal
        >>> with embedcal.open(embedcal.cache("birds").path) as cache:
        ...     found = embedcal.grid(["zeroshot", "erm:lr=1e-3,1e-2:epochs=2"], cache, seeds=1)
        >>> table = embedcal.results(found.folder)
        >>> table.groupby("method")["test.worst_group"].count().to_dict()
        {'erm': 2, 'zeroshot': 1}
    """
    from pandas import DataFrame

    if select is not None:
        rule(select)  # a name that does not exist is an error at once
    found = [run for pool in collect(runs) for run in (*pool.done, *pool.failed)]
    return DataFrame([_row(run, select) for run in found])


def _row(run: Run, select: str | None) -> dict[str, Any]:
    record = run.record
    row: dict[str, Any] = {name: record.get(name) for name in FACTS}
    row |= {name: record["cache"].get(name) for name in ("dataset", "backbone")}
    row["attributes"] = ", ".join(record["attributes"])
    name, kept = _kept(record, select)
    row |= {
        "selection": name,
        "labels_used": ", ".join(kept.get("labels_used", ())),
        "folder": str(run.folder),
    }
    row |= {f"option.{key}": value for key, value in record["options"].items()}
    for split in JUDGED:
        measured: Mapping[str, Any] = kept.get(split, {})
        row |= {f"{split}.{key}": value for key, value in _with_ends(measured).items()}
    return row


def _with_ends(measured: Mapping[str, Any]) -> dict[str, Any]:
    """The metrics of a split, each with the ends of its interval behind it where it has one."""
    found: dict[str, Any] = {}
    intervals: Mapping[str, Any] = measured.get("interval") or {}
    for key, value in measured.items():
        if key == "interval":
            continue
        found[key] = value
        if key in intervals:
            ends = intervals[key]
            vector = isinstance(value, list)
            for place, end in enumerate(("low", "high")):
                found[f"{key}_{end}"] = [e[place] for e in ends] if vector else ends[place]
    return found


def _kept(record: Mapping[str, Any], select: str | None) -> tuple[str | None, Mapping[str, Any]]:
    """The rule that a run is judged under, and what it kept; nothing of one that failed."""
    if record.get("status") != "done":
        return select, {}
    if select is None:  # the run's own, of which the record has calibration and ranking too
        own = record["selection"]
        return own, {**record["rules"][own], **{s: record[s] for s in JUDGED if s in record}}
    kept = kept_under(record, select)
    if kept is None:
        return select, {}
    name = next(name for name, entry in record["rules"].items() if entry is kept)
    return _kept(record, None) if name == record["selection"] else (name, kept)
