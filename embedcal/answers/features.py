"""What the commands on features answer: a JSON record, and a report of the same values."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import RenderableType

from embedcal.tables import facts, shown
from embedcal.types import SPLITS, Split

if TYPE_CHECKING:
    from embedcal.cache import FeatureCache
    from embedcal.runs import Run


def import_record(cache: FeatureCache) -> dict[str, Any]:
    meta, split = cache.meta, cache.samples.split
    return {
        "path": str(meta.path),
        "dataset": meta.dataset,
        "rows": {name: int((split == code).sum()) for code, name in enumerate(SPLITS)},
        "width": meta.shapes["embedding"][0],
        "stored": meta.levels["embedding"],
        "classes": list(meta.classes),
        "attributes": {name: list(values) for name, values in meta.attributes},
        "banks": list(cache.banks),
        "notes": list(meta.warnings),
    }


def import_report(cache: FeatureCache) -> RenderableType:
    record = import_record(cache)
    rows = ", ".join(f"{split} {count:,}" for split, count in record["rows"].items())
    labels = [f"{len(record['classes']):,} classes"]
    labels += [f"{name} ({len(values)})" for name, values in record["attributes"].items()]
    pairs: dict[str, object] = {
        "cache": record["path"],
        "rows": f"{len(cache):,} of {record['width']:,} numbers, {record['stored']}; {rows}",
        "labels": ", ".join(labels),
    }
    if record["banks"]:
        pairs["text"] = ", ".join(record["banks"])
    for note in record["notes"]:
        pairs["note"] = shown(note)
    return facts(pairs)


def export_record(
    cache: FeatureCache, out: Path, splits: Sequence[Split], run: Run | None
) -> dict[str, Any]:
    codes = [SPLITS.index(split) for split in splits]
    asked = int(np.isin(cache.samples.split, codes).sum())
    rows = len(cache.encoded_rows(splits))
    return {
        "path": str(out),
        "cache": str(cache.meta.path),
        "fingerprint": cache.fingerprint,
        "splits": list(splits),
        "rows": rows,
        "unreadable": asked - rows,
        "run": None if run is None else run.id,
    }


def export_report(record: dict[str, Any]) -> RenderableType:
    left = f" ({record['unreadable']:,} unreadable left out)" if record["unreadable"] else ""
    pairs: dict[str, object] = {
        "written": record["path"],
        "rows": f"{record['rows']:,} of {', '.join(record['splits'])}{left}",
    }
    if record["run"]:
        pairs["run"] = f"{record['run']}: prediction, confidence, correct for val and test"
    return facts(pairs)
