"""What a tracker is told of a run: settings, a curve, results; names that every tracker takes."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from embedcal.runs import Run, load_run
from embedcal.types import EmbedcalError

Setting = str | int | float | bool
LONGEST = 500  # characters of a setting: MLflow's limit, of the parameters of old servers


@dataclass(frozen=True, kw_only=True)
class Mirrored:
    """One run under one rule, as trackers hold it. Fractions, as in the record.

    ``key`` is its own in a project: a run put under another rule is another entry, so that nothing
    that is there has to be changed. ``curve`` has validation by epoch, ``curve/val_mean`` and so
    on; ``summary`` the results of the epoch that was kept, ``epoch`` (0 where there are none), as
    ``val/mean``, ``test/mean`` and so on. Their names differ, for a tracker draws what has one
    name as one line.
    """

    key: str
    name: str
    method: str
    settings: Mapping[str, Setting]
    curve: Sequence[tuple[int, Mapping[str, float]]]
    epoch: int
    summary: Mapping[str, float]


def mirrored(run: Run) -> Mirrored:
    """What is told of a finished run, from its line and from the curve in its folder."""
    record = run.record
    rule = str(record["selection"])
    kept = record["rules"][rule]
    epoch = kept.get("epoch")
    summary: dict[str, float] = {}
    for split in ("val", "test"):
        summary |= _numbers(split, record.get(split) or kept[split])
    if _finite(record.get("seconds")):
        summary["seconds"] = float(record["seconds"])
    return Mirrored(
        key=key_of(run),
        name=f"{record['method']} {run.id}",
        method=str(record["method"]),
        settings=_settings(record, rule),
        curve=tuple(_curve(run)),
        epoch=epoch if isinstance(epoch, int) else 0,
        summary=summary,
    )


def key_of(run: Run) -> str:
    """The key alone, without reading the run's folder."""
    record = run.record
    return _plain(f"{record['method']}-{run.id}-{record['selection']}")


def _plain(text: str) -> str:
    """Letters, digits, and ``_.-``: a name of a folder, and an id to all of the trackers."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "_", text)


def _settings(record: Mapping[str, Any], rule: str) -> dict[str, Setting]:
    """Every option, then what stands beside them in the record and wins over their names."""
    cache = record["cache"]
    found = {
        **record["options"],
        "method": record["method"],
        "variant": record["variant"],
        "head": record["head"],
        "seed": record["seed"],
        "engine": record.get("engine"),
        "device": record.get("device"),
        "selection": rule,
        "labels_used": ", ".join(record["rules"][rule].get("labels_used", ())),
        "attributes": ", ".join(map(str, record["attributes"])),
        "dataset": cache.get("dataset"),
        "backbone": cache.get("backbone"),
        "cache": cache["fingerprint"],
        "run": record["id"],
        "embedcal": record.get("embedcal"),
    }
    return {_plain(str(name)): _setting(value) for name, value in found.items()}


def _setting(value: Any) -> Setting:
    if isinstance(value, bool | int) or _finite(value):
        return value  # type: ignore[no-any-return]
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"


def _numbers(split: str, metrics: Mapping[str, Any]) -> dict[str, float]:
    """``test/worst_group``, ``test/worst_group_low`` and ``_high``, ``test/groups_0``, ..."""
    found: dict[str, float] = {}
    for name, value in metrics.items():
        if name == "interval":
            for of, ends in value.items():
                if isinstance(ends, list | tuple) and len(ends) == 2 and all(map(_finite, ends)):
                    found |= {f"{of}_low": float(ends[0]), f"{of}_high": float(ends[1])}
        elif isinstance(value, list | tuple):
            if name != "group_sizes":  # the data's, and no result
                found |= {f"{name}_{k}": float(v) for k, v in enumerate(value) if _finite(v)}
        elif _finite(value):
            found[name] = float(value)
    return {_plain(f"{split}_{name}").replace("_", "/", 1): v for name, v in found.items()}


def _curve(run: Run) -> Iterator[tuple[int, dict[str, float]]]:
    record: Mapping[str, Any] = run.record
    if "curve" not in record:  # lines of results.jsonl are without
        with suppress(EmbedcalError):  # a damaged run.json costs the curve, and not the results
            whole = load_run(run.folder)
            record = whole.record if whole is not None else record
    for point in record.get("curve") or ():
        epoch = point.get("epoch") if isinstance(point, dict) else None
        if isinstance(epoch, int):
            values = {k: float(v) for k, v in point.items() if k != "epoch" and _finite(v)}
            yield epoch, {f"curve/{_plain(k).replace('.', '_')}": v for k, v in values.items()}


def _finite(value: Any) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and math.isfinite(value)
