"""What the commands on grids answer: a JSON record, and a report for people."""

from __future__ import annotations

import shlex
from collections import Counter, defaultdict
from dataclasses import asdict
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any

from rich.console import Group, RenderableType

from embedcal.records import kept_under, score_of
from embedcal.tables import facts, percent, plain_table, shown

if TYPE_CHECKING:
    from embedcal.grids import Grid
    from embedcal.grids.merging import Merged

LISTED = 12  # settings, or reasons, in a report; JSON has all


def grid_record(grid: Grid) -> dict[str, Any]:
    best = grid.best
    return {
        "folder": str(grid.folder),
        "selection": grid.select,
        "runs": len(grid.records),
        "done": len(grid.done),
        "failed": len(grid.failed),
        "reused": grid.reused,
        "refused": grid.refused,
        "seconds": grid.seconds,
        "best": None if best is None else {"setting": best[0], "score": best[1]},
        "records": list(grid.records),
    }


def grid_report(grid: Grid) -> RenderableType:
    """How it went, the settings ahead by validation, and why runs failed."""
    new = len(grid.records) - grid.reused
    done = f"{len(grid.done):,} of {len(grid.records):,} runs"
    done += f" ({grid.reused:,} were there, {new:,} new in {grid.seconds:.1f} s)"
    pairs: dict[str, object] = {"grid": str(grid.folder), "done": done}
    if grid.refused:
        pairs["left out"] = f"{grid.refused:,} combinations that their method does not take"
    parts: list[RenderableType] = [facts(pairs), _ahead(grid)]
    reasons = Counter(record["reason"] for record in grid.failed)
    if reasons:
        count = len(grid.failed)
        table = plain_table(f"{count:,} run{'s' * (count != 1)} failed")
        table.add_column("runs", justify="right")
        table.add_column("reason", overflow="fold")
        for reason, times in reasons.most_common(LISTED):
            table.add_row(f"{times:,}", shown(reason))
        parts.append(table)
    parts += ["Next:", f"  embedcal compare {shown(shlex.quote(str(grid.folder)))}"]
    return Group(*parts)


def _ahead(grid: Grid) -> RenderableType:
    """The best settings by the rule on validation, with what they reach on test."""
    scores: dict[str, list[float]] = defaultdict(list)
    tested: dict[str, list[float]] = defaultdict(list)
    in_sample: set[str] = set()
    for record in grid.done:
        label = grid.settings[record["id"]].label
        score, kept = score_of(record, grid.select), kept_under(record, grid.select)
        if score is not None and kept is not None:
            scores[label].append(score)
            in_sample |= {label} if kept["val"].get("in_sample") else set()
            tested[label].append(kept["test"].get("worst_group", kept["test"]["worst_class"]))
    order = sorted(scores, key=lambda label: -fmean(scores[label]))
    least = "group" if any(record["attributes"] for record in grid.done) else "class"
    table = plain_table()
    table.add_column("setting", overflow="fold")
    for name in ("seeds", grid.select, f"test worst {least}"):
        table.add_column(name, justify="right")
    for label in order[:LISTED]:
        mark = "*" if label in in_sample else ""
        table.add_row(
            shown(label),
            str(len(scores[label])),
            _spread(scores[label]) + mark,
            _spread(tested[label]),
        )
    notes = [f"and {len(order) - LISTED:,} more: --json lists all"] * (len(order) > LISTED)
    notes += ["* in-sample: the method fitted these rows"] * bool(in_sample & set(order[:LISTED]))
    inferred = dict.fromkeys(name for record in grid.done for name in record.get("inferred", ()))
    notes += [f"groups are inferred: {shown(', '.join(inferred))}"] * bool(inferred)
    table.caption = "\n".join(notes) or None
    return table


def _spread(values: list[float]) -> str:
    """Mean and standard deviation over seeds, in percent."""
    if len(values) < 2:
        return percent(values[0])
    return f"{percent(fmean(values))} ± {percent(stdev(values))}"


def merge_record(merged: Merged) -> dict[str, Any]:
    return {**asdict(merged), "folder": str(merged.folder)}


def merge_report(merged: Merged) -> RenderableType:
    pairs: dict[str, object] = {
        "folder": str(merged.folder),
        "copied": f"{merged.copied:,} runs; {merged.there:,} were there already",
    }
    if merged.failed:
        pairs["failed"] = f"{merged.failed:,} runs have no result anywhere"
    if merged.lost:
        pairs["lost"] = f"{merged.lost:,} lines whose folder is gone were left out"
    return facts(pairs)
