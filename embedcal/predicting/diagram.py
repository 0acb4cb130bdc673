"""A reliability diagram: how often rows are right, by how sure the head is, before and after."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from embedcal.datasets.printable import printable
from embedcal.predicting.calibration import Calibration, Scored
from embedcal.predicting.scores import BINS, equal_width
from embedcal.predicting.temperature import softmax
from embedcal.types import FloatArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Colours of Okabe and Ito (2008), told apart by the colour-blind; each with a marker of its own.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9")
MARKERS = ("o", "s", "^", "D", "v", "P")
INK, GREY, PALE = "#222222", "#8C8C8C", "#D0D0D0"
FEWEST = 10  # rows of a group in a bin from which its point is drawn: fewer tell nothing
NAMED = 28  # characters of a group's name
STYLE: dict[Any, Any] = {
    "svg.hashsalt": "embedcal",
    "svg.fonttype": "path",
    "font.family": "DejaVu Sans",
    "font.size": 8,
    "text.parse_math": False,  # names come from files
    "text.color": INK,
    "axes.edgecolor": GREY,
}


def draw(found: Calibration) -> Figure:
    """Accuracy over confidence in 15 bins on the rows that judge, before and after, and how many
    rows lie in each bin. Made without pyplot. At most six groups are drawn, else all rows alone."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    judged = found.judged
    with matplotlib.rc_context(STYLE):
        out = Figure(figsize=(7.6, 5.4))
        out.set_layout_engine("constrained")
        FigureCanvasAgg(out)
        axes = out.subplots(2, 2, sharex=True, sharey="row", gridspec_kw={"height_ratios": [4, 1]})
        sides = (("before", 1.0, 0), ("after", found.temperature, 1))
        for column, (name, temperature, side) in enumerate(sides):
            p = softmax(judged.logits, temperature)
            score = judged.rows[0].before if side == 0 else judged.rows[0].after
            axes[0, column].set_title(
                f"{name}: T = {temperature:.3g}, ECE {100 * score['ece'].value:.1f} %",
                fontsize=9,
                fontweight="bold",
            )
            _curves(axes[0, column], found, p)
            _shares(axes[1, column], p.max(axis=1))
        axes[0, 0].set_ylabel("right, share of the bin")
        axes[1, 0].set_ylabel("rows, share")
        for panel in axes[1]:
            panel.set_xlabel("confidence: the largest probability")
        # A group may have points on one side alone.
        drawn = {line.get_label(): line for panel in axes[0] for line in panel.lines[1:]}
        out.legend(
            list(drawn.values()), list(drawn), loc="outside lower center", ncols=3, frameon=False
        )
        out.suptitle(_title(found), fontsize=10)
    return out


def _title(found: Calibration) -> str:
    record = found.run.record
    half = "half of " if found.fitted.split == "test" else ""
    return printable(
        f"{record['method']} {found.run.id} on {half}{found.judged.split}, "
        f"{len(found.judged):,} rows",
        longest=90,
    )


def _curves(axes: Axes, found: Calibration, p: FloatArray) -> None:
    judged = found.judged
    confidence, correct = p.max(axis=1), judged.logits.argmax(axis=1) == judged.cells.y
    axes.plot([0, 1], [0, 1], color=GREY, linewidth=1, linestyle=(0, (4, 3)), zorder=1)
    groups, names = _groups(judged, found.group_names)
    for g, name in enumerate(names):
        _curve(axes, confidence, correct, groups == g, (name, COLOURS[g], MARKERS[g]), FEWEST)
    _curve(axes, confidence, correct, groups > -2, ("all rows", INK, "X"), 1)
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1.02)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _groups(judged: Scored, names: tuple[str, ...]) -> tuple[Any, tuple[str, ...]]:
    """The group (n,) of each row and the names to draw; none where they are too many to tell."""
    cells = judged.cells
    if not cells.n_attributes or len(names) > len(COLOURS):
        return np.full(len(cells), -1), ()
    a = cells.a
    groups = np.where(a >= 0, cells.y * cells.n_attributes + a, -1)
    return groups, tuple(printable(name, longest=NAMED) for name in names)


def _curve(
    axes: Axes, confidence: Any, correct: Any, rows: Any, look: tuple[str, str, str], fewest: int
) -> None:
    name, colour, marker = look
    place = equal_width(confidence[rows])
    count = np.bincount(place, minlength=BINS)
    kept = count >= fewest
    total = np.maximum(count, 1)
    x = (np.bincount(place, weights=confidence[rows], minlength=BINS) / total)[kept]
    y = (np.bincount(place, weights=correct[rows], minlength=BINS) / total)[kept]
    if not kept.any():
        return
    whole = name == "all rows"
    axes.plot(
        x,
        y,
        color=colour,
        marker=marker,
        markersize=5 if whole else 4,
        linewidth=1.8 if whole else 1.1,
        label=name,
        zorder=3 if whole else 2,
        clip_on=False,
    )


def _shares(axes: Axes, confidence: FloatArray) -> None:
    count = np.bincount(equal_width(confidence), minlength=BINS) / len(confidence)
    left = np.arange(BINS) / BINS
    axes.bar(left, count, width=1 / BINS, align="edge", color=PALE, edgecolor="white")
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
