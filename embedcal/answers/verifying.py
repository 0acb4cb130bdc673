"""What verify and repair answer: a JSON record, and a report for people of the same values."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from rich.console import Group, RenderableType

from embedcal.tables import facts, plain_table, shown

if TYPE_CHECKING:
    from embedcal.cache import Verification
    from embedcal.reencoding import Reencoding
    from embedcal.repairing import Repair

LISTED = 10  # rows named in a report; JSON has all


def verify_record(found: Verification, again: Reencoding | None) -> dict[str, Any]:
    record: dict[str, Any] = {"path": str(found.path), "ok": found.ok, "sha256": found.sha256}
    if again is not None:
        record["ok"] = found.ok and again.ok
        record["reencoded"] = {
            "rows": list(again.rows),
            "cosine": _number(again.cosine),
            "largest": _number(again.largest),
            "differing": [
                {
                    "row": each.row,
                    "id": each.id,
                    "path": each.path,
                    "level": each.level,
                    "cosine": _number(each.cosine),
                    "largest": _number(each.largest),
                }
                for each in again.differing
            ],
            "missing": [
                dict(zip(("id", "path", "reason"), row, strict=True)) for row in again.missing
            ],
        }
    return record


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value


def verify_report(record: dict[str, Any]) -> RenderableType:
    line = f"{shown(record['path'])}: every byte is as written"
    again = record.get("reencoded")
    if again is None:
        return line
    differing, missing = again["differing"], again["missing"]
    compared = len(again["rows"]) - len(missing)
    told = f"{compared} rows encoded again: "
    if differing:
        told += f"{len(differing)} differ"
    elif compared:
        told += (
            f"least cosine {again['cosine']:.7f}, "
            f"largest difference {again['largest']:.1e} of a row's largest value"
        )
    parts: list[RenderableType] = [line, told]
    if differing:
        table = plain_table("rows that differ from their images")
        for name in ("row", "id", "level", "cosine", "largest"):
            table.add_column(name, overflow="fold")
        for each in differing[:LISTED]:
            numbers = ["not finite" if each[n] is None else f"{each[n]:.5f}" for n in _MEASURES]
            table.add_row(str(each["row"]), shown(each["id"]), each["level"], *numbers)
        _more(table, len(differing))
        parts.append(table)
    if missing:
        table = plain_table(f"{len(missing)} images are not there as they were cached")
        for name in ("id", "reason"):
            table.add_column(name, overflow="fold")
        for each in missing[:LISTED]:
            table.add_row(shown(each["id"]), shown(each["reason"]))
        _more(table, len(missing))
        parts.append(table)
    return Group(*parts)


_MEASURES = ("cosine", "largest")


def _more(table: Any, count: int) -> None:
    if count > LISTED:
        table.caption = f"and {count - LISTED:,} more: --json lists all"


def repair_record(found: Repair) -> dict[str, Any]:
    return {
        "source": str(found.source),
        "path": str(found.path),
        "written": found.written,
        "rows": [{"row": row, "reason": reason} for row, reason in found.rows.items()],
        "text": found.text,
        "exact": found.exact,
        "shards": [str(path) for path in found.shards],
        "unreadable": [
            dict(zip(("id", "path", "reason"), row, strict=True)) for row in found.unreadable
        ],
    }


def repair_report(found: Repair) -> RenderableType:
    """What was encoded again and why, and what is known of the result."""
    if not found.written:
        return f"{shown(found.source)}: nothing fails, nothing was written"
    pairs: dict[str, object] = {"cache": str(found.path)}
    if found.shards:
        pairs["shards"] = shown(", ".join(path.name for path in found.shards))
    pairs["instead of"] = "itself" if found.path == found.source else str(found.source)
    reasons: dict[str, list[int]] = {}
    for row, reason in found.rows.items():
        reasons.setdefault(reason, []).append(row)
    lines = [f"{_rows(rows)}: {reason}" for reason, rows in reasons.items()]
    if found.text:
        lines.append("text and projection")
    pairs["encoded again"] = shown("; ".join(lines) or "nothing")
    pairs["the result"] = (
        "every byte is as it was first written"
        if found.exact
        else "whole and sealed, but not to the bit what was first written"
    )
    if found.unreadable:
        pairs["unreadable"] = f"{len(found.unreadable):,} rows have no features"
    return facts(pairs)


def _rows(rows: list[int]) -> str:
    listed = ", ".join(map(str, rows[:LISTED]))
    more = f" and {len(rows) - LISTED:,} more" if len(rows) > LISTED else ""
    return f"row {listed}{more}"
