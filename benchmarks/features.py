"""Every method over features of your own (an .npz, as `embedcal import-features` reads it).

Those that need what such a file lacks, prompts or a projection, are listed with their reason.
``--write`` puts the table between its marks in docs/explanation/every-method.md.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from dataclasses import asdict
from math import isnan
from pathlib import Path

from pages import EXPLANATION, markdown_table, put
from rich.console import Console
from rich.table import Table

from embedcal.cache import open_cache
from embedcal.demo import KINDS, Row, every_entry, fit_entry
from embedcal.interchange import import_from
from embedcal.types import EmbedcalError
from embedcal.workbench import Workbench

PAGE = EXPLANATION / "every-method.md"


def compare(path: Path, seeds: int) -> tuple[list[Row], dict[str, str]]:
    """A row a method in the order of what it reads, and why the others cannot run."""
    rows, refused = [], {}
    with open_cache(path) as cache:
        on = Workbench(cache)
        for entry in every_entry():
            try:
                rows.append(fit_entry(on, entry, range(seeds)))
            except EmbedcalError as error:
                refused[entry.label] = str(error)
    return sorted(rows, key=lambda row: KINDS.index(row.kind)), refused


def table(rows: list[Row], title: str) -> Table:
    """Test split, percent; the deviation is over head seeds."""
    columns = ("reads", "method", "selection rule", "worst group", "train-weighted", "seconds")
    shown = Table(*columns, title=title)
    for row in rows:
        average, seconds = f"{100 * row.train_weighted:.1f}", f"{row.seconds:.1f}"
        shown.add_row(row.kind, row.label, row.selection, _worst(row), average, seconds)
    return shown


def markdown(rows: list[Row]) -> str:
    """The table of the page: what is read, accuracies of all groups, no times."""
    heads = ("reads", "method", "epoch by", "worst group", "train-weighted", "groups")
    cells = (
        (row.kind, f"`{row.label}`", row.selection, _worst(row),
         f"{100 * row.train_weighted:.1f}", " / ".join(f"{100 * g:.0f}" for g in row.groups))
        for row in rows
    )  # fmt: skip
    return markdown_table(heads, cells)


def _worst(row: Row) -> str:
    """Without a deviation where no seed makes a difference."""
    spread = "" if isnan(row.deviation) else f" ± {100 * row.deviation:.1f}"
    return f"{100 * row.worst_group:.1f}{spread}"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("file", type=Path, help="features (n, d), y, split, an attribute")
    parser.add_argument("--attribute", default="place", help="name of the attribute's array")
    parser.add_argument("--seeds", type=int, default=3, help="head seeds a method")
    parser.add_argument("--home", type=Path, help="keep cache and runs in this folder")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything here")
    parser.add_argument("--write", action="store_true", help=f"its table into {PAGE.name}")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        home = given.home or Path(folder)
        os.environ["EMBEDCAL_HOME"] = str(home)
        path = home / "features.h5"
        if not path.exists():
            import_from(given.file, attributes=(given.attribute,), out=path)
        rows, refused = compare(path, given.seeds)
    console = Console(width=None if Console().is_terminal else 140)
    console.print(table(rows, f"{given.file.name}, {given.seeds} head seeds"))
    for label, reason in refused.items():
        console.print(f"not run: {label}: {reason}", highlight=False, soft_wrap=True)
    if given.write:
        put(PAGE, "real-table", markdown(rows))
    if given.json is not None:
        document = {"rows": [asdict(row) for row in rows], "refused": refused}
        given.json.write_text(json.dumps(document, indent=2) + "\n")


if __name__ == "__main__":
    main()
