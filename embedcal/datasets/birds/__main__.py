"""One rendering process: draws its share of a world and prints `img_id x y width height` lines.

Or `error NUMBER`, where it could not write."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

from embedcal.datasets.birds.folder import FAILED, write_share
from embedcal.datasets.birds.plan import plan


def main() -> None:
    """Arguments: folder, rows, seed, part, parts."""
    # Ctrl-C reaches the whole group of processes: the one that started us ends us, quietly.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    folder = Path(sys.argv[1])
    rows, seed, part, parts = map(int, sys.argv[2:6])
    try:
        for img_id, box in write_share(folder, plan(rows, seed), part=part, parts=parts):
            sys.stdout.write(" ".join(map(str, (img_id, *box))) + "\n")
            sys.stdout.flush()
    except OSError as error:
        if error.errno is None:
            raise
        sys.stdout.write(f"{FAILED}{error.errno}\n")


if __name__ == "__main__":
    main()
