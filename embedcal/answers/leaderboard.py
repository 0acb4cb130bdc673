"""A leaderboard for people: in the terminal, in LaTeX, in Markdown. Percent with one decimal."""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterator
from itertools import groupby
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.table import Table

from embedcal.answers.comparison import mean, metric_name, one_line, selection, tex
from embedcal.markdown import escaped, table_lines
from embedcal.tables import interval, labels_used, percent, plain_table, shown

if TYPE_CHECKING:
    from embedcal.leading import Leaderboard, Standing

HEADS = (
    "reads",
    "method",
    "setting",
    "chosen by",
    "tried",
    "seeds",
)
WIDTHS = (11, 10, 8, 5, 5, 6)  # of the columns of numbers, so that all budgets have one width
LEGEND = (
    "±: deviation over seeds. 95 %: for the test rows. rank: the places within its budget that "
    "test rows and seeds allow, all of them together with 95 % confidence. tried: settings that "
    "the rule chose from. s/run: of the setting chosen; s all: of every run of every setting; "
    "first runs are counted in both.",
    "A method stands in each budget of labels that a rule brings it to; what the choice of an "
    "epoch or of a setting reads counts.",
)
IN_SAMPLE = (
    "* fits rows of val: its score there chooses nothing, so its defaults stand, unless a grid "
    "said otherwise."
)


def heading(board: Leaderboard) -> str:
    """Data, encoder, metric and rules on one line, unescaped."""
    mark = " (oracle: an upper bound, not a result)" if board.oracle else ""
    return (
        f"{board.dataset}, {board.backbone}: {metric_name(board.metric)} on test, chosen by "
        f"{' or '.join(board.rules)}{mark}"
    )


def leaderboard_report(board: Leaderboard) -> RenderableType:
    """A table for each budget of labels, how each row came about, what was left out, the cost."""
    parts: list[RenderableType] = [f"[bold]{shown(heading(board))}[/]", ""]
    parts += [_standings(board, kind, rows) for kind, rows in _budgets(board)]
    parts += [_origins(board), *map(shown, _legend(board)), ""]
    if board.refused:
        parts.append(_refused(board))
    parts += [f"note: {shown(line)}" for line in board.notes]
    again = "embedcal compare " + shlex.quote(str(board.folder))
    parts += ["", shown(cost(board)), "Next:", f"  {shown(again)}"]
    return Group(*parts)


def cost(board: Leaderboard) -> str:
    """Runs, those that were there before, and seconds of runs and of this command."""
    failed = f", {board.failed:,} failed" if board.failed else ""
    return (
        f"{board.runs:,} runs ({board.effort}), {board.reused:,} of them there before{failed}: "
        f"{board.run_seconds:,.1f} s of runs, {board.seconds:,.1f} s for this command."
    )


def _budgets(board: Leaderboard) -> Iterator[tuple[str, list[Standing]]]:
    for kind, rows in groupby(board.standings, key=lambda standing: standing.kind):
        yield kind, list(rows)


def _beside(board: Leaderboard) -> str:
    """The second accuracy of a row."""
    measured = any("train_weighted" in standing.row.metrics for standing in board.standings)
    return "train_weighted" if measured and board.metric != "train_weighted" else "mean"


def _legend(board: Leaderboard) -> list[str]:
    starred = any(standing.row.in_sample for standing in board.standings)
    return [*LEGEND, *([IN_SAMPLE] if starred else [])]


def _standings(board: Leaderboard, kind: str, rows: list[Standing]) -> Table:
    table = plain_table(f"[bold]reads {kind}[/]")
    table.add_column("method", width=14, overflow="fold")
    beside = metric_name(_beside(board)).replace("-", "-\n")
    names = (metric_name(board.metric), "95 %", beside, "rank", "s/run", "s all")
    for name, width in zip(names, WIDTHS, strict=True):
        table.add_column(name, justify="right", width=width, overflow="fold")
    for standing in rows:
        row = standing.row
        table.add_row(
            shown(row.label),
            mean(row),
            interval(row.interval),
            percent(row.metrics.get(_beside(board))),
            rank(standing),
            seconds(standing.seconds),
            seconds(standing.search_seconds),
        )
    return table


