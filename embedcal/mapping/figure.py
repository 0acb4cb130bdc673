"""Maps as a figure: a column for each view; rows coloured by class, by attribute, by error.

Colours are those of Okabe and Ito (2008), told apart by the colour-blind, and each label has a
marker of its own as well.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from embedcal.cache import FeatureCache
from embedcal.datasets.printable import printable
from embedcal.mapping.maps import FROZEN, Map, View
from embedcal.types import EmbedcalError, IntArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#222222")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
INK, GREY, PALE, RED = "#222222", "#8C8C8C", "#BDBDBD", "#D55E00"
NAMED = 35  # labels with a colour and marker of their own; a legend of more is not read
LAYERS, DRAWINGS = 8, 64  # parts of the rows, labels mixed in each; and calls for one panel
PANEL = 2.9  # inches
TITLE, LEGEND = 34, 16  # characters on one line
DEEP = 14  # entries of one column of a legend
COLUMNS = 8  # matplotlib takes seconds for more, and nobody can compare them
STYLE: dict[Any, Any] = {
    "svg.hashsalt": "embedcal",
    "svg.fonttype": "path",
    "font.family": "DejaVu Sans",
    "font.size": 8,
    "text.parse_math": False,  # names come from files
    "text.color": INK,
    "axes.edgecolor": PALE,
}
HOW = {
    "pca": "PCA: every column has two axes of its own, turned to match the first",
    "tsne": "t-SNE: neighbours stay neighbours, long distances mean nothing",
    "umap": "UMAP: neighbours stay neighbours, long distances mean little",
}


class Kind(NamedTuple):
    """The points (m,) under one legend entry."""

    name: str
    members: IntArray  # positions
    colour: str
    marker: str
    size: float = 1.0  # of the usual area


def draw(maps: Map | Sequence[Map], cache: FeatureCache) -> Figure:
    """The frozen view, then one of each map's head, as a figure made without pyplot.

    Maps of one figure are of the same rows (``map_runs``). Raises EmbedcalError where they are
    not, for none, and for more than eight.
    """
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    several = (maps,) if isinstance(maps, Map) else tuple(maps)
    first = _checked(several)
    views = (first.before, *(each.after for each in several))
    layers = _layers(first, cache)
    wide = max([1, *(math.ceil(len(kinds) / DEEP) for _, kinds in layers)])
    side = 1.25 * wide  # of the legends
    with matplotlib.rc_context(STYLE):
        out = Figure(
            figsize=(PANEL * len(views) + side + 0.5, PANEL * (len(layers) + 1) * 0.98 + 1.25),
        )
        out.set_layout_engine("constrained", w_pad=0.06, h_pad=0.06)
        FigureCanvasAgg(out)
        axes = out.subplots(
            len(layers) + 1,
            len(views) + 1,
            squeeze=False,
            gridspec_kw={"width_ratios": [PANEL] * len(views) + [side]},
        )
        for column, view in enumerate(views):
            axes[0, column].set_title(_title(view), fontsize=8.5, fontweight="bold")
            for line, (what, kinds) in enumerate(layers):
                _panel(axes[line, column], view, kinds)
                _caption(axes[line, column], view, what)
            _panel(axes[-1, column], view, _errors(view, len(first.rows)))
            _caption(axes[-1, column], view, "error")
        for line, (what, kinds) in enumerate([*layers, ("error", _errors(views[-1], 1))]):
            _name(axes[line, 0], f"by {what}")
            _legend(axes[line, -1], kinds, math.ceil(len(kinds) / DEEP))
        out.suptitle(_wrapped(_head(first, cache), 34 * len(views)), fontsize=10)
        out.supxlabel(_wrapped(_foot(first, views), 36 * len(views)), fontsize=8)
    return out


def _checked(maps: tuple[Map, ...]) -> Map:
    if not maps:
        raise EmbedcalError("expected at least one map to draw, found none: map a run")
    if len(maps) > COLUMNS:
        raise EmbedcalError(
            f"expected at most {COLUMNS} runs in a figure, found {len(maps)}: draw some apart"
        )
    first = maps[0]
    for each in maps[1:]:
        if (each.by, each.seed, each.attributes) != (
            first.by,
            first.seed,
            first.attributes,
        ) or not np.array_equal(each.rows, first.rows):
            raise EmbedcalError(
                f"expected maps of the same rows made in one way, found others in "
                f"'{printable(each.after.name)}': make them with map_runs"
            )
    return first


def _layers(found: Map, cache: FeatureCache) -> list[tuple[str, list[Kind]]]:
    """What panels are coloured by, and the points of each colour."""
    layers = [("class", _kinds(found.y, cache.meta.classes))]
    if found.a is not None:
        layers.append((_attribute(found), _kinds(found.a, found.values, first=2)))
    return layers


def _attribute(found: Map) -> str:
    return printable(" and ".join(found.attributes))


def _kinds(labels: IntArray, names: Sequence[str], first: int = 0) -> list[Kind]:
    """The labels that occur, each with its own look, then all others together, then unknown.

    ``first`` is the place of the first colour: classes and attribute values begin with others.
    """
    counts = np.bincount(labels[labels >= 0], minlength=len(names))
    present = np.flatnonzero(counts)
    kept = np.sort(present[np.argsort(-counts[present], kind="stable")[:NAMED]])
    kinds = [
        Kind(
            printable(names[label]),
            np.flatnonzero(labels == label),
            COLOURS[place % len(COLOURS)],
            # one colour comes back with another marker
            MARKERS[(place + place // len(COLOURS)) % len(MARKERS)],
        )
        for place, label in enumerate(kept.tolist(), start=first)
    ]
    rest = np.flatnonzero((labels >= 0) & ~np.isin(labels, kept))
    if len(rest):
        kinds.append(Kind(f"{len(present) - NAMED} others", rest, GREY, "."))
    unknown = np.flatnonzero(labels < 0)
    if len(unknown):
        kinds.append(Kind("unknown", unknown, PALE, "."))
    return kinds


def _errors(view: View, m: int) -> list[Kind]:
    """Right and wrong points, the wrong ones larger; nobody's where there is no prediction."""
    if view.wrong is None:
        return [Kind("not known", np.arange(m), PALE, ".")]
    return [
        Kind("right", np.flatnonzero(~view.wrong), PALE, "o", 0.8),
        Kind("wrong", np.flatnonzero(view.wrong), RED, "X", 1.6),
    ]


