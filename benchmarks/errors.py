"""Whose mistakes make a calibration set: training rows misclassified, by group, on fresh worlds."""

from __future__ import annotations

import argparse
import os
import tempfile
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from embedcal.cache import open_cache
from embedcal.caching import cache
from embedcal.datasets.options import ReadOptions
from embedcal.fitting import fit_on
from embedcal.heads import predict
from embedcal.workbench import Workbench

JUDGES = {
    "zero-shot": ("zeroshot", {}),
    **{f"ERM, {epochs} epochs": ("erm", {"epochs": epochs}) for epochs in (1, 2, 5, 10, 30)},
}


def mistakes(on: Workbench, judge: str, head: int) -> tuple[list[int], list[int]]:
    """Misclassified training rows of each group, and all rows of it."""
    method, options = JUDGES[judge]
    run = fit_on(on, method, options, seed=head, select="last")
    fitted = run.head()
    train = on.split("train", fitted.level)
    wrong = predict(fitted, torch.as_tensor(train.x)).argmax(1).numpy() != train.y
    groups = range(on.cache.n_classes * on.n_attributes)
    found = [int(wrong[train.g == g].sum()) for g in groups]
    return found, [int((train.g == g).sum()) for g in groups]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--worlds", type=int, nargs="+", default=[1, 2, 3], metavar="SEED")
    parser.add_argument("--heads", type=int, nargs="+", default=[0, 1, 2], metavar="SEED")
    parser.add_argument("--rows", type=int, default=5894, help="pictures a world")
    parser.add_argument("--home", type=Path, help="keep worlds, caches and runs in this folder")
    given = parser.parse_args()
    keep = nullcontext(str(given.home)) if given.home else tempfile.TemporaryDirectory()
    counts: dict[str, list[list[int]]] = {judge: [] for judge in JUDGES}
    with keep as home:
        os.environ["EMBEDCAL_HOME"] = home
        for world in given.worlds:
            report = cache("birds", backbone="tiny", read=ReadOptions(rows=given.rows, seed=world))
            with open_cache(report.path) as opened:
                on = Workbench(opened)
                names = opened.group_names()
                for judge, found in counts.items():
                    for head in given.heads[:1] if judge == "zero-shot" else given.heads:
                        wrong, sizes = mistakes(on, judge, head)
                        found.append(wrong)
    shown = Table("misclassified in train", *names, title="means over worlds and head seeds")
    for judge, found in counts.items():
        shown.add_row(judge, *(f"{mean:.0f}" for mean in np.mean(found, axis=0)))
    shown.add_row("of", *map(str, sizes))
    Console(width=None if Console().is_terminal else 120).print(shown)


if __name__ == "__main__":
    main()
