"""A reproduction for people: ours beside theirs in the terminal and in Markdown."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Group, RenderableType
from rich.table import Table

from embedcal.answers.comparison import metric_name
from embedcal.markdown import escaped
from embedcal.tables import labels_used, plain_table, shown

if TYPE_CHECKING:
    from embedcal.reproducing import Recipe
    from embedcal.reproducing.judging import Cell
    from embedcal.reproducing.measuring import Measured
    from embedcal.reproducing.running import Place, Reproduction

COLUMNS = ("theirs", "ours", "difference", "tolerance")
WORDS = {
    "within": "ok",
    "beyond": "BEYOND",
    "failed": "FAILED",
    "missing": "MISSING",
    "unmeasured": "not run",
}


def reproduction_report(found: Reproduction) -> RenderableType:
    """What was published, ours beside it, how ours came about, and what differs on purpose."""
    recipe = found.recipe
    parts: list[RenderableType] = [
        f"[bold]{shown(recipe.title)}[/]",
        f"numbers: {shown(_source(recipe))}",
        f"checked: {shown(recipe.verified)}",
        f"recipe run: {shown(recipe.ran)}",
    ]
    for place in found.places:
        cells = [cell for cell in found.cells if cell.part == place.name]
        parts += ["", f"[bold]{shown(f'{place.name}: {place.described}')}[/]"]
        if place.cache is None:
            parts.append("no cache of it" if place.asked else "left out: no cache of it was given")
            parts += [f"  {shown(line)}" for line in place.needed]
        parts.append(_cells(cells))
    if found.measured:
        parts.append(_origins(found.measured))
    parts += [shown(line) for line in (*_reasons(found.cells), *_tolerances(recipe))]
    parts += [f"deviation: {shown(line)}" for line in recipe.deviations]
    parts += [f"note: {shown(line)}" for line in (*recipe.notes, *found.notes)]
    parts += ["", f"[bold]{shown(verdict(found))}[/]"]
    return Group(*parts)


def verdict(found: Reproduction) -> str:
    """The whole table in one sentence."""
    judged = [cell for cell in found.cells if cell.judged]
    within = sum(cell.status == "within" for cell in judged)
    others = [f"{n} {status}" for status, n in found.counts.items() if status != "within"]
    rest = f" ({', '.join(others)})" if others else ""
    if not judged:
        return f"{found.recipe.name}: nothing in it is judged{rest}."
    return (
        f"{found.recipe.name}: {within} of {len(judged)} judged numbers within their tolerance"
        f"{rest}; {found.seconds:.1f} s, runs in {found.folder}."
    )


def _source(recipe: Recipe) -> str:
    return recipe.source + (f" (arXiv:{recipe.arxiv})" if recipe.arxiv else "")


def number(cell: Cell, value: float, *, signed: bool = False) -> str:
    """A number with the decimals that were published; a dash where there is none."""
    if math.isnan(value):
        return "–"
    return f"{value:{'+' if signed else ''}.{cell.decimals}f}"


def _ours(cell: Cell) -> str:
    spread = "" if math.isnan(cell.deviation) else f" ± {number(cell, cell.deviation)}"
    return number(cell, cell.ours) + spread


def _line(cell: Cell) -> tuple[str, ...]:
    tolerance = "–" if cell.tolerance is None else f"{cell.tolerance:g}"
    return (
        number(cell, cell.published),
        _ours(cell),
        number(cell, cell.difference, signed=True),
        tolerance,
        WORDS.get(cell.status, cell.status),
    )


def _cells(cells: Sequence[Cell]) -> Table:
    table = plain_table()
    table.add_column("", overflow="fold", max_width=17)
    table.add_column("", overflow="fold", max_width=18)
    for name in ("theirs", "ours", "diff.", "tol."):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    before = ""
    for index, cell in enumerate(cells):
        last = index + 1 == len(cells) or cells[index + 1].row != cell.row
        style = "bold red" if cell.judged and cell.status not in ("within", "missing") else None
        table.add_row(
            "" if cell.row == before else shown(cell.row),
            shown(cell.column),
            *_line(cell),
            style=style,
            end_section=last,
        )
        before = cell.row
    return table


def _origins(measured: Sequence[Measured]) -> Table:
    table = plain_table("how ours came about")
    table.add_column("run", overflow="fold")
    table.add_column("selection", no_wrap=True)
    for name in ("tried", "seeds", "s/run"):
        table.add_column(name, justify="right")
    table.add_column("chosen", overflow="fold")
    table.add_column("labels read", overflow="fold")
    for one in measured:
        table.add_row(
            shown(one.run),
            shown(one.selection),
            f"{one.configurations}",
            f"{len(one.seeds)}",
            f"{one.seconds:.1f}",
            shown(_chosen(one)),
            shown(labels_used(one.labels_used)),
        )
    return table


def _chosen(one: Measured) -> str:
    return ", ".join(f"{name}={value}" for name, value in one.chosen.items())


def _reasons(cells: Sequence[Cell]) -> list[str]:
    """Why numbers are not within or beyond, each reason once with the rows that it is of."""
    rows: dict[tuple[str, str], dict[str, None]] = {}
    for cell in cells:
        if cell.why and cell.status not in ("missing", "left out"):
            what = cell.column if cell.status == "unmeasured" else cell.row
            rows.setdefault((cell.status, cell.why), {})[what] = None
    return [f"{status}: {'; '.join(names)}: {why}" for (status, why), names in rows.items()]


def _tolerances(recipe: Recipe) -> list[str]:
    used = {row.tolerance for row in recipe.rows if row.tolerance and not row.doubt}
    return [f"tolerance, {t.name}: {t.reason}" for t in recipe.tolerances if t.name in used]


def reproduction_markdown(found: Reproduction) -> str:
    """The same as a Markdown page: a table a part, then reasons, tolerances and deviations."""
    recipe = found.recipe
    lines = [f"## {escaped(recipe.title)}", "", escaped(f"{_source(recipe)}. {verdict(found)}"), ""]
    for place in found.places:
        lines += _markdown_part(place, [c for c in found.cells if c.part == place.name])
    told = [*_reasons(found.cells), *_tolerances(recipe)]
    told += [f"checked: {recipe.verified}", f"recipe run: {recipe.ran}"]
    told += [f"deviation: {line}" for line in recipe.deviations]
    told += [f"note: {line}" for line in (*recipe.notes, *found.notes)]
    return "\n".join([*lines, *(f"* {escaped(line)}" for line in told)]) + "\n"


def _markdown_part(place: Place, cells: Sequence[Cell]) -> list[str]:
    heads = ("row", "number", "metric", *COLUMNS, "")
    lines = [f"**{escaped(f'{place.name}: {place.described}')}**", ""]
    if place.cache is None:
        lines += [escaped("; ".join(("no cache", *place.needed))), ""]
    lines += [
        "| " + " | ".join(heads) + " |",
        "| --- | --- | --- | ---: | ---: | ---: | ---: | --- |",
    ]
    for cell in cells:
        texts = (cell.row, cell.column, metric_name(cell.metric), *_line(cell))
        lines.append("| " + " | ".join(map(escaped, texts)) + " |")
    return [*lines, ""]


def recipes_record(recipes: Sequence[Recipe]) -> dict[str, Any]:
    return {
        "recipes": [
            {
                "name": recipe.name,
                "title": recipe.title,
                "source": recipe.source,
                "arxiv": recipe.arxiv,
                "verified": recipe.verified,
                "ran": recipe.ran,
                "judged": recipe.judged,
                "rows": len(recipe.rows),
                "parts": [part.name for part in recipe.parts],
            }
            for recipe in recipes
        ]
    }


def recipes_report(recipes: Sequence[Recipe]) -> Table:
    """Every recipe: what it is of, how many of its numbers are judged, what it needs."""
    table = plain_table()
    for name in ("recipe", "what", "judged", "over"):
        table.add_column(name, overflow="fold", justify="right" if name == "judged" else "left")
    for recipe in recipes:
        over = "\n".join(part.name for part in recipe.parts)
        what = f"{recipe.title} ({recipe.source})"
        table.add_row(shown(recipe.name), shown(what), f"{recipe.judged}", over)
    table.caption = "embedcal reproduce RECIPE, or a TOML file of your own"
    return table
