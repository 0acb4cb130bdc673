"""The leaderboards of the documentation: birds, digits, and real features where they are at hand.

Each is what ``embedcal leaderboard --markdown`` prints. ``--write`` puts them between their marks
in docs/explanation/leaderboard.md, so that the prose there is left alone; those that were not made
keep what they had. Where all three are made, the best of each budget goes into which-method.md
beside it. Runs are kept in ``--home``: the same command goes on with what was interrupted, and adds
to what was smaller.

The real features are waterbirds-effnetlite0.npz in the folder that EMBEDCAL_TEST_DATA names.
``--quick`` takes the defaults alone and is to end within ten minutes on two quiet cores.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

from pages import EXPLANATION, markdown_table, put

from embedcal.answers.leaderboard import markdown
from embedcal.cache import open_cache
from embedcal.caching import cache
from embedcal.comparing.budgets import CLASSES, KINDS, NOTHING
from embedcal.datasets.options import ReadOptions
from embedcal.interchange import import_from
from embedcal.leading import Leaderboard, Standing, leaderboard
from embedcal.tables import interval, percent

PAGE, CHOICE = EXPLANATION / "leaderboard.md", EXPLANATION / "which-method.md"
FEATURES = "waterbirds-effnetlite0.npz"


@dataclass(frozen=True, kw_only=True)
class Set:
    """A cache, made when it is asked for with so many rows, and what its leaderboard is told."""

    make: Callable[[int | None, Path], Path]
    told: Mapping[str, Any] = field(default_factory=dict)


def _birds(rows: int | None, home: Path) -> Path:
    # World 1: not 0, which the demo shows, and none at which options or defaults were looked at.
    return cache("birds", backbone="tiny", read=ReadOptions(rows=rows or 5894, seed=1)).path


def _digits(rows: int | None, home: Path) -> Path:
    return cache("digits", backbone="tiny", read=ReadOptions(rows=rows or 1797, seed=1)).path


def _features(rows: int | None, home: Path) -> Path:
    path = home / "waterbirds-effnetlite0.h5"
    if not path.exists():
        import_from(
            Path(os.environ["EMBEDCAL_TEST_DATA"]) / FEATURES,
            name="waterbirds", attributes=("place",), classes="landbird,waterbird",
            values="land,water", out=path,
        )  # fmt: skip
    return path


SETS = {
    "birds": Set(make=_birds),
    # The tiny CLIP's words know no digit, so heads are linear. A test group has 17 to 19 images and
    # one of val eleven, so the worst of 25 is chance: the mean over groups ranks, and chooses.
    "digits": Set(
        make=_digits,
        told={
            "select": "val.mean",
            "metric": "group_mean",
            "options": {"head": "linear", "features": "embedding", "epochs": "100"},
        },
    ),
    "features": Set(make=_features),
}


def made(name: str, given: argparse.Namespace, home: Path) -> Leaderboard:
    """The leaderboard of one set."""
    told = dict(SETS[name].told)
    if given.epochs is not None:
        told["options"] = {**told.get("options", {}), "epochs": str(given.epochs)}
    with open_cache(SETS[name].make(given.rows, home)) as opened:
        return leaderboard(
            opened,
            given.methods,
            seeds=given.seeds,
            quick=given.quick,
            budget=None if given.quick else given.budget,
            engine=given.engine,
            **told,
        )


def evidence(boards: Mapping[str, Leaderboard]) -> str:
    """For each budget and set the best row, and those that are not shown to be worse."""
    lines: list[tuple[str, ...]] = []
    for name, kind in (("zeroshot", NOTHING), ("erm", CLASSES)):
        rows = [_alone(board, name, kind) for board in boards.values()]
        lines.append((f"{kind}: `{name}`", *rows))
    for kind in KINDS:
        rows = [_best(board, kind) for board in boards.values()]
        if any(rows):
            lines.append((f"**{kind}**", *(row or "–" for row in rows)))
    return markdown_table(("reads", *boards), lines)


def _alone(board: Leaderboard, name: str, kind: str) -> str:
    found = [s for s in board.standings if s.row.method == name and s.kind == kind]
    return _figures(found[0]) if found else "–"


def _best(board: Leaderboard, kind: str) -> str:
    rows = [standing for standing in board.standings if standing.kind == kind]
    if not rows:
        return ""
    also = [f"`{standing.row.label}`" for standing in rows[1:] if standing.rank[0] == 1]
    text = f"`{rows[0].row.label}` {_figures(rows[0])}"
    return f"{text}; also {', '.join(also)}" if also else text


def _figures(standing: Standing) -> str:
    return f"{percent(standing.row.mean)} ({interval(standing.row.interval)})"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--sets", nargs="+", choices=list(SETS), default=list(SETS))
    parser.add_argument("--methods", nargs="+", metavar="METHOD", help="by default all")
    parser.add_argument("--seeds", type=int, default=3, help="head seeds a setting")
    parser.add_argument("--budget", type=int, default=4, help="settings a method")
    parser.add_argument("--quick", action="store_true", help="defaults alone")
    parser.add_argument("--rows", type=int, help="pictures of birds or digits; by default all")
    parser.add_argument("--epochs", type=int, help="of every trained method, to try things out")
    parser.add_argument("--engine", default="auto", help="as for embedcal grid")
    parser.add_argument("--home", type=Path, help="keep caches and runs in this folder")
    parser.add_argument("--write", action="store_true", help=f"put the tables into {PAGE.name}")
    given = parser.parse_args()
    keep = nullcontext(str(given.home)) if given.home else tempfile.TemporaryDirectory()
    with keep as folder:
        home = Path(folder)
        home.mkdir(parents=True, exist_ok=True)
        os.environ["EMBEDCAL_HOME"] = folder
        boards: dict[str, Leaderboard] = {}
        for name in given.sets:
            there = os.environ.get("EMBEDCAL_TEST_DATA", "")
            if name == "features" and not (Path(there) / FEATURES).is_file():
                print(f"left out: EMBEDCAL_TEST_DATA names no folder with {FEATURES}")
                continue
            began = time.perf_counter()
            boards[name] = made(name, given, home)
            text = markdown(boards[name])
            print(text)
            print(f"{name}: {time.perf_counter() - began:.0f} s", file=sys.stderr, flush=True)
            if given.write:
                put(PAGE, f"leaderboard: {name}", text)
        print(evidence(boards))
        if given.write and len(boards) == len(SETS):
            put(CHOICE, "which: evidence", evidence(boards))


if __name__ == "__main__":
    main()
