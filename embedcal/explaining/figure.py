"""Image, map and overlay of some rows, several runs side by side."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from embedcal.cache import FeatureCache
from embedcal.datasets.printable import printable
from embedcal.explaining.explanation import Explanation
from embedcal.types import EmbedcalError, IntArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Of = Literal["label", "predicted", "rival"]
OF: tuple[Of, ...] = ("label", "predicted", "rival")
WORDS: dict[Of, str] = {
    "label": "the true class",
    "predicted": "the predicted class",
    "rival": "the strongest other class",
}

COLOURS = "cividis"  # one order of brightness for all eyes, and on paper
INK = "#222222"
PANEL = 1.45  # inches
TEXT = 0.135  # inches, a line under a panel
LINE = 22  # characters under a panel
LINES = 3  # at most so many for one name
ROWS = 60  # matplotlib takes seconds for more, and nobody looks at them
WITH_MAPS = 3  # runs up to which the map stands beside its overlay
DIM, LIGHT = 45.0, 235.0  # the greys under an overlay, so that a night scene shows too
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
    titles = [_title(name, each) for name in explanations]
    told = _told(explanations, cache, of, each)
    heights = [PANEL + 0.12 + TEXT * max(len(cell) for cell in line) for line in told]
    foot = _foot(explanations, of, columns)
    bar, above = 0.7 + TEXT * len(foot), 0.2 + 0.17 * max(len(title) for title in titles)
    with matplotlib.rc_context(STYLE):
        out = Figure(figsize=(PANEL * columns + 0.4, sum(heights) + bar + above))
        out.set_layout_engine(
            "constrained", h_pad=0.04, w_pad=0.03, rect=(0.005, 0.005, 0.99, 0.985)
        )
        FigureCanvasAgg(out)
        axes = out.subplots(lines, columns, squeeze=False, height_ratios=heights)
        axes[0, 0].set_title("image", loc="left", fontsize=9, fontweight="bold")
        for line in range(lines):
            _show(axes[line, 0], first, line, None)
        for place, (title, found) in enumerate(zip(titles, explanations.values(), strict=True)):
            own = axes[:, 1 + each * place : 1 + each * (place + 1)]
            own[0, 0].set_title("\n".join(title), loc="left", fontsize=9, fontweight="bold")
            for line, one in enumerate(found.of(_class(found, of))):
                _run(list(own[line]), found, line, one)
        for line in range(lines):
            for column in range(columns):
                _label(axes[line, column], told[line][column])
        _scale(out, axes, of)
        out.supxlabel("\n".join(foot), fontsize=8)
    return out


def _checked(explanations: Mapping[str, Explanation], of: Of) -> Explanation:
    if of not in OF:
        raise EmbedcalError(
            f"expected a map of {', '.join(OF)}, found '{printable(of)}': take label, the true "
            "class"
        )
    if not explanations:
        raise EmbedcalError(
            "expected at least one run to draw, found none: give what explain made by its name"
        )
    first = next(iter(explanations.values()))
    if len(first) > ROWS:
        raise EmbedcalError(
            f"expected at most {ROWS} images in a figure, found {len(first)}: draw them in several"
        )
    for name, found in explanations.items():
        if not np.array_equal(found.rows, first.rows):
            raise EmbedcalError(
                f"expected the same rows in every run, found others in '{printable(name)}': "
                "explain them again"
            )
    if first.pixels is None:
        raise EmbedcalError(
            first.note
            or "expected the images in the explanation, found none: name their folder as root"
        )
    return first


# What is written


def _told(
    explanations: Mapping[str, Explanation], cache: FeatureCache, of: Of, each: int
) -> list[list[list[str]]]:
    """The lines of text under each panel, by image and column."""
    names = cache.meta.classes
    table = []
    for line in range(len(next(iter(explanations.values())))):
        cells = [_wrapped(_of_image(next(iter(explanations.values())), line, cache))]
        for found in explanations.values():
            chosen = int(_class(found, of)[line])
            map_text = _wrapped([f"map of {names[chosen]}"])
            cells += [map_text, _of_run(found, line, chosen, names)][2 - each :]
        table.append(cells)
    return table


def _of_image(found: Explanation, line: int, cache: FeatureCache) -> list[str]:
    row = int(found.rows[line])
    values = [
        f"{name}: {names[int(cache.samples.attributes[name][row])]}"
        for name, names in cache.meta.attributes
        if cache.samples.attributes[name][row] >= 0
    ]
    return [f"row {row}", cache.meta.classes[int(found.labels[line])], *values]


def _of_run(found: Explanation, line: int, chosen: int, names: Sequence[str]) -> list[str]:
    predicted = int(found.predicted[line])
    right = predicted == int(found.labels[line])
    lines = [f"{'right' if right else 'wrong'}: {names[predicted]}"]
    score = math.nan if found.aiou is None else float(found.aiou[line])
    lines += [] if math.isnan(score) else [f"AIoU {score:.2f}"]
    if not found.maps[line, found.classes.index(chosen)].any():
        lines.append("the map is empty")
    return _wrapped(lines)


def _wrapped(texts: Sequence[str]) -> list[str]:
    """Each text on a few lines at most: a name may be a sentence."""
    found = []
    for text in texts:
        parts = textwrap.wrap(printable(text), LINE) or [" "]
        if len(parts) > LINES:
            parts = [*parts[: LINES - 1], parts[LINES - 1][: LINE - 1] + "…"]
        found += parts
    return found


def _title(name: str, each: int) -> list[str]:
    return textwrap.wrap(printable(name), 20 * each) or [" "]


def _foot(explanations: Mapping[str, Explanation], of: Of, columns: int) -> list[str]:
    """What a stranger has to know, below everything."""
    words = [f"Grad-CAM of {WORDS[of]}. Right or wrong: what the run predicts."]
    known = [found for found in explanations.values() if found.regions is not None]
    if known:
        words.append("Dashed: the object.")
    if any(found.aiou is not None for found in known):
        words.append(
            "AIoU: 0.5 where the maps of the true class and of its strongest rival cover the "
            "object equally, more where that of the true class covers it better."
        )
    return textwrap.wrap(" ".join(words), max(40, 24 * columns))


# What is drawn


def _show(ax: Axes, found: Explanation, line: int, one: npt.NDArray[np.float32] | None) -> None:
    """The image in colour, or in grey below a map."""
    assert found.pixels is not None
    if one is None:
        ax.imshow(found.pixels[line])
    else:
        ax.imshow(_grey(found.pixels[line]), cmap="gray", vmin=0, vmax=255)
        ax.imshow(one, cmap=COLOURS, vmin=0, vmax=1, alpha=0.15 + 0.6 * one)
    _outline(ax, found, line)


def _grey(pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
    """Brightness (h, w) by Rec. 601, stretched: what is dark in itself must not look like a low
    map. One per cent of either end is cut."""
    grey = pixels @ np.array([0.299, 0.587, 0.114])
    low, high = np.percentile(grey, [1, 99])
    stretched: npt.NDArray[np.float64] = (grey - low) / max(high - low, 1.0)
    return DIM + (LIGHT - DIM) * stretched.clip(0, 1)


def _run(axes: list[Axes], found: Explanation, line: int, one: npt.NDArray[np.float32]) -> None:
    """The panels, one or two, of one run and image."""
    if len(axes) == 2:
        axes[0].imshow(one, cmap=COLOURS, vmin=0, vmax=1)
        _outline(axes[0], found, line)
    _show(axes[-1], found, line, one)


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


def _scale(out: Figure, axes: Any, of: Of) -> None:
    """What the colours mean, once for all maps: each is brought to 0 and 1 by itself."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    colours = ScalarMappable(Normalize(0, 1), COLOURS)
    bar = out.colorbar(
        colours, ax=axes, location="bottom", shrink=0.6, aspect=36, pad=0.01, ticks=[0, 1]
    )
    bar.ax.set_xticklabels(["none", "most in this image"], fontsize=7)
    bar.set_label(f"evidence for {WORDS[of]}", fontsize=8, labelpad=0)
    bar.outline.set_visible(False)


def _label(ax: Axes, lines: list[str]) -> None:
    ax.set_xlabel("\n".join(lines), fontsize=7, labelpad=2, color=INK)
    ax.set_xticks([])
    ax.set_yticks([])
    for spine in ax.spines.values():
        spine.set_visible(False)
