"""What the commands on runs and methods answer: a JSON record, and a report of the same values."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import TYPE_CHECKING, Any

from rich.console import Group, RenderableType
from rich.table import Table

from embedcal.tables import facts, interval, labels_used, percent, plain_table, run_table, shown

LISTED = 4  # prompts named in a report; JSON has all

if TYPE_CHECKING:
    from embedcal.demo import Demo
    from embedcal.runs import Run


def run_record(run: Run) -> dict[str, Any]:
    return {**run.record, "folder": str(run.folder), "reused": run.reused}


def run_report(run: Run, group_names: Sequence[str]) -> RenderableType:
    record = run.record
    done = "finished before, not done again" if run.reused else f"{record['seconds']:.1f} s"
    epoch = record["rules"][record["selection"]]["epoch"]
    pairs: dict[str, object] = {
        "run": f"{run.id} ({done})",
        "method": f"{record['method']} ({record['variant']}), {record['head']} head, seed "
        f"{record['seed']}",
        "labels": labels_used(record["labels_used"]) + (" (names)" if "names" in record else ""),
        **prompt_facts(record.get("prompts")),
        "selection": record["selection"] + (f", epoch {epoch}" if epoch else ""),
        **environment_facts(record),
        **found_facts(record.get("found"), group_names),
        **kept_facts(record),
        "folder": str(run.folder),
    }
    return Group(facts(pairs), run_table(record, group_names))


def prompt_facts(prompts: Mapping[str, Any] | None) -> dict[str, object]:
    """Two lines on the texts that made a classifier; nothing where a run has none."""
    if prompts is None:
        return {}
    names = prompts["prompts"]
    listed = ", ".join(names[:LISTED]) + (" ..." if len(names) > LISTED else "")
    found: dict[str, object] = {"prompts": shown(f"{len(names)}: {listed}")}
    texts, kind, each = prompts.get("templates"), "templates", ""
    if texts is None:
        texts, kind, each = prompts["descriptions"][0], "descriptions", " for each"
    return found | {kind: shown(f"{len(texts)}{each}, the first '{texts[0]}'")}


def environment_facts(record: Mapping[str, Any]) -> dict[str, object]:
    """A line on the cells that ``val.env`` judged by; nothing where it was not asked for."""
    found = record.get("environments")
    if found is None:
        return {}
    whole = set(found["joined"])
    cells = (
        f"{a:,}+{b:,}" + (" (judged whole)" if c in whole else "")
        for c, (a, b) in enumerate(found["sizes"])
    )
    worst = record["val"].get("worst_env")
    line = f"val rows by class: {', '.join(cells)}; worst_env {percent(worst)} %"
    if worst == 0 and record["selection"] == "val.env":
        line += " in every epoch, so the first was kept: choose by val.worst_class"
    return {"environments": line}


def found_facts(found: Mapping[str, Any] | None, group_names: Sequence[str]) -> dict[str, object]:
    """Two lines on the rows that a method took for rare; nothing for one that looks for none."""
    if found is None:
        return {}
    what = f"{found['marked']:,} of {found['among']:,} {found['split']} rows taken for rare"
    if "rare" not in found:
        return {"found": what}
    if not found["rare"]:
        return {"found": f"{what}; none of them is in a rare group"}
    names = ", ".join(group_names[g] for g in found["rare_groups"])
    shares = {key: percent(found[key]) for key in ("recall", "precision", "share")}
    return {
        "found": f"{what}: {shares['recall']} % of the rare ones; {shares['precision']} % of it is "
        f"rare, {shares['share']} % of all",
        "rare": shown(f"{names} ({found['rare']:,} rows)"),
    }


def kept_facts(record: Mapping[str, Any]) -> dict[str, object]:
    """A line on the templates that were kept image by image; nothing where none were."""
    found = record.get("account", {}).get("test", {})
    if not found.get("most"):
        return {}
    first = found["most"][0]
    texts = record["prompts"].get("templates") or record["prompts"]["descriptions"][0]
    share = percent(first["images"] / found["images"])
    line = f"{found['kept']} of {found['templates']} templates for some test image; most often "
    return {"kept": shown(f"{line}'{texts[first['template']]}', for {share} % of them")}


def methods_record() -> dict[str, Any]:
    from embedcal.methods import find, labels_of, names
    from embedcal.methods.base import default_of, options

    listed = {}
    for name in names():
        cls = find(name)
        listed[name] = {
            "summary": cls.summary(),
            "variants": list(cls.variants),
            "labels_used": sorted(n for n in labels_of(cls()) if n.endswith((".y", ".g", ".a"))),
            "options": {
                item.name: {"default": default_of(item), "help": item.metadata["help"]}
                for item in options(cls)
            },
        }
    return {"methods": listed}


def methods_report() -> Table:
    table = plain_table()
    for column in ("method", "labels it reads", "what it does"):
        table.add_column(column, overflow="fold")
    for name, method in methods_record()["methods"].items():
        table.add_row(name, labels_used(method["labels_used"]), shown(method["summary"]))
    table.caption = "options of each: embedcal fit METHOD --help"
    return table


ABOUT = {
    "birds": "Synthetic scenes and a tiny CLIP made to lean on the background: evidence about the "
    "software, not about OpenAI's CLIP.",
    "digits": "Real handwriting (8 x 8 pixels, enlarged), in the colour of its class in nine of "
    "ten training images and in any colour elsewhere. The tiny CLIP never saw a digit, and of the "
    "words that tell the prompts apart it knows 'one' alone: zero-shot is at chance, which is 20, "
    "and so is what leans on its texts; the other heads are linear. A test group has 17 to 19 "
    "images, so that the worst of 25 is low by chance alone. Evidence about the software, not "
    "about OpenAI's CLIP.",
}
TRY = {
    "birds": ("cfr --neg nns", "erm --head linear --select val.mean"),
    "digits": (
        "jtt --head linear --features embedding --select val.mean",
        "dfr --features pooled --balance class",
    ),
}
MOST_GROUPS = 8  # shown one by one


def demo_report(demo: Demo) -> RenderableType:
    """The demo's table and what to try next."""
    cache = shlex.quote(str(demo.cache))
    lines = [
        f"Test accuracy, %, means of {demo.seeds} head seeds. {ABOUT[demo.dataset]}",
        f"In all {demo.seconds['total']:.1f} s: cache {demo.seconds['cache']:.1f}, fits "
        f"{demo.seconds['fit']:.1f}.",
        "",
        "Next:",
        f"  embedcal info {cache}",
        *(f"  embedcal fit {options} --cache {cache}" for options in TRY[demo.dataset]),
        f"  ls {shlex.quote(str(demo.images))}" if demo.every else f"  {_with_all(demo)}",
    ]
    tables = _every_method(demo) if demo.every else [_few_methods(demo)]
    return Group(*tables, *lines)


