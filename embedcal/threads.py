"""How many threads a piece of work is worth, decided by the work alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


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
