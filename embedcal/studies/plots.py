"""Figures of a study: points with intervals, lines over an option, or a scatter over a cost.

Colours are those of Okabe and Ito (2008), told apart by the colour-blind, and every series has a
marker of its own, or a number. The same values give the same bytes.
"""

from __future__ import annotations

import math
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

from embedcal.datasets.printable import printable
from embedcal.figures import STYLE, write
from embedcal.grids.settings import written
from embedcal.studies.findings import metric_words, value_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from embedcal.studies.preset import Preset
    from embedcal.studies.result import Block
    from embedcal.studies.rows import Row

COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#222222")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
INK, GREY = "#222222", "#8C8C8C"
NAME = 34  # characters of a name on one line
PANEL = 3.4  # inches
OWN: dict[Any, Any] = {
    **STYLE,
    "font.size": 9,
    "axes.edgecolor": GREY,
    "axes.titlesize": 9.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
}


def draw(chosen: Preset, block: Block, stem: Path) -> tuple[Path, ...]:
    """The figure of one block as ``STEM.svg`` and ``STEM.png``."""
    import matplotlib

    kinds = {"points": _points, "lines": _lines, "scatter": _scatter}
    with matplotlib.rc_context(OWN):
        figure = kinds[chosen.figure](chosen, block)
        figure.suptitle(_wrapped(f"{block.dataset}, {block.backbone}, test", 90), fontsize=9)
        files = (stem.with_suffix(suffix) for suffix in (".svg", ".png"))
        return tuple(write(figure, file, mend="another folder with --out") for file in files)


def _figure(
    panels: int, width: float, height: float, *, share: bool = True
) -> tuple[Figure, list[Axes]]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, panels, squeeze=False, sharey=share)
    return figure, list(axes[0])


def _points(chosen: Preset, block: Block) -> Figure:
    """A row for each configuration, a panel for each metric; references are filled squares."""
    names = [_wrapped(row.label, NAME) for row in block.rows]
    height = 1.3 + sum(0.12 + 0.15 * (name.count("\n") + 1) for name in names)
    figure, axes = _figure(len(block.metrics), 2.2 + 2.6 * len(block.metrics), height)
    references = {row.reference for row in block.rows}
    for ax, metric in zip(axes, block.metrics, strict=True):
        for y, row in enumerate(block.rows):
            score = row.scores[metric]
            first = row.label in references
            low, high = _errors(score.mean, score.interval)
            ax.errorbar(
                100 * score.mean, y, xerr=[[low], [high]], fmt="s" if first else "o", ms=5,
                color=COLOURS[1] if first else COLOURS[0], ecolor=GREY, capsize=2, lw=1,
            )  # fmt: skip
        ax.set_xlabel(f"{metric_words(metric)}, %")
        ax.grid(axis="x", lw=0.4, color="#DDDDDD")
    axes[0].set_yticks(range(len(names)), names)
    axes[0].set_ylim(len(names) - 0.5, -0.5)
    figure.supxlabel("bars: 95 % for the test rows; squares: what others are compared with", size=8)
    return figure


def _lines(chosen: Preset, block: Block) -> Figure:
    """A panel for each metric; values of the option in order; rows without it are dashed lines."""
    (option,) = chosen.x[:1]
    rows = [row for row in block.rows if option in row.options]
    # 0 means "all of them" for the options that studies are drawn over, so that it is the largest.
    places = sorted({row.options[option] for row in rows}, key=lambda v: math.inf if v == 0 else v)
    names = [chosen.names.get(f"{option}={written(v)}", written(v)) for v in places]
    series = list(dict.fromkeys(row.series for row in rows))
    others = [row for row in block.rows if option not in row.options]
    figure, axes = _figure(len(block.metrics), 1.2 + PANEL * len(block.metrics), 4.0, share=False)
    for ax, metric in zip(axes, block.metrics, strict=True):
        for index, name in enumerate(series):
            own = {row.options[option]: row.scores[metric] for row in rows if row.series == name}
            shift = 0.5 * (index - (len(series) - 1) / 2) / max(len(series), 1)
            found = [(x + shift, own[place]) for x, place in enumerate(places) if place in own]
            errors = [_errors(score.mean, score.interval) for _, score in found]
            ax.errorbar(
                [x for x, _ in found], [100 * score.mean for _, score in found],
                yerr=[[low for low, _ in errors], [high for _, high in errors]],
                color=COLOURS[index % len(COLOURS)], marker=MARKERS[index % len(MARKERS)],
                ms=5, lw=1, capsize=2, label=_wrapped(name, NAME),
            )  # fmt: skip
        for index, row in enumerate(others):
            style = ("--", ":", "-.")[index % 3]
            ax.axhline(100 * row.scores[metric].mean, color=GREY, ls=style, lw=1, label=row.label)
        ax.set_xticks(range(len(places)), [_wrapped(name, 10) for name in names])
        ax.set_xlabel(option.replace("_", " "))
        ax.set_title(f"{metric_words(metric)}, %")
        ax.grid(axis="y", lw=0.4, color="#DDDDDD")
    handles, labels = axes[0].get_legend_handles_labels()
    if len(labels) > 1:
        figure.legend(
            handles, labels, loc="outside lower center", ncols=3, frameon=False, fontsize=8
        )
    return figure


