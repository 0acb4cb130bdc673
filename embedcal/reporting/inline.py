"""Matplotlib's figures as part of a page: SVG that takes the page's colours, or a picture.

A figure is drawn in colours that nobody would choose, one for each role; here they become class
names, and the page's style says what they are in light and in dark. All other style becomes SVG's
own attributes, since the page's policy lets no ``style`` in. Text stays text.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

from markupsafe import Markup

from embedcal.datasets.printable import printable
from embedcal.reporting.thumbnails import data_uri

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ROLES = ("ink", "muted", "grid", "paper", "s0", "s1", "s2", "s3", "s4", "s5", "s6", "s7")
COLOURS = {role: f"#01{place:02x}f3" for place, role in enumerate(ROLES)}
ROLE_OF = {colour: role for role, colour in COLOURS.items()}
KEPT = frozenset({
    "opacity", "fill", "fill-opacity", "fill-rule", "stroke", "stroke-opacity", "stroke-width",
    "stroke-dasharray", "stroke-dashoffset", "stroke-linecap", "stroke-linejoin",
    "stroke-miterlimit", "font-size", "font-weight", "font-style", "text-anchor",
})  # fmt: skip
SVG = "http://www.w3.org/2000/svg"
HREF = "{http://www.w3.org/1999/xlink}href"
ANY = re.compile(r"[^\x09\x0a\x0d\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")  # not in XML
DPI, QUALITY = 150, 88


@contextmanager
def drawing(width: float, height: float) -> Iterator[Figure]:
    """A figure of so many inches in the page's colours; names in it come from files."""
    import matplotlib
    from matplotlib.figure import Figure

    ink, muted = COLOURS["ink"], COLOURS["muted"]
    style: dict[Any, Any] = {
        "svg.fonttype": "none",
        "svg.hashsalt": "embedcal",
        "font.family": "DejaVu Sans",
        "font.size": 9,
        "text.parse_math": False,
        "text.color": ink,
        "axes.edgecolor": muted,
        "axes.labelcolor": ink,
        "axes.titlesize": 9,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.facecolor": "none",
        "figure.facecolor": "none",
        "xtick.color": muted,
        "ytick.color": muted,
        "xtick.labelcolor": ink,
        "ytick.labelcolor": ink,
        "grid.color": COLOURS["grid"],
        "grid.linewidth": 0.8,
    }
    with matplotlib.rc_context(style), warnings.catch_warnings():
        # Words that DejaVu lacks are measured a little wrong; the reader's own font has them.
        warnings.filterwarnings("ignore", message=r"Glyph .* missing from")
        warnings.filterwarnings("ignore", message=r"Matplotlib currently does not support")
        yield Figure(figsize=(width, height), layout="constrained")


def svg(figure: Figure, name: str, label: str) -> Markup:
    """A figure made within ``drawing`` as markup; ``name`` keeps its ids apart from others'."""
    out = io.BytesIO()
    figure.savefig(out, format="svg", metadata={"Date": None}, transparent=True)
    root = ElementTree.fromstring(out.getvalue())
    for parent in root.iter():
        for child in list(parent):
            if child.tag in (f"{{{SVG}}}metadata", f"{{{SVG}}}style"):
                parent.remove(child)
    for element in root.iter():
        _restyle(element, name)
    box = root.get("viewBox", "")
    root.attrib.clear()
    root.attrib.update({"viewBox": box, "class": "plot", "role": "img"})
    root.set("aria-label", printable(label, longest=1000))
    _unprefixed(root)
    return Markup(ElementTree.tostring(root, encoding="unicode"))


def picture(figure: Figure, words: str) -> Markup:
    """A figure with photographs in it, as a picture in the page; it keeps its own colours."""
    from PIL import Image

    out, small = io.BytesIO(), io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"Glyph .* missing from")
        figure.savefig(out, format="png", dpi=DPI, facecolor="white")
    with Image.open(out) as image:
        width, height = image.size
        image.convert("RGB").save(small, "JPEG", quality=QUALITY, subsampling=0)
    return Markup('<img class="sheet" src="{}" alt="{}" width="{}" height="{}">').format(
        data_uri(small.getvalue(), "image/jpeg"), printable(words, longest=1000), width, height
    )


def named(text: str, longest: int = 80) -> str:
    """A name fit to be drawn: one line, no control characters, nothing that XML cannot hold."""
    return ANY.sub("\ufffd", printable(text, longest=longest))


def _restyle(element: ElementTree.Element, name: str) -> None:
    classes = []
    for key, value in _declared(element):
        role = ROLE_OF.get(value.lower())
        if role is not None and key in ("fill", "stroke"):
            classes.append(f"{key}-{role}")
        elif key in KEPT:
            element.set(key, value)
    if classes:
        element.set("class", " ".join(classes))
    if "id" in element.attrib:
        element.set("id", f"{name}-{element.get('id')}")
    if HREF in element.attrib:
        element.set("href", f"#{name}-{element.attrib.pop(HREF)[1:]}")
    clip = element.get("clip-path")
    if clip:
        element.set("clip-path", clip.replace("url(#", f"url(#{name}-"))


def _declared(element: ElementTree.Element) -> Iterator[tuple[str, str]]:
    """What a ``style`` says, taken away; ``font: bold 9px ...`` in its parts."""
    for part in element.attrib.pop("style", "").split(";"):
        key, _, value = (piece.strip() for piece in part.partition(":"))
        if key == "font":
            size = re.search(r"([\d.]+)px", value)
            if size:
                yield "font-size", size[1]
            weight = re.match(r"(?:italic |oblique )?(bold|\d{3})\b", value)
            if weight:
                yield "font-weight", weight[1]
        elif key:
            yield key, value.removesuffix("px") if key == "font-size" else value


def _unprefixed(root: ElementTree.Element) -> None:
    """Plain names: HTML knows SVG without namespaces."""
    for element in root.iter():
        element.tag = element.tag.removeprefix(f"{{{SVG}}}")
