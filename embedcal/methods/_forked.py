"""Work that threads cannot share, spread over short-lived copies of this process.

liblinear draws from one generator for the whole process, so fits in threads would draw each other's
numbers and no result could be had twice. A forked process shares the features and copies nothing.
"""

from __future__ import annotations

import multiprocessing
import sys
import warnings
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection

import numpy as np
import torch

from embedcal.types import FloatArray


def forked(work: Callable[[int], FloatArray], count: int) -> list[FloatArray]:
    """[work(0), ..., work(count - 1)], arrays of float64 and of one shape.

    There are as many processes as torch has threads, this one among them, each on one thread.
    Pieces are dealt out there and back, so that where they grow or shrink in order, as the fits of
    a list of C do, nobody gets the larger of every pair. Work may neither use torch nor draw from
    a shared generator.
    Elsewhere than on Linux, and in processes that may have no children, all is done here, as is
    whatever a child did not deliver: so an error is raised here too.
    """
    from threadpoolctl import threadpool_limits

    workers = min(torch.get_num_threads(), count) if _may_fork() else 1
    context = multiprocessing.get_context("fork" if workers > 1 else None)
    children = []
    with warnings.catch_warnings(), threadpool_limits(1):
        # Python warns of forks beside threads: a child must not wait for what a thread holds.
        warnings.simplefilter("ignore", DeprecationWarning)
        for first in range(1, workers):
            mine, theirs = context.Pipe(duplex=False)
            pieces = dealt(first, count, workers)
            child = context.Process(target=_deliver, args=(work, pieces, theirs), daemon=True)
            child.start()
            theirs.close()
            children.append((child, mine, pieces))
        try:
            done = {k: work(k) for k in dealt(0, count, workers)}
            shape = done[0].shape
            for _, mine, pieces in children:
                try:
                    found = np.frombuffer(mine.recv_bytes()).reshape(len(pieces), *shape)
                except EOFError:
                    found = np.stack([work(k) for k in pieces])
                done |= dict(zip(pieces, found, strict=True))
        finally:
            for child, mine, _ in children:
                mine.close()
                child.join()
    return [done[k] for k in range(count)]


def dealt(worker: int, count: int, workers: int) -> list[int]:
    """Which of ``count`` pieces a worker gets: of four for two, 0 and 3, or 1 and 2."""
    places = [*range(workers), *reversed(range(workers))]
    return [k for k in range(count) if places[k % len(places)] == worker]


def _may_fork() -> bool:
    return sys.platform == "linux" and not multiprocessing.current_process().daemon


def _deliver(work: Callable[[int], FloatArray], pieces: list[int], to: Connection) -> None:
    """In a child: all pieces at once, for a full pipe would hold it up; an end for a failure."""
    with to, suppress(Exception):  # what fails is done, and fails, in the parent
        to.send_bytes(np.stack([work(k) for k in pieces]).astype(np.float64).tobytes())
