"""What export answers: what was written, how it was checked, how it is loaded."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rich.console import Group, RenderableType

from embedcal.tables import facts, shown

if TYPE_CHECKING:
    from embedcal.exporting import Exported


def export_record(found: Exported) -> dict[str, Any]:
    return {
        "path": str(found.path),
        "to": found.to,
        "run": found.run,
        "head": found.head,
        "whole": found.whole,
        "files": dict(found.files),
        "difference": found.difference,
        "largest": found.largest,
        "notes": list(found.notes),
    }


def export_report(record: Mapping[str, Any]) -> RenderableType:
    size = sum(record["files"].values()) / 1e6
    where = "inside the model" if record["whole"] else "beside the unmodified encoder"
    if record["to"] == "safetensors":
        where = "by itself"
    pairs: dict[str, object] = {
        "written": f"{record['path']} ({size:.1f} MB)",
        "run": record["run"],
        "head": f"{record['head']}, {where}",
    }
    if record["to"] == "open_clip":
        pairs["files"] = ", ".join(record["files"])
        pairs["score"] = f"python {shlex.quote(record['path'] + '/score.py')} IMAGE ..."
    if record["difference"] is not None:
        pairs["checked"] = (
            f"read again; logits differ from the run's by {record['difference']:.1e} at most, of "
            f"{record['largest']:.3g}"
        )
    return Group(facts(pairs), *(f"note: {shown(note)}" for note in record["notes"]))
