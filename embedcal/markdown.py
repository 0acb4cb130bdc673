"""Foreign text on a page of Markdown: shown as it is, on one line, and nothing in it is markup."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from embedcal.datasets.printable import printable

LONGEST = 2000
SPECIAL = re.compile(r"[\\`*_\[\]|~#!$@]")
ADDRESS = re.compile(r"(?i)(?<=\w)(?=://)|(?<=\bwww)(?=\.)")  # some readers make links of them
CODE = re.compile(r"^ {4,}")
OPENING = re.compile(r"^( *(?:\d{1,9}(?=[.)](?: |$))|(?=[-+](?: |$)|[-=]+ *$)))")  # list, heading


def escaped(text: str, *, longest: int = LONGEST) -> str:
    """``text`` with nothing in it that Markdown or HTML reads, wherever it stands on a line.

    Line breaks and control characters are shown as escapes, and what is longer than ``longest``
    characters is cut. ``&``, ``<`` and ``>`` become entities, since not every reader of Markdown
    knows a backslash before them.
    """
    shown = CODE.sub("   ", printable(text, longest=longest))  # four blanks open a block of it
    shown = SPECIAL.sub(r"\\\g<0>", shown)
    shown = OPENING.sub(r"\g<1>\\", shown)
    shown = shown.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return ADDRESS.sub(r"\\", shown)


def table_lines(
    heads: Sequence[str], rows: Iterable[Sequence[str]], *, words: int = 1
) -> list[str]:
    """The lines of a table of foreign texts; the first so many columns are words, others numbers.

    Numbers stand on the right.
    """
    rule = ["---"] * words + ["---:"] * (len(heads) - words)
    return [_line(map(escaped, heads)), _line(rule), *(_line(map(escaped, row)) for row in rows)]


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"
