"""Image, map and overlay of some rows, several runs side by side."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from embedcal.cache import FeatureCache
from embedcal.datasets.printable import printable
from embedcal.explaining.explanation import Explanation
from embedcal.types import EmbedcalError, IntArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Of = Literal["label", "predicted", "rival"]
OF: tuple[Of, ...] = ("label", "predicted", "rival")

COLOURS = "cividis"  # one order of brightness for all eyes, and on paper
INK = "#222222"
PANEL = 1.45  # inches
LINE = 22  # characters under a panel
ROWS = 60  # matplotlib takes seconds for more, and nobody looks at them
WITH_MAPS = 3  # runs up to which the map stands beside its overlay
STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 8,
    "text.parse_math": False,  # names come from files
    "text.color": INK,
}


def figure(
    explanations: Mapping[str, Explanation], cache: FeatureCache, of: Of = "label"
) -> Figure:
    """A row for each image: what the encoder saw, then the map and its overlay for each run.

    ``explanations`` map the name of a run to what ``explain`` found for the same rows. Maps are
    those of the true class (``label``), of the class that the run predicts, or of the strongest
    other class (``rival``, by its logit). The object's outline is drawn where it is known. With
    more than three runs the maps alone are left out. Raises EmbedcalError for no rows or more
    than 60, for other rows in one run than in another, and where the images are not there.
    """
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    first = _checked(explanations, of)
    each = 2 if len(explanations) <= WITH_MAPS else 1
    columns, lines = 1 + each * len(explanations), len(first)
    with matplotlib.rc_context(STYLE):
        out = Figure(figsize=(PANEL * columns + 0.4, (PANEL + 0.36) * lines + 0.7))
        out.set_layout_engine(
            "constrained", h_pad=0.05, w_pad=0.03, rect=(0.005, 0.005, 0.99, 0.985)
        )
        FigureCanvasAgg(out)
        axes = out.subplots(lines, columns, squeeze=False)
        for line in range(lines):
            _image(axes[line, 0], first, line, cache)
        for place, (name, found) in enumerate(explanations.items()):
            own = axes[:, 1 + each * place : 1 + each * (place + 1)]
            _run(own, found, cache, _class(found, of))
            title = "\n".join(textwrap.wrap(printable(name), 20 * each)) or " "
            own[0, 0].set_title(title, loc="left", fontsize=9, fontweight="bold")
        what = {"label": "the true class", "predicted": "the predicted class"}
        words = what.get(of, "the strongest other class")
        out.supxlabel(
            "\n".join(
                textwrap.wrap(
                    f"Grad-CAM of {words}: dark 0, bright 1. Dashed: the object.",
                    max(24, 20 * columns),
                )
            ),
            fontsize=8,
        )
    return out


def _checked(explanations: Mapping[str, Explanation], of: Of) -> Explanation:
    if of not in OF:
        raise EmbedcalError(f"expected a map of {', '.join(OF)}, found '{printable(of)}'")
    if not explanations:
        raise EmbedcalError("expected at least one run to draw, found none")
    first = next(iter(explanations.values()))
    if len(first) > ROWS:
        raise EmbedcalError(f"expected at most {ROWS} images in a figure, found {len(first)}")
    for name, found in explanations.items():
        if not np.array_equal(found.rows, first.rows):
            raise EmbedcalError(
                f"expected the same rows in every run, found others in '{printable(name)}': "
                "explain them again"
            )
    if first.pixels is None:
        raise EmbedcalError(first.note or "expected the images in the explanation, found none")
    return first


def _image(ax: Axes, found: Explanation, line: int, cache: FeatureCache) -> None:
    assert found.pixels is not None
    ax.imshow(found.pixels[line])
    _outline(ax, found, line)
    row = int(found.rows[line])
    values = [
        names[int(cache.samples.attributes[name][row])]
        for name, names in cache.meta.attributes
        if cache.samples.attributes[name][row] >= 0
    ]
    label = cache.meta.classes[int(found.labels[line])]
    _label(ax, [f"row {row}", ", ".join([label, *values])])


def _run(axes: Any, found: Explanation, cache: FeatureCache, chosen: IntArray) -> None:
    """The panels (lines, 1 or 2) of one run; ``chosen`` is the class explained in each line."""
    assert found.pixels is not None
    for line, one in enumerate(found.of(chosen)):
        own, names = list(axes[line]), cache.meta.classes
        if len(own) == 2:
            own[0].imshow(one, cmap=COLOURS, vmin=0, vmax=1)
            _outline(own[0], found, line)
            _label(own[0], [f"map of {names[int(chosen[line])]}"])
        grey = found.pixels[line] @ np.array([0.299, 0.587, 0.114])  # Rec. 601 brightness
        own[-1].imshow(grey, cmap="gray", vmin=0, vmax=255)
        own[-1].imshow(one, cmap=COLOURS, vmin=0, vmax=1, alpha=0.2 + 0.6 * one)
        _outline(own[-1], found, line)
        predicted = int(found.predicted[line])
        right = predicted == int(found.labels[line])
        told = f"{'right' if right else 'wrong'}: {names[predicted]}"
        score = math.nan if found.aiou is None else float(found.aiou[line])
        _label(own[-1], [told] if math.isnan(score) else [told, f"AIoU {score:.2f}"])


def _class(found: Explanation, of: Of) -> IntArray:
    if of == "label":
        return found.labels
    if of == "predicted":
        return found.predicted
    others = found.logits.copy()
    others[np.arange(len(found)), found.labels] = -np.inf
    rivals: IntArray = others.argmax(axis=1)
    return rivals


def _outline(ax: Axes, found: Explanation, line: int) -> None:
    """Dark under light, so that it shows on anything."""
    if found.regions is None or not found.regions[line].any() or found.regions[line].all():
        return
    region = found.regions[line].astype(float)
    ax.contour(region, levels=[0.5], colors="black", linewidths=1.6)
    ax.contour(region, levels=[0.5], colors="white", linewidths=0.9, linestyles="dashed")


def _label(ax: Axes, lines: list[str]) -> None:
    wrapped = [part for text in lines for part in textwrap.wrap(printable(text), LINE) or [" "]]
    ax.set_xlabel("\n".join(wrapped), fontsize=7, labelpad=2, color=INK)
    ax.set_xticks([])
    ax.set_yticks([])
    for spine in ax.spines.values():
        spine.set_visible(False)
