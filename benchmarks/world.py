"""How the methods behave on freshly seeded worlds of the embedded birds: a table and a bar.

Each world seed draws new scenes; each head seed trains anew. The bar says what the world is for:
zero-shot right on average and wrong on its worst group, plain training not much better, methods
that know the groups repairing it, and those that infer them repairing much of it. ``--set all``
shows every method, ``--set variants`` what papers and released code say side by side, ``--set
cfr`` what CFR's open choices do. ``--set all --write`` puts its table between its marks in
docs/explanation/every-method.md.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

from pages import EXPLANATION, markdown_table, put
from rich.console import Console
from rich.table import Table

PAGE = EXPLANATION / "every-method.md"
Options = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A method in the table: what is fitted, and the rule that selects.

    Of several ``options`` the best on validation, by the rule's own statistic, is what counts.
    """

    label: str
    method: str
    select: str = "val.worst_group"
    options: tuple[Options, ...] = ({},)


LS, VS = {"vs_weight": 0.0, "ls_weight": 1.0}, {"vs_weight": 1.0, "ls_weight": 0.0}

PLAIN = (
    Entry(label="zeroshot", method="zeroshot"),
    Entry(label="erm, val.mean", method="erm", select="val.mean"),
    Entry(label="erm, val.worst_group", method="erm"),
    Entry(label="group-dro", method="group-dro"),
    Entry(label="dfr", method="dfr"),
    Entry(label="cfr, val.mean", method="cfr", select="val.mean"),
    Entry(label="cfr, val.worst_group", method="cfr"),
    Entry(
        label="cfr, best on val",
        method="cfr",
        options=tuple({"pos": p, "neg": n} for p in ("dps", "rps") for n in ("rns", "nns")),
    ),
    Entry(label="cfr, ERM's errors", method="cfr", options=({"calibration": "erm"},)),
    Entry(label="cfr, no calibration set", method="cfr", options=({"calibration": "none"},)),
    Entry(
        label="spurious, vs, best on val",
        method="spurious",
        options=tuple(
            {**VS, "vs_sets": sets, "sampler": sampler}
            for sets in ("attribute", "group")
            for sampler in ("iid", "group")
        ),
    ),
    Entry(label="spurious, ls", method="spurious"),
)


def _variants() -> Iterator[Entry]:
    """What the papers say and what their code computes, under both ways of drawing batches."""
    for sampler in ("iid", "group"):
        for variant in ("paper_mean", "paper_sampled", "official"):
            yield Entry(
                label=f"clip, {variant}, {sampler}",
                method="clip",
                options=({"variant": variant, "sampler": sampler},),
            )
        for name, weights in (("ls", LS), ("vs", VS)):
            for variant in ("paper", "official", "official_fixed"):
                options = {"variant": variant, "sampler": sampler, **weights}
                label = f"spurious {name}, {variant}, {sampler}"
                yield Entry(label=label, method="spurious", options=(options,))
    tracked = {"variant": "official", "sampler": "group", "tracker": "on", **LS}
    yield Entry(
        label="spurious ls, official + tracker, group", method="spurious", options=(tracked,)
    )
    for calibration in ("zeroshot", "erm"):
        for variant in ("paper", "official"):
            options = {"variant": variant, "calibration": calibration}
            yield Entry(
                label=f"cfr, {variant}, errors of {calibration}", method="cfr", options=(options,)
            )
    for method, variants in (
        ("group-dro", ("wilds", "group_dro", "cvar")),
        ("jtt", ("paper", "official", "subpop")),
    ):
        for variant in variants:
            label = f"{method}, {variant}"
            yield Entry(label=label, method=method, options=({"variant": variant},))


def _cfr() -> Iterator[Entry]:
    """The choices that CFR's description leaves open, one at a time from its defaults."""
    for pos in ("dps", "rps"):
        for neg in ("rns", "nns", "centroid"):
            options: Options = {"pos": pos, "neg": neg}
            yield Entry(label=f"cfr, {pos}, {neg}", method="cfr", options=(options,))
    for space in ("embedding", "pooled"):
        options = {"neg": "nns", "space": space, "pool": "dataset"}
        yield Entry(label=f"cfr, dps, nns by {space}", method="cfr", options=(options,))
    for correct in ("pretrained", "erm", "current"):
        for confidence in ("off", "entropy", "margin"):
            options = {"correct": correct, "confidence": confidence}
            label = f"cfr, centroids by {correct}, confidence {confidence}"
            yield Entry(label=label, method="cfr", options=(options,))


