"""What comes from files, made fit to be shown on one line of a terminal."""

from __future__ import annotations

LONGEST = 80


def printable(text: str, *, longest: int = LONGEST) -> str:
    """``text`` with every control, format and unassigned character escaped, and cut when long.

    Escape sequences, line breaks and bidirectional overrides in a class name or a path would
    otherwise act on the terminal that shows the message. Lone surrogates, which cannot be
    printed at all, are escaped too.
    """
    shown = text if len(text) <= longest else text[: longest - 1] + "…"
    if shown.isprintable():
        return shown
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode("ascii")
        for char in shown
    )
