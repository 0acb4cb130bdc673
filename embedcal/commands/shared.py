"""What all commands share: options with one meaning, and how an answer is given."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from embedcal.commands import completing
from embedcal.volume import Volume, set_volume, volume

Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="the answer and mistakes, nothing else")]
Verbose = Annotated[
    bool, typer.Option("--verbose", "-v", help="also what is done, and where a mistake was found")
]
Json = Annotated[bool, typer.Option("--json", help="print one JSON document, nothing else")]
CacheFile = Annotated[
    Path | None,
    typer.Option(
        "--cache",
        help="the cache; by default the one used last",
        autocompletion=completing.caches,
    ),
]
File = Annotated[
    Path | None,
    typer.Argument(help="a cache; by default the one used last", autocompletion=completing.caches),
]
Backbone = Annotated[
    str | None,
    typer.Option(
        help="the encoder, where the cache's name of it does not find it",
        autocompletion=completing.backbones,
    ),
]
Pretrained = Annotated[str | None, typer.Option(help="the file of its weights")]
Device = Annotated[
    str,
    typer.Option(
        help="cpu, cuda, mps; auto: an accelerator if there is one",
        autocompletion=completing.devices,
    ),
]
Seed = Annotated[int, typer.Option(help="decides everything random")]
Select = Annotated[
    str | None,
    typer.Option(
        help="val.worst_group, val.worst_class, val.env, val.mean, last, oracle.worst_group",
        autocompletion=completing.rules,
    ),
]
Oracle = Annotated[bool, typer.Option("--oracle", help="allow selection on test")]
Attribute = Annotated[
    list[str] | None,
    typer.Option(
        "--attribute",
        help="makes the groups; may be repeated, for their product; default: all",
        autocompletion=completing.attributes,
    ),
]
Judge = Annotated[
    list[str] | None,
    typer.Option(
        "--attribute",
        help="judge test by this one's groups, not by those fitted with",
        autocompletion=completing.attributes,
    ),
]
By = Annotated[
    str,
    typer.Option(
        help="what makes a row: method, or a list: method,neg", autocompletion=completing.keys
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


def one_form(**asked: bool) -> None:
    """The answer in one form; EmbedcalError for several of ``json``, ``latex``, ``markdown``."""
    from embedcal.errors import EmbedcalError

    given = [f"--{name}" for name, wanted in asked.items() if wanted]
    if len(given) > 1:
        raise EmbedcalError(
            f"expected one form of the answer, found {' and '.join(given)}: ask for one at a time"
        )


def say(line: str) -> None:
    """A line for people, on standard error; not with ``--quiet``."""
    from embedcal.tables import show, shown

    if volume() is not Volume.QUIET:
        show(shown(line), stderr=True)


def listen(*, quiet: bool, verbose: bool) -> None:
    """How much this command tells on standard error."""
    from embedcal.errors import EmbedcalError

    if quiet and verbose:
        raise EmbedcalError("expected --quiet or --verbose, found both: drop one of them")
    set_volume(Volume.QUIET if quiet else Volume.VERBOSE if verbose else Volume.NORMAL)


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


def named_runs(runs: Sequence[str] | None, cache: Path | None) -> list[str | Path]:
    """Folders as they are; ids and ``last`` as folders of runs; for none the grid used last."""
    from embedcal.datasets.places import remembered
    from embedcal.errors import EmbedcalError

    if runs:
        return [_run_folder(name, cache) for name in runs]
    last = remembered("grid")
    if last is None:
        raise EmbedcalError(
            "expected runs, found none named and no grid before: give a folder of runs, an id, or "
            "last, or run embedcal grid first"
        )
    say(f"runs {last}")
    return [last]


def _run_folder(name: str, cache: Path | None) -> Path:
    from embedcal.caching import which_cache
    from embedcal.datasets.printable import printable
    from embedcal.errors import EmbedcalError
    from embedcal.interchange import find_run

    path = Path(name)
    if path.exists():
        return path
    if path.name != name:  # an id has no folder before it
        raise EmbedcalError(
            f"expected a folder of runs, found nothing at {printable(name, longest=300)}: check "
            "the path"
        )
    return find_run(name, which_cache(cache)).folder


def row_numbers(text: str) -> list[int]:
    """Rows of a cache as they are typed: ``3,17,250``."""
    from embedcal.errors import EmbedcalError

    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise EmbedcalError(
            f"expected rows of the cache as numbers, found '{text}': write, say, 3,17,250"
        ) from None
