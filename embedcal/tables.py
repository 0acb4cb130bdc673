"""What a person sees: tables in percent with one decimal, every foreign text escaped."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from embedcal.datasets.printable import printable

TAG = re.compile(r"(?<!\\)((?:\\\\)*)\[[a-z#/@][^[]*?]")  # an odd count of backslashes escapes it
LONGEST = 400  # characters of one text; a path is shown whole
WIDTH = 120  # of what is not written to a terminal
NARROWEST = 20  # below it, a width is taken for none


def shown(text: object) -> str:
    """A text from a file, safe to print: no control characters, no markup."""
    return escape(printable(str(text), longest=LONGEST))


def _inert(text: str) -> str:
    """The lines of a text, whole, that act on no terminal and in which no markup acts.

    Markup that is escaped already stays as it is, since reports hand over both.
    """
    lines = "\n".join(printable(line, longest=len(line)) for line in text.split("\n"))
    return TAG.sub(r"\1\\\g<0>", lines)


def percent(value: float | None) -> str:
    """A fraction as percent with one decimal; a dash where there is none."""
    return "–" if value is None or math.isnan(value) else f"{100 * value:.1f}"


def interval(ends: Sequence[float] | None) -> str:
    return "" if not ends else f"{percent(ends[0])}–{percent(ends[1])}"


def labels_used(names: Sequence[str]) -> str:
    """The arrays of labels that a run read, as words: "train y, val y+g (inferred: water)"."""
    splits: dict[str, list[str]] = {}
    order = {name: name.partition(" ")[0] for name in names}  # without what labels are inferred
    for name in sorted(names, key=lambda n: (n.split(".")[0] != "train", order[n][-2:] == ".g")):
        split, _, kind = name.partition(".")
        splits.setdefault(split, []).append(kind)
    return ", ".join(f"{split} {'+'.join(kinds)}" for split, kinds in splits.items()) or "none"


def plain_table(title: str | None = None) -> Table:
    return Table(
        title=title, box=SIMPLE_HEAD, title_justify="left", caption_justify="left", pad_edge=False
    )


def facts(pairs: Mapping[str, object]) -> Table:
    """Two columns: what, and its value, which may be escaped already and may have several lines."""
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in pairs.items():
        table.add_row(_inert(name), _inert(str(value)))
    return table


def group_table(names: Sequence[str], counts: Mapping[str, Sequence[int]]) -> Table:
    """Rows of each group in each split."""
    table = plain_table()
    table.add_column("group")
    for split in counts:
        table.add_column(split, justify="right")
    for g, name in enumerate(names):
        table.add_row(shown(name), *(f"{counts[split][g]:,}" for split in counts))
    return table


def run_table(record: Mapping[str, Any], group_names: Sequence[str]) -> Table:
    """One run: each metric on val and test, with its interval on test."""
    table = plain_table()
    table.add_column("accuracy, %")
    table.add_column("val", justify="right")
    table.add_column("test", justify="right")
    table.add_column("95 % interval", justify="right", no_wrap=True)
    val, test = record["val"], record["test"]
    mark = "*" if val.get("in_sample") else ""
    ends = test["interval"]
    rows: list[tuple[str, Any, Any, Any]] = []
    if "groups" in test:
        on_val = val.get("groups") or [None] * len(group_names)  # no row of val is in a group
        rows += [
            (shown(name), on_val[g], test["groups"][g], ends["groups"][g])
            for g, name in enumerate(group_names)
        ]
    for key in ("worst_group", "train_weighted", "group_mean", "worst_class", "mean"):
        if key in test:
            rows.append((key, val.get(key), test[key], ends.get(key)))
    for name, before, after, low_high in rows:
        style = "bold" if name == "worst_group" else None
        table.add_row(name, percent(before) + mark, percent(after), interval(low_high), style=style)
    if mark:
        table.caption = "* in-sample: the method fitted these rows"
    if record.get("oracle"):
        table.caption = "ORACLE: the epoch was chosen on test; an upper bound, not a result"
    return table


def console(*, stderr: bool = False) -> Console:
    """A console of the terminal's width, or of COLUMNS; into a pipe 120 wide."""
    # A name such as :car: is no picture of one.
    made = _Console(stderr=stderr, highlight=False, emoji=False)
    asked = os.environ.get("COLUMNS", "")
    if asked.isdecimal() and int(asked) >= NARROWEST:
        return made
    if made.is_terminal and made.width >= NARROWEST:
        return made
    return _Console(stderr=stderr, highlight=False, emoji=False, width=WIDTH)


class _Console(Console):
    """One that leaves a reader's going away to the command line, which takes it for no error."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


def show(what: RenderableType, *, stderr: bool = False) -> None:
    """Print a report; plain lines are left to the terminal to wrap, so that they can be copied."""
    to = console(stderr=stderr)
    for part in what.renderables if isinstance(what, Group) else [what]:
        plain = isinstance(part, str) or (isinstance(part, Text) and bool(part.no_wrap))
        to.print(part, soft_wrap=plain)
