"""The figures of a part: what is drawn. Every one has its numbers in a table of the page too."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from embedcal.answers.comparison import metric_name
from embedcal.comparing.verdicts import counted
from embedcal.reporting.content import Configuration, Curve, Figure, Line
from embedcal.reporting.inline import COLOURS, drawing, named, svg

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from embedcal.comparing.effects import MethodEffects

WIDTH = 4.0  # inches: on a phone the letters are still to be read
MARKERS = "osD^vPX*"
SERIES = 8  # rows told apart by colour and shape
POINTS = 1500  # configurations drawn behind the rows
BARS, GROUPS = 6, 12  # rows and groups as bars; more are for the table
NAMED = 14  # rows with a name beside their point

Point = tuple[float, float]
Box = tuple[float, float, float, float]


def pareto(points: Sequence[Point]) -> list[int]:
    """The points that no other beats in both, by the first coordinate; of equal ones the first."""
    order = sorted(range(len(points)), key=lambda i: (-points[i][0], -points[i][1], i))
    kept: list[int] = []
    best = -math.inf
    for i in order:
        if points[i][1] > best:
            kept.append(i)
            best = points[i][1]
    return kept[::-1]


def scatter(
    lines: Sequence[Line], others: Sequence[Configuration], metric: str, name: str
) -> Figure:
    """Average against the compared metric: every row with intervals, and the Pareto line."""
    second = lines[0].second
    with drawing(WIDTH, 3.9) as figure:
        ax = figure.subplots()
        faint = [each for each in others if not each.chosen][:POINTS]
        ax.scatter(
            [100 * each.average for each in faint],
            [100 * each.worst for each in faint],
            s=7, color=COLOURS["muted"], alpha=0.6, linewidths=0, zorder=1,
        )  # fmt: skip
        known = [line for line in lines if line.average is not None]
        points = [(100 * float(line.average or 0), 100 * line.row.mean) for line in known]
        best = pareto(points)
        whiskers: list[tuple[Point, Point]] = []
        front = [points[i] for i in best]
        ax.plot(*zip(*front, strict=True), color=COLOURS["muted"], lw=1.2, ls="--", zorder=2)
        for place, (line, (x, y)) in enumerate(zip(known, points, strict=True)):
            colour = _colour(place)
            across = _errors(line.average_interval, x)
            along = _errors(getattr(line.intervals, metric, None), y)
            whiskers.append(((x - across[0][0], y), (x + across[1][0], y)))
            whiskers.append(((x, y - along[0][0]), (x, y + along[1][0])))
            ax.errorbar(x, y, along, across, fmt="none", ecolor=colour, elinewidth=1.3, zorder=3)
            ax.plot(
                x, y, _marker(place), ms=6.5, color=colour, mec=COLOURS["paper"], mew=0.8, zorder=4
            )
        ax.set_xlabel(f"{metric_name(second)} accuracy on test, %")
        ax.set_ylabel(f"{metric_name(metric)} accuracy on test, %")
        ax.grid(visible=True)
        ax.margins(0.08)
        named_rows = range(len(known)) if len(known) <= NAMED else best
        labels = [known[i].row.label for i in named_rows]
        _label(ax, [points[i] for i in named_rows], labels, whiskers)
        on_line = ", ".join(known[i].row.label for i in best)
        words = (
            f"Each mark is a row of the table above with its 95 % intervals. The dashed line joins "
            f"what no other row beats in both accuracies: {on_line}."
        )
        if faint:
            words += (
                f" Dots: {counted(len(faint), 'configuration')} that validation did not choose."
            )
        title = f"{metric_name(second)} against {metric_name(metric)}"
        return _made(figure, name, title[0].upper() + title[1:], words)


def curves(found: Sequence[Curve], worst: str, name: str) -> Figure:
    """Validation by epoch: the mean over seeds, the range of seeds, and the epoch that was kept."""
    with drawing(WIDTH, 4.6) as figure:
        panels = figure.subplots(2, 1, sharex=True)
        for curve in found[:SERIES]:
            for ax, values in zip(panels, (curve.worst, curve.mean), strict=True):
                table = 100 * np.array(values)
                epochs, colour = np.arange(1, table.shape[1] + 1), _colour(curve.place)
                middle = table.mean(axis=0)
                ax.fill_between(epochs, table.min(0), table.max(0), color=colour, alpha=0.15, lw=0)
                ax.plot(
                    epochs, middle, color=colour, lw=1.6, label=named(curve.label, 28),
                    marker=_marker(curve.place), markevery=[],  # in the legend alone
                )  # fmt: skip
                for seed, kept in enumerate(curve.kept):
                    if 1 <= kept <= table.shape[1]:
                        ax.plot(
                            kept, table[seed, kept - 1], _marker(curve.place), ms=5, color=colour,
                            mec=COLOURS["paper"], mew=0.7,
                        )  # fmt: skip
        for ax, what in zip(panels, (metric_name(worst), "mean"), strict=True):
            ax.set_ylabel(f"{what}, %")
            ax.grid(visible=True)
        panels[1].set_xlabel("epoch")
        panels[1].xaxis.get_major_locator().set_params(integer=True)
        _legend(figure, panels[0])
        words = (
            "Lines: the mean over seeds; bands: from the lowest seed to the highest; marks: the "
            "epoch that the selection rule kept of each seed."
        )
        if len(found) > SERIES:
            words += f" The first {SERIES} of {len(found)} rows are drawn."
        return _made(figure, name, "Validation by epoch", words)


def groups(lines: Sequence[Line], names: Sequence[str], name: str) -> Figure | None:
    """Bars of every group with intervals; None for more groups than can be drawn."""
    shown = [line for line in lines if line.groups][:BARS]
    if not shown or not 0 < len(names) <= GROUPS:
        return None
    height = 0.8 / len(shown)
    with drawing(WIDTH, 1.0 + len(names) * (0.2 + 0.17 * len(shown))) as figure:
        ax = figure.subplots()
        for place, line in enumerate(shown):
            at = np.arange(len(names)) + (place - (len(shown) - 1) / 2) * height
            values = 100 * np.array(line.groups)
            ends = getattr(line.intervals, "groups", None)
            ax.barh(
                at, values, 0.86 * height, color=_colour(place), label=named(line.row.label, 28)
            )
            if ends is not None:
                spread = np.array([_errors(pair, x) for pair, x in zip(ends, values, strict=True)])
                ax.errorbar(
                    values, at, xerr=spread[:, :, 0].T, fmt="none", ecolor=COLOURS["ink"],
                    elinewidth=0.9,
                )  # fmt: skip
        wrapped = ["\n".join(textwrap.wrap(named(each, 60), 22)) or " " for each in names]
        ax.set_yticks(range(len(names)), wrapped)
        ax.invert_yaxis()
        ax.set_xlim(0, 100)
        ax.set_xlabel("accuracy on test, %")
        ax.grid(visible=True, axis="x")
        ax.set_axisbelow(True)
        _legend(figure, ax)
        words = "Test accuracy of each group, with 95 % intervals."
        if len(lines) > len(shown):
            words += f" The first {len(shown)} of {len(lines)} rows are drawn; the table has all."
        return _made(figure, name, "Accuracy in each group", words)


def effects(part: MethodEffects, name: str) -> Figure:
    """The share of each option in the spread, then the mean of each of its values."""
    together = "interactions" if part.seeds is not None else "interactions, seeds"
    bars = [(each.option, each.share, "s0") for each in part.options]
    bars.append((together, part.interactions, "s1"))
    bars += [("seeds", part.seeds, "muted")] if part.seeds is not None else []
    values = [(each, value) for each in part.options for value in each.values][:40]
    heights = [0.26 * len(bars) + 0.7, 0.24 * len(values) + 0.7]
    with drawing(WIDTH, sum(heights)) as figure:
        top, below = figure.subplots(2, 1, height_ratios=heights)
        for y, (_, share, role) in enumerate(bars):
            top.barh(y, 100 * share, 0.62, color=COLOURS[role])
            top.annotate(
                f"{100 * share:.0f}", (100 * share, y), (3, 0), textcoords="offset points",
                va="center",
            )  # fmt: skip
        _rows(top, [label for label, _, _ in bars])
        top.set_xlim(0, max(10.0, 112 * max(share for _, share, _ in bars)))
        top.set_xlabel("share of the spread, %")
        for y, (_, value) in enumerate(values):
            error = 0.0 if math.isnan(value.error) else 100 * value.error
            below.errorbar(
                100 * value.mean, y, xerr=error, fmt="D", ms=4.5, color=COLOURS["s0"], lw=1.4
            )
        below.axvline(100 * part.mean, color=COLOURS["muted"], lw=1, ls="--", zorder=0)
        _rows(below, [f"{each.option} = {value.value}" for each, value in values])
        below.set_xlabel(f"{metric_name(part.metric)} on {part.split}, %, ± standard error")
        below.grid(visible=True, axis="x")
        words = f"{part.sentence} Dashed: the mean of all {part.runs:,} runs."
        return _made(figure, name, f"What matters in {part.method}", words)


def _made(figure: Any, name: str, title: str, words: str) -> Figure:
    label = f"{title}. {words} The numbers are in the table."
    return Figure(name=name, title=title, markup=svg(figure, name, label), words=words)


def _colour(place: int) -> str:
    return COLOURS[f"s{place % SERIES}"]


def _marker(place: int) -> str:
    return MARKERS[(place + place // SERIES) % SERIES]  # with its colour told apart up to 64


def _errors(ends: tuple[float, float] | None, value: float) -> list[list[float]]:
    """Lengths below and above, for errorbar; nothing where there is no interval."""
    if ends is None or math.isnan(ends[0]) or math.isnan(value):
        return [[0.0], [0.0]]
    return [[max(0.0, value - 100 * ends[0])], [max(0.0, 100 * ends[1] - value)]]


def _rows(ax: Axes, labels: Sequence[str]) -> None:
    ax.set_yticks(range(len(labels)), [named(label, 28) for label in labels])
    ax.set_ylim(len(labels) - 0.4, -0.6)


def _legend(figure: Any, ax: Axes) -> None:
    handles, labels = ax.get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside lower left", ncols=2, frameon=False, fontsize=8.5,
        handlelength=1.2, columnspacing=1.2,
    )  # fmt: skip


def _label(
    ax: Axes,
    points: Sequence[Point],
    names: Sequence[str],
    whiskers: Sequence[tuple[Point, Point]],
) -> None:
    """A name beside each point, on the side where it covers least of what is there already."""
    figure: Any = ax.figure
    figure.canvas.draw()
    to_pixels = ax.transData.transform
    scale = figure.dpi / 72
    frame = ax.get_window_extent()
    taken: list[Box] = [(x - 4, y - 4, x + 4, y + 4) for x, y in map(to_pixels, points)]
    for low, high in whiskers:
        (x0, y0), (x1, y1) = to_pixels(low), to_pixels(high)
        taken.append((x0 - 2, y0 - 2, x1 + 2, y1 + 2))
    for (x, y), name in zip(points, names, strict=True):
        text = named(name, 22)
        wide, tall = 5.4 * len(text) * scale, 10 * scale  # of nine-point letters, about
        px, py = to_pixels((x, y))
        sides = []
        for dx, dy, ha in (
            (7, 0, "left"),
            (-7, 0, "right"),
            (0, 10, "center"),
            (0, -10, "center"),
            (7, 10, "left"),
            (-7, 10, "right"),
            (7, -10, "left"),
            (-7, -10, "right"),
        ):
            left = px + dx * scale - {"left": 0.0, "right": wide, "center": wide / 2}[ha]
            bottom = py + dy * scale - tall / 2
            box = (left, bottom, left + wide, bottom + tall)
            outside = max(0.0, frame.x0 - box[0]) + max(0.0, box[2] - frame.x1)
            cost = 1e4 * outside + sum(_overlap(box, other) for other in taken)
            sides.append((cost, dx, dy, ha, box))
        _, dx, dy, ha, box = min(sides, key=lambda side: side[0])
        taken.append(box)
        ax.annotate(
            text, (x, y), (dx, dy), textcoords="offset points", ha=ha, va="center", fontsize=8.5,
            zorder=5, annotation_clip=False,
        )  # fmt: skip


def _overlap(one: Box, other: Box) -> float:
    across = min(one[2], other[2]) - max(one[0], other[0])
    along = min(one[3], other[3]) - max(one[1], other[1])
    return max(0.0, across) * max(0.0, along)