def _every() -> Iterator[Entry]:
    """Every method under the rule that its labels allow, as ``embedcal demo --all`` shows them."""
    from embedcal.demo import every_entry

    for entry in every_entry():
        select = entry.select or "val.worst_group"
        label = f"{entry.label}, {select}"
        yield Entry(label=label, method=entry.method, select=select, options=(entry.options,))


def every_method(found: Mapping[str, Mean]) -> str:
    """The table of ``--set all`` as Markdown, in the order of what is read."""
    from embedcal.demo import KINDS, every_entry, kind_of
    from embedcal.evaluate import rule
    from embedcal.fitting import configure
    from embedcal.methods.base import Solver

    rows = []
    for entry in every_entry():
        select = entry.select or "val.worst_group"
        method, row = configure(entry.method, entry.options), found[f"{entry.label}, {select}"]
        chosen = method.selection if isinstance(method, Solver) else select
        kind = kind_of(method, rule(select))
        cells = (
            kind,
            f"`{entry.label}`",
            chosen,
            f"{row.worst_group:.1f} ± {row.worst_group_std:.1f}",
            f"{row.train_weighted:.1f} ± {row.train_weighted_std:.1f}",
            " / ".join(f"{group:.0f}" for group in row.groups),
        )
        rows.append((KINDS.index(kind), cells))
    heads = ("reads", "method", "epoch by", "worst group", "train-weighted", "groups")
    rows.sort(key=lambda row: row[0])  # of one budget in the order of the demo
    return markdown_table(heads, (cells for _, cells in rows))


SETS: dict[str, Callable[[], Iterable[Entry]]] = {
    "plain": lambda: PLAIN,
    "all": _every,
    "cfr": _cfr,
    "variants": _variants,
}

BAR: dict[str, Callable[[Mapping[str, Mean]], bool]] = {
    "zero-shot: worst group under 50": lambda m: m["zeroshot"].worst_group < 50,
    "zero-shot: train-weighted over 85": lambda m: m["zeroshot"].train_weighted > 85,
    "ERM (val.mean): worst group 20 points under DFR's": lambda m: (
        m["erm, val.mean"].worst_group <= m["dfr"].worst_group - 20
    ),
    "DFR: worst group at least 80": lambda m: m["dfr"].worst_group >= 80,
    "Group DRO: worst group at least 80": lambda m: m["group-dro"].worst_group >= 80,
    "CFR: 10 points over ERM, no group label anywhere (val.mean)": lambda m: (
        m["cfr, val.mean"].worst_group >= m["erm, val.mean"].worst_group + 10
    ),
    "CFR: 10 points over ERM under val.worst_group": lambda m: (
        m["cfr, best on val"].worst_group >= m["erm, val.worst_group"].worst_group + 10
    ),
    "spurious with vs: 10 points over ERM under val.worst_group": lambda m: (
        m["spurious, vs, best on val"].worst_group >= m["erm, val.worst_group"].worst_group + 10
    ),
}


@dataclass(frozen=True, kw_only=True)
class Result:
    """Test figures of one method, world and head seed, in percent."""

    world: int
    head: int
    label: str
    worst_group: float
    train_weighted: float
    groups: tuple[float, ...]
    seconds: float
    chosen: dict[str, Any]  # which of several options was best on validation


@dataclass(frozen=True, kw_only=True)
class Mean:
    """Means over results, in percent, with the standard deviation of each."""

    worst_group: float
    worst_group_std: float
    train_weighted: float
    train_weighted_std: float
    groups: tuple[float, ...]
    seconds: float
    runs: int


def run_world(
    world: int, heads: Sequence[int], rows: int, entries: Iterable[Entry]
) -> list[Result]:
    """Render one world, cache it through the tiny CLIP, and fit every entry for each head seed."""
    from embedcal.cache import open_cache
    from embedcal.caching import cache
    from embedcal.datasets.options import ReadOptions
    from embedcal.fitting import fit_on
    from embedcal.workbench import Workbench

    report = cache("birds", backbone="tiny", read=ReadOptions(rows=rows, seed=world))
    found = []
    with open_cache(report.path) as opened:
        on = Workbench(opened)
        for entry in entries:
            for head in heads[:1] if entry.method == "zeroshot" else heads:
                runs = [
                    fit_on(on, entry.method, options, seed=head, select=entry.select)
                    for options in entry.options
                ]
                statistic = entry.select.removeprefix("val.")
                best = max(runs, key=lambda run: run.val[statistic])
                chosen = entry.options[runs.index(best)] if len(runs) > 1 else {}
                found.append(
                    Result(
                        world=world,
                        head=head,
                        label=entry.label,
                        worst_group=100 * best.test["worst_group"],
                        train_weighted=100 * best.test["train_weighted"],
                        groups=tuple(100 * group for group in best.test["groups"]),
                        seconds=sum(run.record["seconds"] for run in runs),
                        chosen=dict(chosen),
                    )
                )
    return found


