"""Texts as cells of a CSV that somebody may open in a spreadsheet: none of them is a formula.

Names of files, classes and attributes come from elsewhere, and a spreadsheet computes what begins
with ``=``, ``+``, ``-`` or ``@``: it may run a program, or send the sheet away. Only texts pass
through here; a negative number stays a number.
"""

from __future__ import annotations

import re
import unicodedata

FORMULA = ("=", "+", "-", "@")
UNSAFE = ("Cc", "Cf", "Cs", "Zl", "Zp")  # categories of Unicode that break lines or hide text
_GUARDED = re.compile(r"'*\s*[=+\-@]")  # apostrophes of its own as well, so that one can go again


def guard(text: str) -> str:
    """The text with an apostrophe before it where a spreadsheet would take it for a formula.

    No two texts become one: :func:`unguard` gives each of them back.
    """
    return "'" + text if _GUARDED.match(text) else text


def unguard(cell: str) -> str:
    """The text that :func:`guard` made a cell of."""
    return cell[1:] if cell.startswith("'") and _GUARDED.match(cell, 1) else cell


def cell(text: str) -> str:
    """A name as a cell for people: one line, nothing hidden, and no formula.

    Control and format characters and lone surrogates are escaped besides, which cannot be undone.
    """
    return guard(
        "".join(
            char.encode("unicode_escape").decode("ascii")
            if unicodedata.category(char) in UNSAFE
            else char
            for char in text
        )
    )


def path_cell(name: str) -> str:
    """A path as a cell: ``./=a.png`` is the same file as ``=a.png``, and no formula."""
    return cell("./" + name if name.lstrip().startswith(FORMULA) else name)