def _scatter(chosen: Preset, block: Block) -> Figure:
    """The first metric over each thing of ``x``; points are numbered as in the list beside."""
    metric = block.metrics[0]
    height = max(4.0, 0.9 + 0.17 * len(block.rows))
    figure, axes = _figure(len(chosen.x), 3.0 + PANEL * len(chosen.x), height)
    for ax, name in zip(axes, chosen.x, strict=True):
        share = name in ("precision", "recall")
        for index, row in enumerate(block.rows):
            x, score = value_of(row, name), row.scores[metric]
            if all(math.isnan(value_of(row, other)) for other in chosen.x):
                ax.axhline(100 * score.mean, color=GREY, ls="--", lw=1)
                ax.annotate(
                    str(index + 1), (1, 100 * score.mean), color=INK, size=7,
                    xycoords=("axes fraction", "data"), xytext=(2, -2), textcoords="offset points",
                )  # fmt: skip
            if math.isnan(x) or (not share and x <= 0):
                continue
            low, high = _errors(score.mean, score.interval)
            ax.errorbar(
                100 * x if share else x, 100 * score.mean, yerr=[[low], [high]],
                fmt=MARKERS[index % len(MARKERS)], color=COLOURS[index % len(COLOURS)],
                ecolor="#CCCCCC", lw=1, ms=4,
            )  # fmt: skip
            ax.annotate(
                str(index + 1), (100 * x if share else x, 100 * score.mean), color=INK, size=7,
                xytext=(4, 3), textcoords="offset points",
            )  # fmt: skip
        if not share:
            ax.set_xscale("log")
            ax.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        ax.set_xlabel(f"{name}, %" if share else name)
        ax.grid(lw=0.4, color="#DDDDDD")
    axes[0].set_ylabel(f"{metric_words(metric)}, %")
    listed = _numbered(chosen, block.rows)
    figure.legend(
        handles=listed, loc="outside right upper", frameon=False, fontsize=8,
        title="bars: 95 % for the test rows", title_fontsize=8,
    )  # fmt: skip
    return figure


def _numbered(chosen: Preset, rows: Sequence[Row]) -> list[Any]:
    """What the numbers stand for; a dashed line where a row has no place on any axis."""
    from matplotlib.lines import Line2D

    listed = []
    for index, row in enumerate(rows):
        label = f"{index + 1} {_wrapped(row.label, NAME)}"
        if all(math.isnan(value_of(row, name)) for name in chosen.x):
            listed.append(Line2D([], [], color=GREY, ls="--", lw=1, label=label))
            continue
        marker, colour = MARKERS[index % len(MARKERS)], COLOURS[index % len(COLOURS)]
        listed.append(Line2D([], [], ls="", ms=4, marker=marker, color=colour, label=label))
    return listed


def _errors(mean: float, ends: tuple[float, float]) -> tuple[float, float]:
    """Lengths of a bar below and above, in percent, never below 0."""
    return max(0.0, 100 * (mean - ends[0])), max(0.0, 100 * (ends[1] - mean))


def _wrapped(text: str, width: int) -> str:
    return textwrap.fill(printable(text, longest=3 * width), width)