def means(results: Sequence[Result]) -> dict[str, Mean]:
    """By label, over everything given."""
    labels = dict.fromkeys(result.label for result in results)
    return {label: _mean([r for r in results if r.label == label]) for label in labels}


def _mean(results: Sequence[Result]) -> Mean:
    worst = [result.worst_group for result in results]
    weighted = [result.train_weighted for result in results]
    groups = zip(*(result.groups for result in results), strict=True)
    return Mean(
        worst_group=mean(worst),
        worst_group_std=stdev(worst) if len(worst) > 1 else 0.0,
        train_weighted=mean(weighted),
        train_weighted_std=stdev(weighted) if len(weighted) > 1 else 0.0,
        groups=tuple(mean(values) for values in groups),
        seconds=mean(result.seconds for result in results),
        runs=len(results),
    )


def holds(found: Mapping[str, Mean]) -> dict[str, bool]:
    """Which lines of the bar hold; only the plain set has what they compare."""
    if not {entry.label for entry in PLAIN} <= set(found):
        return {}
    return {line: test(found) for line, test in BAR.items()}


def table(title: str, found: Mapping[str, Mean]) -> Table:
    """Percent on the test split; deviations over worlds and head seeds."""
    columns = ("method", "worst group", "train-weighted", "groups", "seconds", "runs")
    shown = Table(*columns, title=title)
    for label, row in found.items():
        shown.add_row(
            label,
            f"{row.worst_group:.1f} ± {row.worst_group_std:.1f}",
            f"{row.train_weighted:.1f} ± {row.train_weighted_std:.1f}",
            "  ".join(f"{group:.1f}" for group in row.groups),
            f"{row.seconds:.1f}",
            str(row.runs),
        )
    return shown


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    # Not 0, which the demo shows, and none at which the recipe of the world was looked at.
    parser.add_argument("--worlds", type=int, nargs="+", default=[1, 2, 3], metavar="SEED")
    parser.add_argument("--heads", type=int, nargs="+", default=[0, 1, 2], metavar="SEED")
    parser.add_argument("--set", choices=sorted(SETS), default="plain", help="what is compared")
    parser.add_argument("--rows", type=int, default=5894, help="pictures a world")
    parser.add_argument("--home", type=Path, help="keep worlds, caches and runs in this folder")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything here")
    parser.add_argument("--write", action="store_true", help=f"of all: its table into {PAGE.name}")
    given = parser.parse_args()
    if given.write and given.set != "all":
        parser.error("--write is for --set all")
    keep = nullcontext(str(given.home)) if given.home else tempfile.TemporaryDirectory()
    console = Console(width=None if Console().is_terminal else 120)
    results: list[Result] = []
    bars: dict[str, dict[str, bool]] = {}
    with keep as home:
        os.environ["EMBEDCAL_HOME"] = home
        for world in given.worlds:
            mine = run_world(world, given.heads, given.rows, SETS[given.set]())
            results += mine
            console.print(table(f"world {world}", means(mine)))
            bars[f"world {world}"] = _print_bar(console, means(mine))
    overall = means(results)
    console.print(table(f"all {len(given.worlds)} worlds", overall))
    bars["all"] = _print_bar(console, overall)
    if given.write:
        put(PAGE, "all-table", every_method(overall))
    if given.json is not None:
        document = {
            "worlds": given.worlds,
            "heads": given.heads,
            "rows": given.rows,
            "results": [asdict(result) for result in results],
            "means": {label: asdict(row) for label, row in overall.items()},
            "bar": bars,
        }
        given.json.write_text(json.dumps(document, indent=2) + "\n")


def _print_bar(console: Console, found: Mapping[str, Mean]) -> dict[str, bool]:
    lines = holds(found)
    for line, held in lines.items():
        console.print(f"{'holds' if held else 'FAILS'}: {line}", highlight=False)
    return lines


if __name__ == "__main__":
    main()