def _every_method(demo: Demo) -> list[Table]:
    """A row a method, a table for each kind of what is read, all of one width."""
    tables: dict[str, Table] = {}
    for row in demo.rows:
        if row.kind not in tables:
            table = tables[row.kind] = plain_table(f"[bold]reads {row.kind}[/]")
            table.add_column("method", width=20, overflow="fold")
            table.add_column("selection rule", width=15, overflow="fold")
            for name, width in (("worst group", 11), ("train-weighted", 14), ("s", 5)):
                table.add_column(name, width=width, justify="right")
        worst = f"{percent(row.worst_group)} ± {percent(row.deviation)}"
        average, seconds = percent(row.train_weighted), f"{row.seconds:.1f}"
        tables[row.kind].add_row(shown(row.label), row.selection, worst, average, seconds)
    return list(tables.values())


def _few_methods(demo: Demo) -> Table:
    """A column a method, with every group and the interval."""
    table = plain_table()
    table.add_column("test accuracy, %", no_wrap=True)
    for row in demo.rows:
        table.add_column(row.method, justify="right", overflow="fold")
    table.add_row(
        "labels used", *(labels_used(row.labels_used).replace(", ", ",\n") for row in demo.rows)
    )
    table.add_row(
        "selection rule",
        *(row.selection.replace(".", ".\n").replace("_", "_\n") for row in demo.rows),
        end_section=True,
    )
    for name, chosen in _shown_groups(demo).items():
        means = (fmean(row.groups[g] for g in chosen) for row in demo.rows)
        table.add_row(shown(name), *map(percent, means))
    worst = (percent(row.worst_group) for row in demo.rows)
    table.add_row("worst group", *worst, style="bold")
    table.add_row("  95 % interval", *(interval(row.interval) for row in demo.rows))
    table.add_row("  std over seeds", *(percent(row.deviation) for row in demo.rows))
    average = (percent(row.train_weighted) for row in demo.rows)
    table.add_row("train-weighted", *average, end_section=True)
    table.add_row("seconds a run", *(f"{row.seconds:.1f}" for row in demo.rows))
    return table


def _shown_groups(demo: Demo) -> dict[str, list[int]]:
    """What the rows of groups are: each group, or of many those common in train, and the others."""
    if len(demo.group_names) <= MOST_GROUPS:
        return {name: [g] for g, name in enumerate(demo.group_names)}
    common = [g for g, largest in enumerate(demo.common) if largest]
    rare = [g for g, largest in enumerate(demo.common) if not largest]
    return {
        f"{len(common)} common groups, mean": common,
        f"{len(rare)} rare groups, mean": rare,
    }


def _with_all(demo: Demo) -> str:
    return "embedcal demo --all" + ("" if demo.dataset == "birds" else f" --dataset {demo.dataset}")