def _origins(board: Leaderboard) -> Table:
    table = plain_table("[bold]how each came about[/]")
    table.add_column("method", overflow="fold")
    for name in ("labels read", "chosen by", "tried", "setting"):
        table.add_column(name, overflow="fold", justify="right" if name == "tried" else "left")
    for standing in board.standings:
        table.add_row(
            shown(standing.row.label),
            shown(labels_used(standing.reads)),
            shown(chooser(standing)),
            tried(standing),
            shown(standing.options or "defaults"),
        )
    return table


def _refused(board: Leaderboard) -> Table:
    table = plain_table("[bold]left out[/]")
    table.add_column("method", overflow="fold")
    table.add_column("why", overflow="fold")
    for name, reason in board.refused.items():
        table.add_row(shown(name), shown(reason))
    return table


def rank(standing: Standing) -> str:
    """ "2", or "1–4" where others are not shown to differ."""
    best, worst = standing.rank
    return f"{best}" if best == worst else f"{best}–{worst}"


def chooser(standing: Standing) -> str:
    """What chose the epoch, or within the method; and the setting, where that was another."""
    own = selection(standing.row)
    if not standing.rule or standing.rule == standing.row.selection:
        return own
    return f"{own}; setting by {standing.rule}" if own != "none" else f"setting by {standing.rule}"


def tried(standing: Standing) -> str:
    """How many settings the rule chose from, starred where they fit rows of val."""
    return f"{standing.row.configurations}{'*' * standing.row.in_sample}"


def seconds(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:,.1f}" if value < 1000 else f"{value:,.0f}"


def _heads(board: Leaderboard) -> list[str]:
    words = metric_name(board.metric)
    beside = metric_name(_beside(board))
    return [*HEADS, words, "95 % interval", beside, "rank", "s a run", "s in all"]


def _cells(board: Leaderboard, standing: Standing) -> list[str]:
    """The columns of a table to be printed, unescaped."""
    row = standing.row
    return [
        standing.kind,
        row.label,
        standing.options or "defaults",
        chooser(standing),
        tried(standing),
        f"{len(row.seeds)}",
        mean(row),
        interval(row.interval) or "–",
        percent(row.metrics.get(_beside(board))),
        rank(standing),
        seconds(standing.seconds),
        seconds(standing.search_seconds),
    ]


def markdown(board: Leaderboard) -> str:
    """One table, a line for each method left out, notes and cost."""
    lines = [f"**{escaped(heading(board))}**, percent", ""]
    rows = (_cells(board, standing) for standing in board.standings)
    lines += table_lines(_heads(board), rows, words=4)
    lines += ["", *(f"{escaped(line)}  " for line in _legend(board))]
    if board.refused:
        lines += ["", "Left out:", ""]
        lines += [f"* {escaped(f'{name}: {why}')}" for name, why in board.refused.items()]
    lines += ["", *(f"{escaped(note)}  " for note in (cost(board), *board.notes))]
    return "\n".join(lines).rstrip() + "\n"


def latex(board: Leaderboard) -> str:
    """A table with a rule between budgets; needs the package booktabs."""
    blocks = [
        "\n".join(" & ".join(map(tex, _cells(board, one))) + r" \\" for one in rows)
        for _, rows in _budgets(board)
    ]
    heads = _heads(board)
    caption = f"{heading(board)}. Percent. {' '.join(_legend(board))}"
    return (
        "\n".join(
            [
                "% needs \\usepackage{booktabs}",
                *(f"% left out: {one_line(f'{k}: {v}')}" for k, v in board.refused.items()),
                r"\begin{table}",
                rf"\caption{{{tex(caption)}}}",
                rf"\begin{{tabular}}{{{'l' * 4}{'r' * (len(heads) - 4)}}}",
                r"\toprule",
                " & ".join(map(tex, heads)) + r" \\",
                r"\midrule",
                "\n\\midrule\n".join(blocks),
                r"\bottomrule",
                r"\end{tabular}",
                r"\end{table}",
            ]
        )
        + "\n"
    )
