"""What all commands share: options with one meaning, and how an answer is given."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

Json = Annotated[bool, typer.Option("--json", help="print one JSON document, nothing else")]
CacheFile = Annotated[
    Path | None, typer.Option("--cache", help="the cache; by default the one used last")
]
Device = Annotated[str, typer.Option(help="cpu, cuda, mps; auto: an accelerator if there is one")]
Seed = Annotated[int, typer.Option(help="decides everything random")]
Select = Annotated[
    str | None,
    typer.Option(help="val.worst_group, val.worst_class, val.mean, last, oracle.worst_group"),
]
Oracle = Annotated[bool, typer.Option("--oracle", help="allow selection on test")]
Attribute = Annotated[
    list[str] | None,
    typer.Option(
        "--attribute", help="makes the groups; may be repeated, for their product; default: all"
    ),
]
SKIPPED = 3  # finished, but something is missing or beyond what was asked for


def answer(record: Mapping[str, Any], report: Any, *, as_json: bool) -> None:
    """One JSON document on standard output, or a report for people."""
    from embedcal.tables import show

    if as_json:
        sys.stdout.write(json.dumps(record, indent=2, allow_nan=False) + "\n")
    else:
        show(report)


def say(line: str) -> None:
    """A line for people, on standard error."""
    from embedcal.tables import show, shown

    show(shown(line), stderr=True)


def plain(text: str) -> Any:
    """A text to print as it is: no markup, no folding."""
    from rich.text import Text

    return Text(text, no_wrap=True, overflow="ignore")


def selection(select: str | None, *, oracle: bool) -> str | None:
    """The rule that was asked for; one that looks at test only beside ``--oracle``."""
    from embedcal.errors import EmbedcalError

    if select == "oracle.worst_group" and not oracle:
        raise EmbedcalError(
            "expected --oracle beside --select oracle.worst_group, which looks at test: add it, or "
            "select by val.worst_group"
        )
    return select or ("oracle.worst_group" if oracle else None)


def row_numbers(text: str) -> list[int]:
    """Rows of a cache as they are typed: ``3,17,250``."""
    from embedcal.errors import EmbedcalError

    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise EmbedcalError(
            f"expected rows of the cache as numbers, found '{text}': write, say, 3,17,250"
        ) from None
