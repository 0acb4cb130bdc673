"""Work that threads cannot share, spread over short-lived copies of this process.

liblinear draws from one generator for the whole process, so fits in threads would draw each other's
numbers and no result could be had twice. A forked process shares the features and copies nothing.
"""

from __future__ import annotations

import multiprocessing
import signal
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from typing import Any, TypeVar

import numpy as np
import torch

from embedcal.types import FloatArray

Item = TypeVar("Item")


@contextmanager
def crew(work: Callable[[Item], FloatArray]) -> Iterator[Callable[[Sequence[Item]], list[Any]]]:
    """A function that does ``work``, arrays of float64 of one shape, on every item of a list.

    There are as many processes as torch has threads, this one among them, each on one thread. They
    are there from the block's begin to its end, so that a list may hang on what an earlier one
    gave, and share what ``work`` knows at its begin. Items are dealt out there and back, so that
    where they grow or shrink in order, as the fits of a list of C do, nobody gets the larger of
    every pair. Work may neither use torch nor draw from a shared generator.
    Elsewhere than on Linux, and in processes that may have no children, all is done here, as is
    whatever a child did not deliver: so an error is raised here too.
    """
    from threadpoolctl import threadpool_limits

    workers = torch.get_num_threads() if _may_fork() else 1
    context = multiprocessing.get_context("fork" if workers > 1 else None)
    children: list[tuple[Any, Connection]] = []

    def all_of(items: Sequence[Item]) -> list[FloatArray]:
        hands = [dealt(first, len(items), workers) for first in range(workers)]
        for (_, wire), hand in zip(children, hands[1:], strict=True):
            with suppress(OSError):  # a child that is gone delivers nothing below
                wire.send([items[k] for k in hand])
        done = {k: work(items[k]) for k in hands[0]}
        for (_, wire), hand in zip(children, hands[1:], strict=True):
            found: Sequence[FloatArray]
            try:
                found = list(np.frombuffer(wire.recv_bytes()).reshape(len(hand), *done[0].shape))
            except (EOFError, OSError, ValueError):
                found = [work(items[k]) for k in hand]
            done |= dict(zip(hand, found, strict=True))
        return [done[k] for k in range(len(items))]

    with warnings.catch_warnings(), threadpool_limits(1):
        # Python warns of forks beside threads: a child must not wait for what a thread holds.
        warnings.simplefilter("ignore", DeprecationWarning)
        try:
            for _ in range(1, workers):
                mine, theirs = context.Pipe()
                others = [wire for _, wire in children]
                child = context.Process(
                    target=_serve, args=(work, theirs, [mine, *others]), daemon=True
                )
                child.start()
                theirs.close()
                children.append((child, mine))
            yield all_of
        finally:
            for child, wire in children:
                wire.close()
                child.join()


def dealt(worker: int, count: int, workers: int) -> list[int]:
    """Which of ``count`` pieces a worker gets: of four for two, 0 and 3, or 1 and 2."""
    places = [*range(workers), *reversed(range(workers))]
    return [k for k in range(count) if places[k % len(places)] == worker]


def _may_fork() -> bool:
    return sys.platform == "linux" and not multiprocessing.current_process().daemon


def _serve(work: Callable[[Any], FloatArray], wire: Connection, others: list[Connection]) -> None:
    """In a child: list after list, until the parent hangs up. What fails is done again there.

    A terminal sends Ctrl-C to all: the child ends at once, and leaves the word to the parent.
    """
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    for other in others:
        other.close()  # copies of the parent's ends, which would keep them open
    with wire, suppress(EOFError, OSError):
        while True:
            items = wire.recv()
            reply = b""
            with suppress(Exception):
                reply = np.stack([work(item) for item in items]).astype(np.float64).tobytes()
            wire.send_bytes(reply)
