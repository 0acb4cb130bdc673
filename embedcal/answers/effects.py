"""The sensitivity of a grid for people: shares of the spread, and the mean of each value."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.table import Table

from embedcal.answers.comparison import metric_name
from embedcal.tables import percent, plain_table, shown

if TYPE_CHECKING:
    from embedcal.comparing.effects import Effect, MethodEffects, Sensitivity


def sensitivity_report(found: Sensitivity) -> RenderableType:
    """For each method the shares, then the values of each option."""
    parts: list[RenderableType] = []
    for part in found.methods:
        parts += [
            f"[bold]{shown(title(part))}[/]",
            f"{part.runs:,} runs of {part.configurations:,} configurations, "
            f"mean {percent(part.mean)} %, deviation {percent(part.deviation)}",
            _shares(part),
            _values(part),
            f"[bold]{shown(part.sentence)}[/]",
            *(f"note: {shown(note)}" for note in part.notes),
            "",
        ]
    return Group(*parts)


def title(part: MethodEffects) -> str:
    """Method, data, metric and rule on one line, unescaped."""
    mark = " (oracle)" if part.oracle else ""
    where = f"{part.dataset}, {part.backbone}"
    what = f"{metric_name(part.metric)} on {part.split}"
    return f"{part.method}: {what} ({where}, selected by {part.rule}{mark})"


def _shares(part: MethodEffects) -> Table:
    table = plain_table("share of the spread, %")
    table.add_column("", overflow="fold")
    for name in ("share", "by chance", "p", "range, points"):
        table.add_column(name, justify="right")
    for effect in part.options:
        table.add_row(
            shown(effect.option),
            percent(effect.share),
            percent(effect.by_chance),
            _p(effect),
            percent(effect.range),
        )
    if not part.balanced:
        table.add_row("several options, not to be told apart", percent(part.shared))
    label = "interactions" if part.seeds is not None else "interactions and seeds"
    table.add_row(label, percent(part.interactions), percent(part.interactions_by_chance))
    if part.seeds is not None:
        table.add_row("seeds", percent(part.seeds))
    return table


def _p(effect: Effect) -> str:
    if math.isnan(effect.p_value):
        return "–"
    return "<0.001" if effect.p_value < 0.001 else f"{effect.p_value:.3f}"


def _values(part: MethodEffects) -> Table:
    table = plain_table("mean of each value, %")
    table.add_column("option", overflow="fold")
    table.add_column("value", overflow="fold", max_width=30)
    for name in ("mean", "effect, points", "runs"):
        table.add_column(name, justify="right")
    for effect in part.options:
        for index, value in enumerate(effect.values):
            error = "" if math.isnan(value.error) else f" ± {percent(value.error)}"
            table.add_row(
                shown(effect.option) if index == 0 else "",
                shown(value.value),
                f"{percent(value.mean)}{error}",
                f"{100 * value.effect:+.1f}",
                f"{value.runs:,}",
                end_section=index == len(effect.values) - 1,
            )
    table.caption = "± standard error; effect: above or below the mean of all runs"
    return table
