"""What doctor answers: a JSON record, and a report for people of the same values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rich.console import Group, RenderableType
from rich.text import Text

from embedcal.tables import facts, plain_table, shown

if TYPE_CHECKING:
    from embedcal.doctor import Examination

HOME = ("caches", "runs", "data")  # one disk; the room is told once


def doctor_record(found: Examination) -> dict[str, Any]:
    return {
        "ok": not found.problems,
        "embedcal": found.embedcal,
        "packages": [asdict(package) for package in found.packages],
        "extras": [
            {**asdict(extra), "missing": list(extra.missing), "installed": not extra.missing}
            for extra in found.extras
        ],
        "machine": {**asdict(found.machine), "devices": list(found.machine.devices)},
        "places": [asdict(place) for place in found.places],
        "hub": dict(found.hub),
        "speed": None if found.speed is None else asdict(found.speed),
        "note": found.note,
        "problems": list(found.problems),
        "advice": list(found.advice),
    }


def doctor_report(record: Mapping[str, Any]) -> RenderableType:
    """Facts first, then what is wrong, then what could be better."""
    parts: list[RenderableType] = [facts(_machine(record)), "", _packages(record["packages"]), ""]
    parts += [facts(_extras(record["extras"])), "", facts(_places(record)), ""]
    if record["speed"] is not None:
        parts += [facts(_speed(record["speed"])), ""]
    if record["note"]:
        parts.append(shown(record["note"]))
    parts += [Text(f"✗ {line}") for line in record["problems"]]
    parts += [Text(f"• {line}") for line in record["advice"]]
    if not record["problems"] and not record["advice"]:
        parts.append("Nothing stands out.")
    return Group(*parts)


def _machine(record: Mapping[str, Any]) -> dict[str, object]:
    found = record["machine"]
    memory = f"{_size(found['memory_available'])} free of {_size(found['memory'])}"
    if found["memory"] != found["memory_of_host"]:
        memory += f", a limit ({_size(found['memory_of_host'])} in the machine)"
    cores = f"{found['cores']:g} usable"
    if found["cores"] != found["cores_of_host"]:
        cores += f" of {found['cores_of_host']}"
    if found["load"] is not None:
        cores += f"; {found['load']:.1f} wanted over the last minute"
    told = {**found["threads"], **{n: f"set to {v}" for n, v in found["environment"].items()}}
    pairs: dict[str, object] = {
        "embedcal": f"{record['embedcal']} on {found['system']}",
        "processor": found["processor"],
        "devices": "; ".join(found["devices"]) or "none: torch does not load",
        "cores": cores,
        "memory": memory,
        "threads": ", ".join(f"{name} {value}" for name, value in told.items()),
    }
    if found["shared_memory_free"] is not None:
        pairs["/dev/shm"] = f"{_size(found['shared_memory_free'])} free"
    return pairs


def _packages(packages: list[Mapping[str, Any]]) -> RenderableType:
    table = plain_table()
    table.add_column("package", no_wrap=True)
    table.add_column("version", no_wrap=True)
    table.add_column("", overflow="fold")
    for each in packages:
        state = "" if each["state"] == "ok" else each["state"].upper()
        words = ": ".join(filter(None, (state, each["note"])))
        if words or each["name"] in ("numpy", "scikit-learn", "open-clip-torch"):
            table.add_row(shown(each["name"]), shown(each["version"] or "–"), shown(words))
    rest = len(packages) - table.row_count
    table.caption = f"and {rest} more as they should be: --json lists all" if rest else None
    return table


def _extras(extras: list[Mapping[str, Any]]) -> dict[str, object]:
    there = [each["name"] for each in extras if each["installed"]]
    pairs: dict[str, object] = {"extras there": ", ".join(there) or "none"}
    for each in extras:
        if not each["installed"]:
            pairs[f"no {each['name']}"] = each["pip"]
    return pairs


def _places(record: Mapping[str, Any]) -> dict[str, object]:
    pairs: dict[str, object] = {}
    for each in record["places"]:
        words = each["path"]
        if not each["exists"]:
            words += " (not there yet)"
        if each["what"] not in HOME[:-1]:
            kind = f", {each['filesystem']}" if each["filesystem"] else ""
            words += f": {_size(each['free'])} free{kind}"
        if each["writable"] is not None:
            can = {
                "written": each["writable"],
                "locked": each["locks"],
                "linked": each["links"],
            }
            words += "; can be " + ", ".join(w for w, yes in can.items() if yes)
            cannot = [w for w, yes in can.items() if yes is False]
            words += f"; cannot be {', '.join(cannot)}" if cannot else ""
        pairs[each["what"]] = words
    return pairs | dict(record["hub"])


RATES = (
    ("product", "fp32 products", "GFLOP/s"),
    ("product_alone", "on one thread", "GFLOP/s"),
    ("product_bf16", "in bf16", "GFLOP/s"),
    ("write", "disk, written", "MB/s"),
    ("read", "disk, read", "MB/s"),
    ("decode", "photographs decoded", "/s on one thread"),
    ("encode", "tiny CLIP", "pictures/s"),
)


def _speed(speed: Mapping[str, Any]) -> dict[str, object]:
    pairs: dict[str, object] = {}
    for key, name, unit in RATES:
        if speed[key] is not None:
            gap = "" if unit.startswith("/") else " "
            pairs[name] = f"{speed[key]:,.0f}{gap}{unit}"
    for name, reason in speed["left_out"].items():
        pairs[f"no {name}"] = reason
    pairs["measured in"] = f"{speed['seconds']:.1f} s"
    return pairs


def _size(count: int | None) -> str:
    if count is None:
        return "not known"
    return f"{count / 2**30:,.1f} GiB" if count >= 2**30 else f"{count / 2**20:,.0f} MiB"
