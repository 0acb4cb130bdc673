"""A study for people: the table, what was found, where the files are, what it cost."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table

from embedcal.datasets.printable import printable
from embedcal.studies.markdown import caption, cells, columns, cost
from embedcal.tables import plain_table, shown

if TYPE_CHECKING:
    from embedcal.studies import Block, Listed, Study

QUICK = "A quick run: two epochs and one seed. Its numbers mean nothing."


def study_report(study: Study) -> RenderableType:
    """The question, a table for each cache with what was found in it, files and cost."""
    parts: list[RenderableType] = [f"[bold]{shown(study.title)}[/]", shown(study.question), ""]
    if study.quick:
        parts += [f"[bold]{QUICK}[/]", ""]
    for block in study.blocks:
        parts += [_table(block), "", *(f"- {_whole(text)}" for text in block.found)]
        parts += [f"note: {shown(note)}" for note in block.notes]
        parts += [f"figure: {shown(path)}" for path in block.figures if path.suffix == ".svg"]
        parts.append("")
    parts += [f"- {_whole(text)}" for text in study.found]
    parts += [shown(cost(study.cost)), f"page: {shown(study.folder / 'study.md')}"]
    return Group(*parts)


def _whole(text: str) -> str:
    """A sentence, safe to print and not cut: it lists many rows."""
    return escape(printable(text, longest=len(text)))


def _table(block: Block) -> Table:
    table = plain_table(f"[bold]{shown(block.dataset)}, {shown(block.backbone)}[/]")
    for index, head in enumerate(columns(block)):
        table.add_column(shown(head), justify="right" if index else "left", overflow="fold")
    for row in block.rows:
        table.add_row(*(shown(cell) for cell in cells(block, row)))
    table.caption = caption(block)
    return table


def studies_record(listed: tuple[Listed, ...]) -> dict[str, Any]:
    """As JSON holds the list."""
    return {
        "studies": {
            one.name: {
                "title": one.title,
                "question": one.question,
                "needs": list(one.needs),
                "runs": one.runs,
            }
            for one in listed
        }
    }


def studies_report(listed: tuple[Listed, ...]) -> Table:
    """Every study by name."""
    table = plain_table()
    for name in ("study", "question", "needs in the cache"):
        table.add_column(name, overflow="fold")
    table.add_column("runs", justify="right")
    for one in listed:
        table.add_row(one.name, shown(one.question), shown(", ".join(one.needs)), str(one.runs))
    table.caption = "run one: embedcal study NAME, or a TOML file of yours"
    return table
