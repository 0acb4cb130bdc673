"""Pieces of Markdown for the pages that are made from the code."""

from __future__ import annotations

import re
from collections.abc import Iterable

MADE = "<!-- Made by docs/generate.py; edit the code or the script, not this page. -->"


def prose(text: str) -> str:
    """A docstring as Markdown: sections as lists, code spans kept, all else as it stands."""
    text = re.sub(r"^(Args|Returns|Raises):\n", r"**\1**\n\n", text, flags=re.MULTILINE)
    text = re.sub(r"^    (\w+): ", r"- ``\1``: ", text, flags=re.MULTILINE)
    text = re.sub(r"^ {4}(?! *[-*])", "  ", text, flags=re.MULTILINE)
    parts = re.split(r"(``.+?``|`[^`]+`|\*\*\w+\*\*|^\* )", text, flags=re.MULTILINE)
    return "".join(
        part.replace("``", "`") if at % 2 else re.sub(r"([_*<])", r"\\\1", part)
        for at, part in enumerate(parts)
    )


def fence(text: str, kind: str = "text") -> str:
    return f"```{kind}\n{text.rstrip()}\n```"


def table(heads: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    heads = list(heads)
    lines = [heads, ["---"] * len(heads), *rows]
    escaped = ([cell.replace("|", r"\|") for cell in line] for line in lines)
    return "\n".join(f"| {' | '.join(line)} |" for line in escaped)


def page(parts: Iterable[str]) -> str:
    return "\n\n".join(part.strip("\n") for part in parts if part) + "\n"
