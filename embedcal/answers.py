"""What each command answers: a JSON record, and a report for people made from the same values."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table

from embedcal.tables import (
    facts,
    group_table,
    interval,
    labels_used,
    percent,
    plain_table,
    run_table,
    shown,
)
from embedcal.types import SPLITS

if TYPE_CHECKING:
    from embedcal.cache import BuildReport, CacheMeta, FeatureCache
    from embedcal.demo import Demo
    from embedcal.runs import Run

LISTED = 10  # unreadable images named in a report; JSON has all


def cache_record(report: BuildReport) -> dict[str, Any]:
    return {
        "path": str(report.path),
        "rows": report.rows,
        "encoded": report.encoded,
        "reused": report.reused,
        "relabelled": report.relabelled,
        "resumed": report.resumed,
        "skipped": [
            dict(zip(("id", "path", "reason"), row, strict=True)) for row in report.skipped
        ],
        "seconds": dict(report.seconds),
        "images_per_second": report.images_per_second,
        "limiting": report.limiting,
        "notes": list(report.notes),
    }


def cache_report(report: BuildReport) -> RenderableType:
    how = f"encoded {report.encoded:,} of {report.rows:,} rows"
    if report.reused:
        how = f"exists already, nothing encoded ({report.rows:,} rows)"
    elif report.relabelled:
        how = f"new labels, features copied, nothing encoded ({report.rows:,} rows)"
    elif report.resumed:
        how += f"; {report.resumed:,} were there from an interrupted build"
    pairs: dict[str, object] = {"cache": str(report.path), "done": how}
    if report.encoded:
        rates = (f"{stage} {rate:,.0f}/s" for stage, rate in report.images_per_second.items())
        limit = f" (limited by {report.limiting})" if report.limiting else ""
        pairs["rates"] = ", ".join(rates) + limit
        pairs["seconds"] = f"{report.seconds['total']:.1f}"
    for note in report.notes:
        pairs["note"] = note
    parts: list[RenderableType] = [facts(pairs)]
    if report.skipped:
        table = plain_table(f"{len(report.skipped):,} images could not be read")
        for name in ("id", "path", "reason"):
            table.add_column(name, overflow="fold")
        for row in report.skipped[:LISTED]:
            table.add_row(*map(shown, row))
        if len(report.skipped) > LISTED:
            table.caption = f"and {len(report.skipped) - LISTED:,} more: --json lists all"
        parts.append(table)
    return Group(*parts)


def cache_line(meta: CacheMeta) -> str:
    """Which cache a command uses: said before anything else."""
    return f"cache {meta.path} ({meta.dataset}, {meta.backbone}, {meta.rows:,} rows)"


def info_record(cache: FeatureCache) -> dict[str, Any]:
    meta = cache.meta
    return {
        "path": str(meta.path),
        "format_version": meta.format_version,
        "dataset": meta.dataset,
        "backbone": meta.backbone,
        "weights": meta.weights,
        "weights_sha256": meta.weights_sha256,
        "library": meta.library,
        "precision": meta.precision,
        "preprocessing": dict(meta.preprocessing),
        "rows": meta.rows,
        "unreadable": sum(1 for status in cache.samples.status if status != 0),
        "levels": {
            level: {"shape": list(meta.shapes[level]), "stored": stored}
            for level, stored in meta.levels.items()
        },
        "classes": list(meta.classes),
        "attributes": {name: list(values) for name, values in meta.attributes},
        "groups": {"names": list(cache.group_names()), "counts": _counts(cache)},
        "banks": {bank: list(cache.text(bank).prompts) for bank in cache.banks},
        "templates": len(meta.templates),
        "warnings": list(meta.warnings),
        "identity": meta.identity,
        "fingerprint": meta.fingerprint,
        "created": meta.created,
        "bytes": meta.path.stat().st_size,
    }


def _counts(cache: FeatureCache) -> dict[str, list[int]]:
    """Encoded rows of each group (of each class where there are no attributes) by split."""
    counts: dict[str, list[int]] = {}
    for split in SPLITS:
        found = cache.split(split)
        labels, n = found.y, cache.n_classes
        if "g" in found:
            labels, n = found.g[found.g >= 0], n * cache.n_attributes()
        counts[split] = np.bincount(labels, minlength=n).tolist()
    return counts


def info_report(cache: FeatureCache) -> RenderableType:
    record = info_record(cache)
    levels = (
        f"{name} {'x'.join(map(str, level['shape']))} {level['stored']}"
        for name, level in record["levels"].items()
    )
    banks = (f"{bank} ({len(prompts)})" for bank, prompts in record["banks"].items())
    pairs: dict[str, object] = {
        "cache": record["path"],
        "data set": f"{record['dataset']}, {record['rows']:,} rows"
        + (f", {record['unreadable']} unreadable" if record["unreadable"] else ""),
        "encoder": f"{record['backbone']} ({record['weights']}), {record['library']}, "
        f"{record['precision']}",
        "levels": "; ".join(levels),
        "text": f"{', '.join(banks)} x {record['templates']} templates" if cache.banks else "none",
        "size": f"{record['bytes'] / 1e6:,.1f} MB",
        "created": record["created"],
        "fingerprint": record["fingerprint"][:16],
    }
    parts: list[RenderableType] = [facts(pairs)]
    names = record["groups"]["names"] or record["classes"]
    parts.append(group_table(names, record["groups"]["counts"]))
    parts += [f"warning: {shown(line)}" for line in record["warnings"]]
    return Group(*parts)


def run_record(run: Run) -> dict[str, Any]:
    return {**run.record, "folder": str(run.folder), "reused": run.reused}


def run_report(run: Run, group_names: Sequence[str]) -> RenderableType:
    record = run.record
    done = "finished before, not done again" if run.reused else f"{record['seconds']:.1f} s"
    epoch = record["epochs"][record["selection"]]
    pairs: dict[str, object] = {
        "run": f"{run.id} ({done})",
        "method": f"{record['method']} ({record['variant']}), {record['head']} head, seed "
        f"{record['seed']}",
        "labels": labels_used(record["labels_used"]),
        "selection": record["selection"] + (f", epoch {epoch}" if epoch else ""),
        "folder": str(run.folder),
    }
    return Group(facts(pairs), run_table(record, group_names))


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


def datasets_record() -> dict[str, Any]:
    from embedcal.datasets.benchmarks import benchmark, benchmark_names

    known = {name: benchmark(name) for name in benchmark_names()}
    return {
        "datasets": {
            name: {
                "title": facts_of.title,
                "classes": list(facts_of.classes),
                "attributes": {key: list(values) for key, values in facts_of.attributes.items()},
                "counts": {split: list(counts) for split, counts in facts_of.counts.items()},
                "source": facts_of.source,
                "licence": facts_of.licence,
                "automatic": facts_of.rendered,
            }
            for name, facts_of in known.items()
        }
    }


def datasets_report() -> Table:
    table = plain_table()
    for column in ("name", "what it is", "classes", "attribute", "images"):
        table.add_column(column, overflow="fold")
    for name, known in datasets_record()["datasets"].items():
        values = "; ".join(", ".join(names) for names in known["attributes"].values())
        images = "drawn at first use" if known["automatic"] else "yours: --root FOLDER"
        cells = (name, known["title"], ", ".join(known["classes"]), values, images)
        table.add_row(*map(shown, cells))
    table.caption = escape(
        "or a CSV file (path,y,a,split), or a folder split/class/[attribute/]image"
    )
    return table


def demo_report(demo: Demo) -> RenderableType:
    """The demo's table and what to try next."""
    cache = shlex.quote(str(demo.cache))
    lines = [
        f"Test accuracy, %, means of {demo.seeds} head seeds. Synthetic scenes and a tiny CLIP "
        "made to lean on the background: evidence about the software, not about OpenAI's CLIP.",
        f"In all {demo.seconds['total']:.1f} s: cache {demo.seconds['cache']:.1f}, fits "
        f"{demo.seconds['fit']:.1f}.",
        "",
        "Next:",
        f"  embedcal info {cache}",
        f"  embedcal fit cfr --neg nns --cache {cache}",
        f"  embedcal fit erm --head linear --select val.mean --cache {cache}",
        f"  ls {shlex.quote(str(demo.images))}" if demo.every else "  embedcal demo --all",
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
    for g, name in enumerate(demo.group_names):
        table.add_row(shown(name), *(percent(row.groups[g]) for row in demo.rows))
    worst = (percent(row.worst_group) for row in demo.rows)
    table.add_row("worst group", *worst, style="bold")
    table.add_row("  95 % interval", *(interval(row.interval) for row in demo.rows))
    table.add_row("  std over seeds", *(percent(row.deviation) for row in demo.rows))
    average = (percent(row.train_weighted) for row in demo.rows)
    table.add_row("train-weighted", *average, end_section=True)
    table.add_row("seconds a run", *(f"{row.seconds:.1f}" for row in demo.rows))
    return table
