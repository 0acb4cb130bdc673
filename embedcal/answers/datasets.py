"""What the commands on named data sets answer: a JSON record, and a report of the same values."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table

from embedcal.datasets.named import Benchmark, benchmark, benchmark_names
from embedcal.tables import facts, group_table, plain_table, shown
from embedcal.types import SPLITS

if TYPE_CHECKING:
    from embedcal.checking import Check
    from embedcal.obtaining import Obtained

MARKS = {"ok": "ok", "differs": "differs", "fails": "FAILS"}


def automatic(about: Benchmark) -> str:
    """How much of getting it is automatic, in a word or two."""
    if about.downloads:
        return "datasets get"
    return "made here" if about.made and not about.making else "by hand"


def show_record(about: Benchmark) -> dict[str, Any]:
    """Everything that is known of one data set."""
    return {
        "name": about.name,
        "title": about.title,
        "paper": about.paper,
        "source": about.source,
        "licence": about.licence,
        "terms": about.terms,
        "classes": list(about.classes),
        "attributes": {key: list(values) for key, values in about.attributes.items()},
        "groups": groups_of(about),
        "rows": sum(map(sum, about.counts.values())) or None,
        "counts": {split: list(counts) for split, counts in about.counts.items()},
        "prompts": {bank: list(prompts) for bank, prompts in about.prompts.items()},
        "splits": list(about.splits),
        "layouts": [
            {"name": each.name, "folder": each.folder, "table": each.table or None}
            for each in about.layouts
        ],
        "versions": list(about.versions),
        "crop": about.crop,
        "automatic": automatic(about),
        "downloads": [each.url for each in about.downloads],
        "obtain": list(about.obtain),
        "notes": list(about.notes),
    }


def groups_of(about: Benchmark) -> list[str]:
    """``class | value`` for every group, in the order ``y * A + a`` of the product."""
    values = [""]
    for names in about.attributes.values():
        values = [f"{left}, {right}" if left else right for left in values for right in names]
    return [f"{name} | {value}" if value else name for name in about.classes for value in values]


def show_report(about: Benchmark) -> RenderableType:
    record = show_record(about)
    pairs: dict[str, object] = {
        "name": about.name,
        "what": about.title,
        "paper": about.paper or "–",
        "licence": about.licence,
        "source": about.source,
        "classes": ", ".join(about.classes),
    }
    for key, values in about.attributes.items():
        pairs[key] = ", ".join(values)
    for bank, prompts in about.prompts.items():
        pairs[f"{bank} prompts"] = " | ".join(prompts)
    pairs["looked for"] = "; ".join(_looked_for(each) for each in record["layouts"])
    if about.splits:
        default, *others = about.splits
        pairs["split"] = ", or ".join([f"{default} by default", *others])
    if about.versions:
        pairs["versions"] = ", ".join(about.versions)
    pairs["automatic"] = automatic(about)
    parts: list[RenderableType] = [facts(pairs)]
    if about.counts:
        counts = {str(split): about.counts.get(split, ()) for split in SPLITS}
        parts.append(group_table(_counted(about), counts))
    parts += [f"note: {shown(note)}" for note in about.notes]
    if about.obtain:
        parts += ["to obtain it:"]
        parts += [f"  {i}. {shown(step)}" for i, step in enumerate(about.obtain, 1)]
    return Group(*parts)


def _counted(about: Benchmark) -> list[str]:
    """Names of the groups that counts are given for: those of the first attribute."""
    values = next(iter(about.attributes.values()), ())
    return [f"{name} | {value}" for name in about.classes for value in values] or list(
        about.classes
    )


def _looked_for(layout: dict[str, Any]) -> str:
    inner = layout["table"] or "images"
    where = inner if layout["folder"] == "." else f"{layout['folder']}/{inner}"
    return f"{where} ({layout['name']})"


def datasets_record() -> dict[str, Any]:
    """Every named data set, by name."""
    return {"datasets": {name: show_record(benchmark(name)) for name in benchmark_names()}}


def datasets_report() -> Table:
    table = plain_table()
    table.add_column("data set", overflow="fold")
    for column in ("rows", "groups"):
        table.add_column(column, justify="right", no_wrap=True)
    for column in ("getting it", "terms"):
        table.add_column(column, overflow="fold")
    for name, about in datasets_record()["datasets"].items():
        what = about["title"].partition(": ")[2] or about["title"]
        rows = f"{about['rows']:,}" if about["rows"] else "–"
        cells = (rows, str(len(about["groups"])), about["automatic"], about["terms"])
        table.add_row(f"[bold]{shown(name)}[/bold]\n{shown(what)}", *map(shown, cells))
    table.caption = escape(
        "embedcal datasets show NAME says more. Or your own: a CSV or Parquet file "
        "(path,y,a,split), a folder split/class/[attribute/]image, WebDataset shards, a Hugging "
        "Face directory"
    )
    return table


def check_record(found: Check) -> dict[str, Any]:
    """What was looked at, and how it came out."""
    return {
        "name": found.name,
        "root": None if found.root is None else str(found.root),
        "ok": found.ok,
        "findings": [
            {"what": each.what, "state": each.state, "text": each.text} for each in found.findings
        ],
    }


def check_report(found: Check) -> RenderableType:
    table = plain_table()
    table.add_column("looked at", no_wrap=True)
    table.add_column("", no_wrap=True)
    table.add_column("found", overflow="fold")
    for each in found.findings:
        table.add_row(each.what, MARKS[each.state], shown(each.text))
    verdict = "it is the data set" if found.ok else "it differs from what is known"
    if any(each.state == "fails" for each in found.findings):
        verdict = "it cannot be used as it is"
    return Group(table, f"{found.name}: {verdict}")


def get_record(got: Obtained) -> dict[str, Any]:
    return {"name": got.name, "root": str(got.root), "files": [str(path) for path in got.files]}


def get_report(got: Obtained) -> RenderableType:
    pairs = {"data set": got.name, "root": str(got.root)}
    pairs["next"] = f"embedcal datasets check {got.name} --root {got.root}"
    return facts(pairs)
