"""What report answers: where the page is, what it shows, and what it lacks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rich.console import Group, RenderableType

from embedcal.tables import facts, shown

if TYPE_CHECKING:
    from embedcal.reporting import Written


def report_record(found: Written) -> dict[str, Any]:
    return {
        "page": str(found.path),
        "bytes": found.bytes,
        "runs": found.runs,
        "sections": list(found.sections),
        "notes": list(found.notes),
    }


def report_report(record: Mapping[str, Any]) -> RenderableType:
    size = record["bytes"] / 1e6
    pairs = {
        "page": f"{record['page']} ({size:.1f} MB)",
        "runs": f"{record['runs']:,}",
        "shows": ", ".join(record["sections"]).lower(),
    }
    return Group(facts(pairs), *(f"note: {shown(note)}" for note in record["notes"]))
