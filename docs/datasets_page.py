"""The reference of named data sets: what their facts say."""

from __future__ import annotations

from typing import Any

from markdown_text import MADE, page, prose, table


def datasets_page() -> str:
    from embedcal.answers.datasets import groups_of, show_record
    from embedcal.datasets import benchmark, benchmark_names

    known = [benchmark(name) for name in benchmark_names()]
    rows = []
    for facts in known:
        record = show_record(facts)
        total = f"{record['rows']:,}" if record["rows"] else ""
        cells = (prose(facts.title), total, str(len(record["groups"])), record["automatic"])
        rows.append((f"[`{facts.name}`](#{facts.name})", *cells))
    parts = [
        MADE,
        "# Named data sets",
        INTRODUCTION,
        table(("name", "what it is", "rows", "groups", "getting it"), rows),
    ]
    for facts in known:
        parts += [f"## {facts.name}", prose(facts.title) + ".", _facts(facts)]
        if facts.counts:
            first = next(iter(facts.attributes.values()), ())
            names = [f"{y} | {a}" for y in facts.classes for a in first] or list(facts.classes)
            counts = [
                (split, *(f"{count:,}" for count in row)) for split, row in facts.counts.items()
            ]
            parts.append(table(("rows of each group", *names), counts))
        elif len(groups_of(facts)) <= 12:
            parts.append("Groups: " + "; ".join(groups_of(facts)) + ".")
        parts.append(_list("To obtain it:", facts.obtain, numbered=True))
        parts.append(_list("Worth knowing:", facts.notes, numbered=False))
    return page(parts)


INTRODUCTION = """\
What the package knows of each data set, from the tables of facts in `embedcal/datasets/facts/`.
`embedcal datasets` lists them, `embedcal datasets show NAME` prints one,
`embedcal datasets check NAME --root FOLDER` compares what lies on disk with it, and
`embedcal datasets get NAME` downloads those that have a stable public address. Rows and counts are
the published ones. A data set of your own may have such a table too:
[Data sets](datasets.md#a-facts-file)."""


def _facts(facts: Any) -> str:
    rows = [("classes", ", ".join(facts.classes))]
    rows += [(f"attribute `{key}`", ", ".join(values)) for key, values in facts.attributes.items()]
    rows += [(f"{bank} prompts", "; ".join(prompts)) for bank, prompts in facts.prompts.items()]
    found = [_layout(layout) for layout in facts.layouts]
    rows.append(("looked for below the root", "; ".join(found)))
    if facts.splits:
        names = [
            f"`{name}`" + (" (the default)" if at == 0 else "")
            for at, name in enumerate(facts.splits)
        ]
        rows.append(("`--split`", ", ".join(names)))
    if facts.versions:
        rows.append(("known versions", ", ".join(facts.versions)))
    if facts.crop:
        rows.append(("centre crop", f"{facts.crop} pixels for encoders that are not CLIP"))
    rows += [("licence", facts.licence), ("source", facts.source)]
    rows += [("paper", facts.paper)] if facts.paper else []
    return table(("", ""), [(name, prose(text)) for name, text in rows])


def _layout(layout: Any) -> str:
    inner = f"`{layout.table}`" if layout.table else "images by their folders"
    where = f" in `{layout.folder}`" if layout.folder != "." else ""
    return f"{inner}{where} ({layout.name})"


def _list(head: str, lines: tuple[str, ...], *, numbered: bool) -> str:
    if not lines:
        return ""
    marks = (f"{i}." if numbered else "*" for i in range(1, len(lines) + 1))
    items = [f"{mark} {prose(line)}" for mark, line in zip(marks, lines, strict=True)]
    return "\n".join([head, "", *items])
