"""Features that stay in the file: when they do, and in which order training goes through them.

What is held in memory is shuffled whole. What is larger is read a batch at a time, and rows drawn
from anywhere would cost a reading of the disk each. So it is shuffled by blocks: the rows that a
method trains on are cut into blocks of 64 that lie one after another, the blocks are put in random
order, and the rows of each 256 blocks in a row, a window, are mixed.

Every row comes once an epoch. A batch of b rows is of one window, or of two that follow each
other, and rows of one block are less than K B = 16,384 places apart (B rows a block, K blocks a
window): until a window is done, no more of the file is read than its rows. Up to K B rows there is
one window, and the shuffle is that of memory: every order is as likely as any other.

Where n is a multiple of B, a row is equally likely at each place, so that a batch has the shares
of classes and groups that the data have, on average. How far it strays depends on the file. In the
worst, sorted by class, each block is of one class; a share p of a class among N blocks has the
variance

    V_w = p (1 - p) / K * (N - K) / (N - 1)

in a window of K blocks, and in a batch of b rows of it

    V_w + (p (1 - p) - V_w) / b * (K B - b) / (K B - 1),

as rows are drawn without replacement twice. For b = 128 and large N the standard deviation is
0.108 sqrt(p (1 - p)), against 0.088 of a whole shuffle. A file in random order loses nothing.

Some methods repeat rows: JTT puts what it got wrong into an epoch many times. Copies that lay side
by side would fill blocks of their own, and be of one window. So before blocks are cut, m copies of
a row are put an m-th of the rows apart. Where that is a block or more, a window has as many of
them as a hand of K out of N cards has of m: K m / N on average, with the variance
K m / N (1 - m / N) (N - K) / (N - 1). Copies are read from where their row lies, so a window reads
as many rows from elsewhere in the file as it has copies.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from embedcal.types import EmbedcalError, IntArray

if TYPE_CHECKING:
    import torch
    from torch import Tensor

BLOCK = 64  # rows that lie one after another: 256 KB of 1024 numbers, what a disk reads at once
WINDOW = 256  # blocks whose rows are mixed
VERSION = 2  # of this shuffle: 1 left copies of a row side by side
SHARE = 0.5  # of the machine's memory, that features may take where nothing else is said

_UNITS = {"": 1}
_UNITS |= {unit: 1000**power for power, unit in enumerate(("K", "M", "G", "T"), 1)}
_UNITS |= {unit: 1024**power for power, unit in enumerate(("KI", "MI", "GI", "TI"), 1)}
_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*((?:[KMGT]I?)?)B\s*", re.IGNORECASE)


def block_order(
    n: int,
    generator: torch.Generator,
    *,
    rows: IntArray | None = None,
    block: int = BLOCK,
    window: int = WINDOW,
) -> Tensor:
    """Positions (n,) below n, each once, shuffled by blocks as this module says.

    ``rows`` (n,) are the rows of which the positions are copies, where a row may come again.
    """
    import torch

    blocks = torch.randperm(-(-n // block), generator=generator)
    windows = []
    for some in torch.split(blocks, window):
        places = (some[:, None] * block + torch.arange(block)).flatten()
        places = places[places < n]  # the last block of the file may be short
        windows.append(places[torch.randperm(len(places), generator=generator)])
    order = torch.cat(windows) if windows else blocks
    return order if rows is None else spread(rows)[order]


def spread(rows: IntArray) -> Tensor:
    """Positions (n,) as blocks are cut from them: m copies of a row an m-th of all rows apart.

    Where every row comes once, these are the positions as they are.
    """
    import numpy as np
    import torch

    _, which, copies = np.unique(rows, return_inverse=True, return_counts=True)
    if len(copies) == len(rows):
        return torch.arange(len(rows))
    number = np.empty(len(rows), np.int64)  # of a copy among those of its row, from 0
    number[np.argsort(which, kind="stable")] = np.arange(len(rows)) - np.repeat(
        copies.cumsum() - copies, copies
    )
    place = (which / len(copies) + number / copies[which]) % 1
    return torch.from_numpy(np.argsort(place, kind="stable"))


def how() -> Mapping[str, int]:
    """The shuffle as the record of a run has it, and as it decides the run's id."""
    return {"block": BLOCK, "window": WINDOW, "version": VERSION}


def limit(memory: str | int | None) -> int:
    """Bytes that the features of one level may take: ``"2GB"``, a number, or half the machine's.

    The share is of all memory, not of what is free: that changes by the minute, and what stays in
    the file decides a run's id. EmbedcalError for a text that is no size.
    """
    if memory is None:
        return int(SHARE * machine_memory())
    if isinstance(memory, int) and not isinstance(memory, bool) and memory >= 0:
        return memory
    found = _SIZE.fullmatch(memory) if isinstance(memory, str) else None
    if found is None:
        raise EmbedcalError(
            f"expected --memory as a size such as 2GB or 500MB, found {memory!r}: write a number "
            "and KB, MB, GB, TB or KiB, MiB, GiB, TiB"
        )
    number, unit = found.groups()
    return int(float(number) * _UNITS[unit.upper()])


def whole(rows: int, shape: tuple[int, ...]) -> int:
    """Bytes of so many rows of this shape in memory, where they are float32 whatever is stored."""
    return 4 * rows * math.prod(shape)


def left_in_file(
    rows: int, shapes: Mapping[Any, tuple[int, ...]], memory: str | int | None
) -> list[str]:
    """A line for people where features of a cache stay in the file under this limit, or none."""
    most = limit(memory)
    found = {level: whole(rows, shape) for level, shape in shapes.items() if level != "tokens"}
    over = [f"{level} ({size(count)})" for level, count in found.items() if count > most]
    return [f"left in the file, as the limit is {size(most)}: {', '.join(over)}"] if over else []


def machine_memory(group: Path = Path("/sys/fs/cgroup")) -> int:
    """Bytes of memory that this machine has, or that its container may use (cgroup version 2)."""
    if "SC_PHYS_PAGES" not in getattr(os, "sysconf_names", {}):  # Windows
        return 8 << 30
    whole = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    try:
        return min(whole, int((group / "memory.max").read_text()))
    except (OSError, ValueError):  # no such file, or "max"
        return whole


def size(count: float) -> str:
    """Bytes for people: ``2.0 GB``."""
    for unit in ("bytes", "KB", "MB", "GB"):
        if count < 1000:
            return f"{count:.1f} {unit}" if unit != "bytes" else f"{count:.0f} bytes"
        count /= 1000
    return f"{count:,.1f} TB"
