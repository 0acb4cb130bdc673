"""A study as Markdown: question, figures, a table for each cache, what was found, what it cost."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING

from embedcal.comparing.verdicts import counted, points
from embedcal.markdown import escaped, table_lines
from embedcal.studies.findings import metric_words

if TYPE_CHECKING:
    from embedcal.studies.result import Block, Cost, Study
    from embedcal.studies.rows import Row, Score


def markdown(study: Study) -> str:
    """The page that lies in the study's folder; figures are linked by their file names."""
    lines = [f"# {escaped(study.title)}", "", escaped(study.question), ""]
    if study.quick:
        lines += ["**A quick run: two epochs and one seed. Its numbers mean nothing.**", ""]
    for block in study.blocks:
        lines += [f"## {escaped(block.dataset)}, {escaped(block.backbone)}", ""]
        figures = (figure.name for figure in block.figures if figure.suffix == ".svg")
        lines += [f"![{escaped(study.title)}]({name})" for name in figures]
        lines += ["", *table_lines(columns(block), (cells(block, row) for row in block.rows))]
        lines += ["", *(escaped(sentence) for sentence in block.found), ""]
        lines += [f"* {escaped(note)}" for note in block.notes]
        lines.append("")
    lines += [*(escaped(sentence) for sentence in study.found), "", escaped(cost(study.cost)), ""]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines))


def columns(block: Block) -> list[str]:
    """Heads of the table: label, for each metric mean, interval and difference, then the rest."""
    heads = [""]
    for metric in block.metrics:
        words = metric_words(metric)
        heads += [f"{words}, % (95 %)", "difference, points"]
    looked = block.rows[0].looked if block.rows else {}
    return [*heads, *looked, "val", "seeds", "s/run", *(["labels read"] if _labels(block) else [])]


def _labels(block: Block) -> bool:
    """Whether rows differ in the labels that they read."""
    return len({row.labels_used for row in block.rows}) > 1


def cells(block: Block, row: Row) -> list[str]:
    """One line of the table. A difference that holds is marked with an asterisk."""
    found = [row.label]
    for metric in block.metrics:
        score = row.scores[metric]
        found += [_mean(score), _difference(score)]
    found += [_looked(name, value) for name, value in row.looked.items()]
    seeds = f"{len(row.seeds)}" + (f", {row.failed} failed" if row.failed else "")
    validation = "–" if math.isnan(row.validation) else points(row.validation)
    found += [validation + ("†" if row.in_sample else ""), seeds, f"{row.seconds:.1f}"]
    return [*found, " ".join(row.labels_used) or "none"] if _labels(block) else found


def caption(block: Block) -> str:
    """What the marks of the table mean."""
    text = "±: deviation over seeds. 95 %: for the test rows. "
    text += "Difference: from the first row or the first of its method, * where it holds "
    text += f"(p < 0.05 after Holm). val: the score of {block.rule}"
    if any(row.in_sample for row in block.rows):
        text += "; † in-sample: the method fitted these rows"
    return text + "."


def cost(spent: Cost) -> str:
    """One line: runs, those that were there before, seconds of runs and of this command."""
    text = f"{counted(spent.runs, 'run')}, {spent.reused:,} of them there before"
    if spent.failed:
        text += f", {spent.failed:,} failed"
    return (
        f"{text}: {spent.run_seconds:.1f} s of runs, {spent.wall_seconds:.1f} s for this command."
    )


def _mean(score: Score) -> str:
    spread = "" if math.isnan(score.deviation) else f" ± {points(score.deviation)}"
    return f"{points(score.mean)}{spread} ({points(score.interval[0])}–{points(score.interval[1])})"


def _difference(score: Score) -> str:
    if score.difference is None:
        return ""
    size, (low, high) = score.difference.difference, score.difference.interval
    text = points(size)
    signed = text if text.startswith("-") or text == "0.0" else f"+{text}"
    return f"{signed} ({points(low)} to {points(high)}){'*' if score.holds else ''}"


def _looked(name: str, value: float) -> str:
    if math.isnan(value):
        return "–"
    if name == "operations":
        return "0" if value == 0 else f"{value:.1e}"
    return f"{value:,.0f}" if name == "rows" else points(value)
