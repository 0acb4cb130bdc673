"""Measure embedcal, each figure beside its baseline in the same run: a table, and JSON."""

from __future__ import annotations

import argparse
import json
import logging
import os
import platform
import sys
import tempfile
import time
from collections.abc import Iterable
from importlib import import_module
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

from measure import Reading, Row
from rich.console import Console
from rich.table import Table

# In this order; each is a module here with ``measure(quick=...)``.
NAMES = (
    "startup",
    "read",
    "neighbours",
    "attention_pool",
    "token_epoch",
    "gradcam",
    "memory",
    "inputs",
    "train_epoch",
    "cfr",
    "grid",
    "overhead",
    "linear_heads",
    "dfr_search",
    "training_free",
    "stacked",
    "encode",
    "growth",
)
HEADER = ("measurement", "ours", "baseline", "ratio", "target", "reached", "note")
RULE = ("---",) * len(HEADER)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small sizes, few repetitions")
    parser.add_argument("--only", choices=NAMES, action="append", help="may be given repeatedly")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything measured here")
    parser.add_argument("--markdown", action="store_true", help="print the table for a page")
    given = parser.parse_args()
    told = Console(stderr=True)
    logging.getLogger().setLevel(logging.ERROR)  # open_clip warns that weights are random
    rows: list[Row] = []
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as home:
        os.environ["EMBEDCAL_HOME"] = home
        for name in given.only or NAMES:
            start = time.perf_counter()
            rows += import_module(name).measure(quick=given.quick)
            told.print(f"{name}: {time.perf_counter() - start:.0f} s", highlight=False)
            seconds = round(time.perf_counter() - began)
            facts = {**machine(), "quick": given.quick, "seconds": seconds}
            if given.json is not None:  # after each, so that an interrupted run keeps what it has
                document = {"machine": facts, "rows": [row.record for row in rows]}
                given.json.write_text(json.dumps(document, indent=2) + "\n")
    lines = "\n".join(f"{name}: {value}" for name, value in facts.items())
    if given.markdown:
        print("\n".join(["| " + " | ".join(line) + " |" for line in (HEADER, RULE, *cells(rows))]))
        print(f"\n{lines}")
    else:
        Console(width=None if sys.stdout.isatty() else 200).print(table(rows), lines)


def machine() -> dict[str, Any]:
    """Where this was measured; the load is that of the last minute, our own included."""
    import torch

    return {
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load": [round(value, 1) for value in os.getloadavg()],
        "python": platform.python_version(),
        "torch": torch.__version__,
        "system": f"{platform.system()} {platform.machine()}",
    }


def _cpu_model() -> str:
    facts = Path("/proc/cpuinfo")
    if facts.exists():
        for line in facts.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or "unknown"


def table(rows: Iterable[Row]) -> Table:
    """One line a measurement."""
    shown = Table(*HEADER)
    for line in cells(rows):
        shown.add_row(*line)
    return shown


def cells(rows: Iterable[Row]) -> list[tuple[str, ...]]:
    """The table's text, in the order of ``HEADER``."""
    return [
        (
            row.name,
            _reading(row.ours),
            _reading(row.baseline),
            f"{_number(row.ratio.median)} ({_number(row.ratio.low)}-{_number(row.ratio.high)})",
            _target(row),
            {True: "yes", False: "no", None: "-"}[row.reached],
            row.note,
        )
        for row in rows
    ]


def _target(row: Row) -> str:
    if row.target is None:
        return "-"
    return f"{'at most' if row.at_most else 'at least'} {_number(row.target)}"


def _reading(reading: Reading) -> str:
    return f"{reading.what}: {_number(reading.value)} {reading.unit}".rstrip()


def _number(value: float) -> str:
    """Three figures, or as many as tell a cosine from one."""
    if 0.9999 < value < 1:
        return f"{value:.7f}"
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


if __name__ == "__main__":
    main()