def _panel(ax: Axes, view: View, kinds: list[Kind]) -> None:
    points, area = view.points, _area(len(view.points))
    # Points that are drawn last cover the others: so labels take turns, in an order by chance.
    # Errors do not: right ones never cover wrong ones.
    errors = any(each.size > 1 for each in kinds)
    layers = 1 if errors else int(np.clip(DRAWINGS // len(kinds), 1, LAYERS))
    turn = np.random.default_rng(0).permutation(len(points)) % layers
    for layer in range(layers):
        for kind in kinds:
            here = kind.members[turn[kind.members] == layer]
            ax.scatter(
                points[here, 0],
                points[here, 1],
                s=area * kind.size,
                c=kind.colour,
                marker=kind.marker,
                alpha=0.75,
                linewidths=0,
                rasterized=True,
            )
    ax.set_xticks([])
    ax.set_yticks([])
    ax.set_box_aspect(1)
    if view.border:
        ax.axvline(0, color=INK, lw=0.8, ls="--", zorder=0)
    else:
        ax.set_aspect("equal", adjustable="datalim")


def _area(m: int) -> float:
    """Of one point, in square points of 1/72 inch: many are smaller."""
    return float(np.clip(9000 / max(m, 1), 5, 28))


def _caption(ax: Axes, view: View, what: str) -> None:
    if what == "error":
        if view.error is None:
            told = "no class prompts, so no zero-shot"
        else:
            whose = "zero-shot" if view.name == FROZEN else "this head"
            told = f"{whose}: {100 * view.error:.1f} % wrong"
    else:
        found = view.by_class if what == "class" else view.by_attribute
        told = "silhouette –" if found is None else f"silhouette {found.mean:.2f}"
    ax.set_xlabel(told, fontsize=8, labelpad=3, color=INK)


def _title(view: View) -> str:
    lines = textwrap.wrap(printable(view.name), TITLE) or [" "]
    what = "its logits" if view.space == "logits" else "its embedding"
    if view.name == FROZEN:
        what = "image embedding"
    share = "" if view.share is None else f": {100 * view.share:.0f} % of the variance"
    return "\n".join([*lines, what + share])


def _name(ax: Axes, text: str) -> None:
    ax.set_ylabel("\n".join(textwrap.wrap(text, 30)), fontsize=9, fontweight="bold")


def _legend(ax: Axes, kinds: list[Kind], columns: int) -> None:
    from matplotlib.lines import Line2D

    ax.axis("off")
    handles = [
        Line2D([], [], ls="", marker=each.marker, color=each.colour, ms=6, mew=0) for each in kinds
    ]
    names = ["\n".join(textwrap.wrap(each.name, LEGEND)[:3]) or " " for each in kinds]
    ax.legend(
        handles,
        names,
        loc="center left",
        bbox_to_anchor=(0, 0.5),
        ncols=max(1, columns),
        frameon=False,
        fontsize=8 if len(kinds) <= DEEP else 7,
        handletextpad=0.2,
        columnspacing=0.8,
        borderaxespad=0,
    )


def _head(found: Map, cache: FeatureCache) -> str:
    meta = cache.meta
    part = f"{found.n:,} images"
    if len(found.rows) < found.n:
        part = f"{len(found.rows):,} of {part}, drawn with seed {found.seed}"
    return f"{printable(meta.dataset)}, {printable(meta.backbone)}, {found.split}: {part}"


def _foot(found: Map, views: Sequence[View]) -> str:
    words = [HOW[found.by]]
    if any(view.space == "logits" for view in views):
        words.append("A linear head keeps the frozen embedding, so its logits are shown")
    if any(view.border for view in views):
        words.append(
            "Dashed: its border between the classes; upwards, the largest variation that it does "
            "not follow"
        )
    words.append(f"Silhouettes: all {found.n:,} images, all dimensions, -1 to 1")
    return ". ".join(words) + "."


def _wrapped(text: str, width: int) -> str:
    return "\n".join(textwrap.wrap(text, max(40, width)))
