"""How often the test rows of a cache were scored: the more often, the less a best result means.

One small file for each cache, below ``scored/`` in embedcal's data folder; every run adds a line
with the rules that its test predictions were scored under. It knows what this machine has done,
whatever has become of the runs since.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from embedcal.datasets.places import data_dir
from embedcal.evaluate import RULES


@dataclass(frozen=True, kw_only=True)
class Count:
    """``runs`` different runs were scored, ``times`` in all."""

    runs: int
    times: int


def log(fingerprint: str, run: str, rules: Iterable[str]) -> None:
    """Note that the test predictions of a run were scored under these rules.

    A home that cannot be written to does not keep a run from being stored.
    """
    line = json.dumps({"run": run, "rules": sorted(rules)}) + "\n"
    path = _path(fingerprint)
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            os.write(file, line.encode())
        finally:
            os.close(file)


def count(fingerprint: str, rule: str) -> Count:
    """How often the test rows of the cache of this fingerprint were scored under a rule.

    A solver's run has a rule of its own, and stands under every one.
    """
    shared = {known.name for known in RULES}
    try:
        lines = _path(fingerprint).read_text().splitlines()
    except OSError:
        lines = []
    runs = []
    for line in lines:
        with contextlib.suppress(ValueError, KeyError, TypeError):
            entry = json.loads(line)
            if rule in entry["rules"] or not shared & set(entry["rules"]):
                runs.append(entry["run"])
    return Count(runs=len(set(runs)), times=len(runs))


def _path(fingerprint: str) -> Path:
    return data_dir() / "scored" / f"{fingerprint[:32]}.jsonl"
