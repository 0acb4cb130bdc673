"""Every method over Colored MNIST (five classes by five colours, 25 groups) through the tiny CLIP.

Built from MNIST's t10k files in the folder mnist-t10k of EMBEDCAL_TEST_DATA. Three fifths are
train, in which 99.5 % have the colour of their class and some groups are empty. The tiny CLIP knows
no digits: methods that lean on its texts stay at chance, 20 %, and the table is evidence about
software with many classes and groups, not about the methods. They are fitted as a grid, side by
side in a process a core. With ``--rows 10000`` everything is to end within five minutes on two
quiet cores. ``--image-only`` has features of its own instead, and leaves out what needs texts;
``--settings`` adds what ``embedcal demo --all`` has of other settings of some methods.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
from rich.console import Console
from rich.table import Table

from embedcal.cache import open_cache
from embedcal.caching import cache
from embedcal.datasets.options import ReadOptions
from embedcal.datasets.places import data_dir
from embedcal.demo import KINDS, Entry, Row, every_entry, fit_entry
from embedcal.fitting import configure
from embedcal.grids import Setting, grid
from embedcal.tables import percent
from embedcal.types import EmbedcalError
from embedcal.workbench import Workbench

LONGEST = ("dfr", "con-adapter")  # are begun first, so that no core waits for one at the end
IMAGE_ONLY = f"{Path(__file__).parent / 'shapes_and_colours.py'}:ShapesAndColours"
ALL_ROWS, TARGET = 10_000, 300.0  # seconds in all, with one head seed, on two quiet cores


@dataclass(frozen=True, kw_only=True)
class Compared:
    """A row a method in the order of what it reads, and by label why others did not end.

    ``took`` has the seconds of each method by label: its stage runs not among them.
    """

    rows: list[Row]
    failed: dict[str, str]
    took: dict[str, float]


def entries_of(*, settings: bool) -> list[Entry]:
    """Every method that is installed once, and with ``settings`` the other settings too."""
    every = every_entry("digits")
    first = {entry.method: entry for entry in reversed(every)}
    return [entry for entry in every if settings or entry is first[entry.method]]


def compare(path: Path, entries: Sequence[Entry], seeds: int) -> Compared:
    """Fit every entry that the cache can serve, and summarise over head seeds."""
    rows: list[Row] = []
    failed: dict[str, str] = {}
    took: dict[str, float] = {}
    with open_cache(path) as opened:
        on = Workbench(opened)
        served = []
        for given in entries:
            entry = given
            if given.options.get("features") not in (None, *opened.meta.levels):
                rest = {k: v for k, v in given.options.items() if k != "features"}
                entry = replace(given, options=rest)  # at the level that the encoder has
            try:
                on.task(configure(entry.method, entry.options).resolve(on.offer))
                served.append(entry)
            except EmbedcalError as error:
                failed[entry.label] = str(error)
        served.sort(key=lambda entry: entry.method not in LONGEST)
        runs = data_dir() / "runs" / path.stem  # where a single fit looks too
        asked = [Setting(method=entry.method, options=entry.options) for entry in served]
        engine = "processes"
        done = grid(asked, opened, seeds=seeds, select="val.mean", out=runs, engine=engine)
        reasons = {done.settings[one["id"]].label: one["reason"] for one in done.failed}
        for entry, setting in zip(served, asked, strict=True):
            if setting.label in reasons:
                failed[entry.label] = reasons[setting.label]
                continue
            rows.append(fit_entry(on, entry, range(seeds)))
            took[entry.label] = rows[-1].seconds * seeds
    rows.sort(key=lambda row: KINDS.index(row.kind))
    return Compared(rows=rows, failed=failed, took=took)


def summary(seconds: float, cached: float, took: dict[str, float], target: float | None) -> str:
    """Where the seconds went, and whether there were few enough of them."""
    first = sorted(took, key=lambda label: -took[label])[:3]
    longest = ", ".join(f"{label} {took[label]:.0f} s" for label in first)
    told = (
        f"in all {seconds:.0f} s: pictures and cache {cached:.0f} s, then {len(took)} methods side "
    )
    told += f"by side, whose own seconds add up to {sum(took.values()):.0f}, of which {longest}"
    if target is None:
        return told
    reached = "reached" if seconds <= target else "missed"
    return f"{told}; target of {target:.0f} s {reached}"


def table(rows: list[Row], title: str) -> Table:
    """Test split, percent; the deviation is over head seeds."""
    columns = ("reads", "method", "mean of groups", "worst group", "train-weighted", "seconds")
    shown = Table(*columns, title=title)
    for row in rows:
        shown.add_row(
            row.kind,
            row.label,
            percent(float(np.mean(row.groups))),
            f"{percent(row.worst_group)} ± {percent(row.deviation)}",
            percent(row.train_weighted),
            f"{row.seconds:.1f}",
        )
    return shown


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--root", type=Path, help="folder of MNIST's files")
    parser.add_argument("--rows", type=int, default=2000, help="rows in all; 10000 is every one")
    parser.add_argument("--seeds", type=int, default=1, help="head seeds a method")
    parser.add_argument(
        "--image-only",
        action="store_true",
        help="an encoder without text in place of the tiny CLIP",
    )
    parser.add_argument("--settings", action="store_true", help="other settings of methods too")
    parser.add_argument("--home", type=Path, help="keep pictures, cache and runs in this folder")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything here")
    given = parser.parse_args()
    data = os.environ.get("EMBEDCAL_TEST_DATA", "")
    root = given.root or (Path(data) / "mnist-t10k" if data else None)
    if root is None:
        parser.error("name MNIST's files with --root, or their parent with EMBEDCAL_TEST_DATA")
    console = Console(width=None if Console().is_terminal else 140)
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["EMBEDCAL_HOME"] = str(given.home or folder)
        read = ReadOptions(rows=given.rows)
        backbone = IMAGE_ONLY if given.image_only else "tiny"
        report = cache("colored-mnist", root=root, backbone=backbone, read=read)
        cached = time.perf_counter() - start
        found = compare(report.path, entries_of(settings=given.settings), given.seeds)
    seconds = time.perf_counter() - start
    title = f"Colored MNIST 5 x 5, {given.rows} rows, {given.seeds} head seeds"
    console.print(table(found.rows, title))
    for label, reason in found.failed.items():
        console.print(f"did not end: {label}: {reason}", highlight=False, soft_wrap=True)
    whole = given.rows == ALL_ROWS and given.seeds == 1 and not given.settings
    target = TARGET if whole else None
    told = summary(seconds, cached, found.took, target)
    console.print(told, highlight=False, soft_wrap=True)
    if given.json is not None:
        document = {**asdict(found), "seconds": seconds, "cached": cached, "target": target}
        given.json.write_text(json.dumps(document, indent=2) + "\n")


if __name__ == "__main__":
    main()
