"""Figures of a comparison and of a sensitivity, as SVG or PNG by the file's suffix.

Colours are those of Okabe and Ito (2008), told apart by the colour-blind; nothing is said by colour
alone. The same values give the same bytes: no dates, fixed ids.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from embedcal.answers.comparison import heading, metric_name
from embedcal.answers.effects import title
from embedcal.datasets.places import check_place
from embedcal.datasets.printable import printable
from embedcal.figures import STYLE, write
from embedcal.types import EmbedcalError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from embedcal.comparing.comparison import Block, Comparison
    from embedcal.comparing.effects import MethodEffects, Sensitivity

SUFFIXES = (".svg", ".png")
INK, BLUE, ORANGE, GREY = "#222222", "#0072B2", "#E69F00", "#8C8C8C"
WIDTH = 7.2  # inches
NAME = 32  # characters of a row's name on one line
MOST_NAME = 96  # and in all


def comparison_plot(comparison: Comparison, path: str | Path) -> Path:
    """The compared metric of each row: mean, 95 % interval for the test rows, and every seed.

    One panel for each cache. EmbedcalError for a suffix that is neither .svg nor .png.
    """
    file = _file(path)
    heights = [
        sum(0.2 + 0.15 * len(_wrapped(row.label, NAME).splitlines()) for row in block.rows) + 1.25
        for block in comparison.blocks
    ]
    with _figure(file, heights) as axes:
        for ax, block in zip(axes, comparison.blocks, strict=True):
            _rows(ax, block)
    return file


def sensitivity_plot(sensitivity: Sensitivity, path: str | Path) -> Path:
    """For each method the shares of the spread as bars, then the mean of each value with errors.

    EmbedcalError for a suffix that is neither .svg nor .png.
    """
    file = _file(path)
    heights = []
    for part in sensitivity.methods:
        values = sum(len(effect.values) + 1 for effect in part.options)
        heights += [0.3 * (len(part.options) + 2) + 1.15, 0.24 * values + 0.95]
    with _figure(file, heights) as axes:
        for index, part in enumerate(sensitivity.methods):
            _shares(axes[2 * index], part)
            _values(axes[2 * index + 1], part)
    return file


def check_plot(path: Path | None) -> None:
    """Before any work: the suffix of a figure that is wanted, and a place that can be written."""
    if path is not None:
        check_place(_file(path), option="--plot")


def _file(path: str | Path) -> Path:
    file = Path(path)
    if file.suffix.lower() not in SUFFIXES:
        raise EmbedcalError(
            f"expected a figure's name to end in .svg or .png, found '{file.name}': rename it"
        )
    return file


@contextmanager
def _figure(file: Path, heights: list[float]) -> Iterator[list[Axes]]:
    """Panels below each other; written whole when the block ends."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    style: dict[Any, Any] = {
        **STYLE,
        "font.size": 9,
        "axes.edgecolor": GREY,
        "axes.titlesize": 9.5,
        "text.color": INK,
        "axes.labelcolor": INK,
        "xtick.color": INK,
        "ytick.color": INK,
    }
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(WIDTH, sum(heights)), layout="constrained")
        FigureCanvasAgg(figure)
        panels = figure.subplots(len(heights), 1, squeeze=False, height_ratios=heights)
        yield [row[0] for row in panels]
        write(figure, file, dpi=160)


def _rows(ax: Axes, block: Block) -> None:
    for y, row in enumerate(block.rows):
        if row.interval is not None:
            low, high = (100 * end for end in row.interval)
            ax.plot([low, high], [y, y], color=BLUE, lw=5, alpha=0.3, solid_capstyle="butt")
        ax.plot([100 * row.mean], [y], "|", ms=15, mew=2.4, color=BLUE)
        seeds = [100 * value for value in row.values]
        ax.plot(seeds, [y] * len(seeds), "o", ms=3.5, mfc="white", mec=INK, mew=0.8)
    names = [f"{row.label} (oracle)" if row.oracle else row.label for row in block.rows]
    _named(ax, names)
    ax.set_xlabel(f"{metric_name(block.metric)} on test, %")
    ax.set_title(_wrapped(heading(block), 88), loc="left")
    _legend(ax)


def _legend(ax: Axes) -> None:
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], marker="|", ms=11, mew=2.4, color=BLUE, lw=0, label="mean"),
        Line2D([], [], color=BLUE, lw=5, alpha=0.3, label="95 % interval, test rows"),
        Line2D([], [], marker="o", ms=3.5, mfc="white", mec=INK, mew=0.8, lw=0, label="one seed"),
    ]
    ax.legend(
        handles=handles,
        loc="upper left",
        bbox_to_anchor=(0, 1),
        bbox_transform=ax.transAxes,
        ncols=3,
        frameon=False,
        fontsize=8,
        borderaxespad=0.2,
        handletextpad=0.5,
    )
    bottom, top = ax.get_ylim()
    ax.set_ylim(bottom, top - 0.8)  # room for the legend above the first row


def _shares(ax: Axes, part: MethodEffects) -> None:
    together = "interactions" if part.seeds is not None else "interactions and seeds"
    bars = [(effect.option, effect.share, BLUE) for effect in part.options]
    bars.append((together, part.interactions, ORANGE))
    if part.seeds is not None:
        bars.append(("seeds", part.seeds, GREY))
    for y, (_, share, colour) in enumerate(bars):
        ax.barh(y, 100 * share, height=0.62, color=colour)
        ax.annotate(
            f"{100 * share:.1f}", (100 * share, y), (3, 0), textcoords="offset points", va="center"
        )
    for y, effect in enumerate(part.options):
        if not math.isnan(effect.by_chance):
            x = 100 * effect.by_chance
            ax.plot([x, x], [y - 0.36, y + 0.36], color=INK, lw=1.2)
    _named(ax, [name for name, _, _ in bars])
    ax.set_xlim(0, max(10.0, 112 * max(share for _, share, _ in bars)))
    ax.set_xlabel("share of the spread, %  (black line: what chance gives an option)")
    ax.set_title(_wrapped(title(part), 88), loc="left")


def _values(ax: Axes, part: MethodEffects) -> None:
    names: list[str] = []
    ticks: list[float] = []
    y = 0.0
    for effect in part.options:
        for value in effect.values:
            error = 0.0 if math.isnan(value.error) else 100 * value.error
            ax.errorbar(
                100 * value.mean, y, xerr=error, fmt="D", ms=4.5, color=BLUE, ecolor=BLUE, lw=1.4
            )
            names.append(f"{effect.option} = {value.value}")
            ticks.append(y)
            y += 1
        y += 0.6
    ax.axvline(100 * part.mean, color=GREY, lw=1, ls="--", zorder=0)
    _named(ax, names, ticks)
    ax.set_xlabel(
        f"{metric_name(part.metric)} on {part.split}, %: mean of the runs with each value "
        "(± standard error; dashed: all)"
    )


def _named(ax: Axes, names: list[str], ticks: list[float] | None = None) -> None:
    """Names on the left from top to bottom, light lines across, no box."""
    at = ticks if ticks is not None else [float(i) for i in range(len(names))]
    ax.set_yticks(at, [_wrapped(name, NAME) for name in names])
    ax.set_ylim(at[-1] + 0.6, at[0] - 0.6)
    ax.tick_params(axis="y", length=0)
    ax.grid(axis="x", color="#DDDDDD", lw=0.7)
    ax.set_axisbelow(True)
    for side in ("top", "right", "left"):
        ax.spines[side].set_visible(False)


def _wrapped(text: str, width: int) -> str:
    return textwrap.fill(printable(text, longest=max(MOST_NAME, 2 * width)), width)
