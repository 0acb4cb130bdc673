"""What track answers: a JSON record, and a report for people of the same values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rich.console import RenderableType

from embedcal.tables import facts

if TYPE_CHECKING:
    from embedcal.tracking import Mirror


def track_record(found: Mirror) -> dict[str, Any]:
    return {
        "to": found.to,
        "project": found.project,
        "where": found.where,
        "look": found.look,
        "added": list(found.added),
        "known": found.known,
        "failed": found.failed,
        "seconds": found.seconds,
    }


def track_report(record: Mapping[str, Any]) -> RenderableType:
    added, known = len(record["added"]), record["known"]
    runs = f"{added:,} added" + (f", {known:,} were there" if known else "")
    if record["failed"]:
        runs += f"; {record['failed']:,} failed and stay out"
    return facts(
        {
            "tracker": f"{record['to']}, {record['where']}",
            "runs": runs,
            "look": record["look"],
        }
    )
