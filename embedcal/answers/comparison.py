"""A comparison for people: in the terminal, in LaTeX, in Markdown. Percent with one decimal."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.table import Table

from embedcal.datasets.printable import printable
from embedcal.markdown import LONGEST, escaped, table_lines
from embedcal.tables import interval, labels_used, percent, plain_table, shown

if TYPE_CHECKING:
    from embedcal.comparing.comparison import Block, Comparison, Row

MOST_GROUPS = 8  # columns that fit beside a name; JSON has all
HEADS = ("row", "labels read", "selection", "seeds", "configurations")


def metric_name(metric: str) -> str:
    """ "worst_group" as words."""
    return metric.replace("_", " ").replace("train weighted", "train-weighted")


def heading(block: Block) -> str:
    """Data, encoder, metric and rule of a block on one line, unescaped."""
    mark = " (oracle: an upper bound, not a result)" if block.oracle else ""
    mark += f", judged by {', '.join(block.attributes)}" if block.judged else ""
    return f"{block.dataset}, {block.backbone}, selected by {block.rule}{mark}"


def selection(row: Row) -> str:
    return f"{row.selection} (oracle)" if row.oracle else row.selection


def mean(row: Row) -> str:
    """ "84.9 ± 0.9", without a deviation where there is one seed."""
    spread = "" if math.isnan(row.deviation) else f" ± {percent(row.deviation)}"
    return f"{percent(row.mean)}{spread}"


def comparison_report(comparison: Comparison) -> RenderableType:
    """Accuracies, how each row came about, groups, what beats what, and notes."""
    parts: list[RenderableType] = []
    for block in comparison.blocks:
        parts += [f"[bold]{shown(heading(block))}[/]", _accuracies(block), _origins(block)]
        groups = len(block.group_names)
        if 0 < groups <= MOST_GROUPS:
            parts.append(_groups(block))
        parts += [f"- {shown(pair.sentence)}" for pair in block.pairs]
        if block.pairs:
            parts.append(f"[bold]{shown(block.summary)}[/]")
        parts.append("")
        parts += [f"note: {shown(line)}" for line in (*block.notes, block.scored)]
        parts.append("")
    parts += [f"note: {shown(line)}" for line in comparison.notes]
    return Group(*parts)


def _table(columns: Sequence[str], title: str) -> Table:
    table = plain_table(title)
    table.add_column("", overflow="fold", max_width=26)
    for name in columns:
        table.add_column(name, justify="right", overflow="fold")
    return table


def _accuracies(block: Block) -> Table:
    grouped = block.metric != "train_weighted" and "train_weighted" in block.rows[0].metrics
    second = "train_weighted" if grouped else "mean"
    beside = metric_name(second).replace("-", "-\n")  # broken here, since 80 columns are few
    table = _table((metric_name(block.metric), "95 %", beside, "rank"), "on test, %")
    table.add_column("labels read", overflow="fold")
    for row in block.rows:
        table.add_row(
            shown(row.label),
            mean(row),
            interval(row.interval),
            percent(row.metrics.get(second)),
            "–" if math.isnan(row.mean_rank) else f"{row.mean_rank:.1f}",
            shown(labels_used(row.labels_used)),
        )
    table.caption = "± deviation over seeds; 95 %: for the test rows; rank: mean over seeds"
    return table


def _origins(block: Block) -> Table:
    table = _table(("selection", "val", "tried", "seeds", "s/run"), "how each came about")
    table.add_column("chosen", overflow="fold")
    for row in block.rows:
        chosen = ", ".join(f"{name}={value}" for name, value in row.chosen.items())
        failed = f", {row.failed} failed" if row.failed else ""
        table.add_row(
            shown(row.label),
            shown(selection(row)),
            percent(row.validation) + ("*" if row.in_sample else ""),
            f"{row.configurations}",
            f"{len(row.seeds)}{failed}",
            f"{row.seconds:.1f}",
            shown(chosen),
        )
    table.caption = "val: the score that chose; tried: configurations that it chose from"
    if any(row.in_sample for row in block.rows):
        table.caption += "\n* in-sample: the method fitted these rows"
    return table


def _groups(block: Block) -> Table:
    table = _table([shown(name) for name in block.group_names], "groups on test, %")
    for row in block.rows:
        table.add_row(shown(row.label), *map(percent, row.metrics["groups"]))
    return table


def _cells(row: Row) -> list[str]:
    """The columns of a table to be printed, unescaped."""
    return [
        row.label,
        labels_used(row.labels_used),
        selection(row),
        str(len(row.seeds)),
        str(row.configurations),
        mean(row),
        interval(row.interval) or "–",
        percent(row.metrics.get("train_weighted")),
        percent(row.metrics.get("mean")),
    ]


def _heads(block: Block) -> list[str]:
    return [*HEADS, metric_name(block.metric), "95 % interval", "train-weighted", "mean"]


def markdown(comparison: Comparison) -> str:
    """A table for each cache with a line on each difference below it."""
    lines: list[str] = []
    for block in comparison.blocks:
        lines += [f"**{escaped(heading(block))}**, test accuracy in percent", ""]
        lines += [*table_lines(_heads(block), map(_cells, block.rows), words=3), ""]
        lines += [f"* {escaped(pair.sentence)}" for pair in block.pairs]
        lines += ["", *(f"{escaped(note)}  " for note in (block.scored, *block.notes)), ""]
    return "\n".join([*lines, *map(escaped, comparison.notes)]).rstrip() + "\n"


def latex(comparison: Comparison) -> str:
    """A table for each cache; needs the package booktabs."""
    parts = []
    for block in comparison.blocks:
        rows = [" & ".join(map(tex, _cells(row))) + r" \\" for row in block.rows]
        caption = f"{heading(block)}. Test accuracy in percent: mean and deviation over seeds, "
        caption += "95 % interval for the test rows; configurations: how many it was chosen from."
        parts.append(
            "\n".join(
                [
                    "% needs \\usepackage{booktabs}",
                    *(f"% {one_line(pair.sentence)}" for pair in block.pairs),
                    r"\begin{table}",
                    rf"\caption{{{tex(caption)}}}",
                    r"\begin{tabular}{lllrrrrrr}",
                    r"\toprule",
                    " & ".join(map(tex, _heads(block))) + r" \\",
                    r"\midrule",
                    *rows,
                    r"\bottomrule",
                    r"\end{tabular}",
                    r"\end{table}",
                ]
            )
        )
    return "\n\n".join(parts) + "\n"


def one_line(text: str) -> str:
    """A foreign text as a comment of LaTeX's may hold it."""
    return printable(text, longest=LONGEST)


LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    "–": "--",
} | {char: f"\\{char}" for char in "&%$#_{}"}


def tex(text: str) -> str:
    """A foreign text in which LaTeX has nothing to read."""
    return "".join(LATEX.get(char, char) for char in one_line(text))
