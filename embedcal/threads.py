"""How many threads a piece of work is worth, decided by the work alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

Part = TypeVar("Part")
Found = TypeVar("Found")


@contextmanager
def threads(*, shared: bool) -> Iterator[None]:
    """All of torch's threads inside the block if the work is worth sharing, else one.

    Threads that wait for each other in every small product gain little on a quiet machine and
    lose manifold on a busy one. ``shared`` must follow from the work and not from the
    machine's load, so that equal runs stay equal to the bit.
    """
    import torch

    before = torch.get_num_threads()
    if not shared:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def side_by_side(
    work: Callable[[Part], Found], parts: Sequence[Part], *, spare: bool = False
) -> list[Found]:
    """``work`` of every part, in order; torch's threads take a part each.

    Then none waits for another in a product, as those that share one do after each. Every part is
    the work of one thread, so that its numbers do not hang on how many there are; with ``spare``,
    threads without a part of their own join those of others, whose last bits may change by it.
    """
    import torch

    cores = torch.get_num_threads()
    workers = max(1, min(cores, len(parts)))
    each = cores // workers if spare else 1

    def begin() -> None:
        torch.set_num_threads(each)  # which OpenMP keeps by thread

    with threads(shared=False), ThreadPoolExecutor(workers, initializer=begin) as pool:
        return list(pool.map(work, parts))
