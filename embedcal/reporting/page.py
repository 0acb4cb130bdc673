"""A page from what was gathered: one file that asks for nothing else.

Escaping is Jinja2's, everywhere: nothing that comes from a file is ever marked as safe. Control and
direction characters are shown as their codes besides. The page's policy lets in only this style
and this script, by their digests, and pictures that stand in it as data.
"""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from embedcal.answers.comparison import mean, metric_name, selection
from embedcal.datasets.printable import printable
from embedcal.reporting.content import Page
from embedcal.tables import interval, labels_used, percent

HERE = Path(__file__).parent
LONGEST = 20_000  # characters of one text: a command is shown whole


def render(page: Page) -> str:
    """The whole page as HTML."""
    style, script = (_source(name) for name in ("style.css", "page.js"))
    html: str = (
        _environment()
        .get_template("page.html.j2")
        .render(
            page=page,
            style=Markup(style),
            script=Markup(script),
            policy=policy(style, script),
        )
    )
    return html


def policy(style: str, script: str) -> str:
    """The Content-Security-Policy of a page with this style and this script, and nothing else."""
    return "; ".join(
        [
            "default-src 'none'",
            "img-src data:",
            f"style-src '{_digest(style)}'",
            f"script-src '{_digest(script)}'",
            "base-uri 'none'",
            "form-action 'none'",
            "require-trusted-types-for 'script'",
        ]
    )


def _digest(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")


def _source(name: str) -> str:
    return (HERE / name).read_text(encoding="utf-8")


@cache
def _environment() -> Environment:
    made = Environment(
        loader=FileSystemLoader(HERE / "templates", encoding="utf-8"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_finalize,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {
        "percent": percent,
        "interval": interval,
        "labels_used": labels_used,
        "mean_of": mean,
        "metric_name": metric_name,
        "selection": selection,
        "number": _number,
        "capital": lambda text: text[:1].upper() + text[1:],
    }
    return made


def _finalize(value: Any) -> Any:
    """Whatever a template writes: what is not marked as markup is made fit to be shown first."""
    if isinstance(value, str) and not isinstance(value, Markup):
        return printable(value, longest=LONGEST)
    return value


def _number(value: float | None) -> str:
    """For sorting: an empty text where there is no number."""
    return "" if value is None or value != value else f"{value:.6g}"
