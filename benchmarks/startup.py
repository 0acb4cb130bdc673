"""How long ``embedcal --help`` takes against an interpreter that does nothing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from statistics import median

from measure import Reading, Row, interleaved, quotients

TIMES, SECONDS = 12.0, 0.4  # whichever is less strict


def measure(*, quick: bool) -> list[Row]:
    """Wall seconds of whole processes."""
    command = [str(Path(sys.executable).with_name("embedcal")), "--help"]
    nothing = [sys.executable, "-c", "pass"]

    def run(arguments: list[str]) -> None:
        subprocess.run(arguments, check=True, stdout=subprocess.DEVNULL)

    seconds = interleaved(
        {"help": lambda: run(command), "nothing": lambda: run(nothing)},
        repetitions=5 if quick else 15,
    )
    ours, baseline = median(seconds["help"]), median(seconds["nothing"])
    return [
        Row(
            name="start-up",
            ours=Reading(what="embedcal --help", value=ours, unit="s"),
            baseline=Reading(what="python -c pass", value=baseline, unit="s"),
            ratio=quotients(seconds["help"], seconds["nothing"]),
            target=max(TIMES, SECONDS / baseline),
            at_most=True,
            note=f"{TIMES:g} times or {SECONDS:g} s, whichever is less strict",
        )
    ]
