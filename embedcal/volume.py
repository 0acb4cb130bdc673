"""How much a command tells on standard error: mistakes only, what matters, or all that it does.

The answer on standard output is the same for all three.
"""

from __future__ import annotations

import logging
import sys
from enum import IntEnum


class Volume(IntEnum):
    """``QUIET``: mistakes; ``NORMAL``: notes and bars; ``VERBOSE``: also the library's own log."""

    QUIET = 0
    NORMAL = 1
    VERBOSE = 2


_LEVELS = {
    Volume.QUIET: logging.ERROR,
    Volume.NORMAL: logging.NOTSET,  # as the caller's program has it; else warnings
    Volume.VERBOSE: logging.DEBUG,
}
_volume = Volume.NORMAL


class _Lines(logging.Handler):
    """One line a record on whatever standard error is by then, with what a file said escaped."""

    def emit(self, record: logging.LogRecord) -> None:
        from embedcal.datasets.printable import printable

        line = printable(f"{record.name}: {record.getMessage()}", longest=4000)
        sys.stderr.write(f"{line}\n")


def volume() -> Volume:
    """What the command in this process was asked for; ``NORMAL`` where there is no command."""
    return _volume


def set_volume(to: Volume) -> None:
    """Choose for this process: notes, bars, and the log of ``embedcal``. Others stay as is."""
    global _volume
    _volume = to
    log = logging.getLogger("embedcal")
    for handler in [each for each in log.handlers if isinstance(each, _Lines)]:
        log.removeHandler(handler)
    if to is Volume.VERBOSE:
        log.addHandler(_Lines())
    log.setLevel(_LEVELS[to])
