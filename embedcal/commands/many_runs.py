"""What commands that do many runs over one cache share: options, and how they begin."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from embedcal.commands import completing
from embedcal.commands.shared import say

if TYPE_CHECKING:
    from embedcal.cache import FeatureCache
    from embedcal.progress import GridView

Seeds = Annotated[str, typer.Option(help="how many, or which: 5, or 0,3,7")]
Engine = Annotated[
    str,
    typer.Option(
        help="sequential, processes, batched, ray; auto", autocompletion=completing.engines
    ),
]
Jobs = Annotated[int | None, typer.Option(help="processes at once; one a core")]
RetryFailed = Annotated[bool, typer.Option("--retry-failed", help="do failed runs again")]


@contextmanager
def over_cache(
    cache: Path | None, attribute: Sequence[str] | None, memory: str | None
) -> Iterator[tuple[FeatureCache, GridView]]:
    """The cache to do runs over, and a view of how far they are; first a line on what it is.

    The cache is the one used last from now on, since runs that were begun may be gone on with.
    """
    from embedcal.annotating import notes
    from embedcal.answers.caches import cache_line
    from embedcal.cache import open_cache
    from embedcal.caching import which_cache
    from embedcal.datasets.places import remember_last_cache
    from embedcal.progress import grid_view
    from embedcal.streaming import left_in_file

    path = which_cache(cache)
    with open_cache(path) as opened:
        say(cache_line(opened.meta))
        left = left_in_file(opened.meta.rows, opened.meta.shapes, memory)
        for line in [*notes(opened, attribute), *left]:
            say(line)
        remember_last_cache(path)
        with grid_view() as view:
            yield opened, view
