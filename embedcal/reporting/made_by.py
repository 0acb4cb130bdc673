"""The commands that make the runs of a page again, and the versions that made them."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any

from embedcal import __version__
from embedcal.asked import GRID
from embedcal.comparing.recorded import RULE_NAMES, Found, Pool
from embedcal.reporting.content import Commands

LISTED = 100  # commands of single runs on a page
PACKAGES = ("torch", "open_clip_torch", "numpy", "scipy", "scikit-learn", "h5py", "matplotlib")


def commands(pool: Pool, found: Sequence[Found], first: Iterable[str]) -> Commands:
    """The grids' commands, and those of single runs: the chosen ones ``first``."""
    chosen = set(first)
    order = sorted(found, key=lambda item: item[0].id not in chosen)
    return Commands(
        grids=_grids(pool, found),
        runs=tuple((run.id, fit(run.record, entry["rule"])) for run, entry in order[:LISTED]),
        total=len(found),
    )


def fit(record: Mapping[str, Any], rule: str) -> str:
    """``embedcal fit`` with everything set that decides the run."""
    words = ["embedcal", "fit", record["method"], "--variant", record["variant"]]
    for name, value in record["options"].items():
        for item in value if isinstance(value, list) else [value]:
            words += [f"--{name.replace('_', '-')}", str(item)]
    words += ["--seed", str(record["seed"]), *_selected(rule)]
    words += [word for name in record["attributes"] for word in ("--attribute", name)]
    return shlex.join([*map(str, words), "--cache", str(record["cache"].get("path", ""))])


def _selected(rule: str) -> list[str]:
    """A solver's rule is its own, and is not asked for."""
    if rule not in RULE_NAMES:
        return []
    return ["--oracle"] if rule.startswith("oracle.") else ["--select", rule]


def _grids(pool: Pool, found: Sequence[Found]) -> tuple[str, ...]:
    """What ``grid.json`` of each folder says was asked of it over this cache and these attributes.

    Commands of a folder from before they were noted are taken for these.
    """
    written: list[str] = []
    folders = dict.fromkeys(
        (run.folder.parent, tuple(run.record["attributes"])) for run, _ in found
    )
    for folder, attributes in folders:
        here = {"fingerprint": pool.fingerprint, "attributes": list(attributes)}
        with suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
            asked = json.loads((folder / GRID).read_text())["commands"]
            mine = [
                each for each in asked if all(each.get(key, here[key]) == here[key] for key in here)
            ]
            written += [_grid(each, pool.path, folder, attributes) for each in mine]
    return tuple(dict.fromkeys(written))


def _grid(asked: Mapping[str, Any], cache: str, folder: Path, attributes: Sequence[str]) -> str:
    words = ["embedcal", "grid"]
    for method, axes in asked["runs"]:
        parts = [method]
        for name, axis in axes.items():
            values = [axis] if isinstance(axis, str) else map(_value, axis)
            parts.append(f"{name}={','.join(values)}")
        words.append(":".join(parts))
    seeds = [str(seed) for seed in asked["seeds"]]
    words += ["--seeds", ",".join(seeds) + ("," if len(seeds) == 1 else "")]
    words += _selected(asked["select"])
    if "budget" in asked:
        words += ["--budget", str(asked["budget"]), "--search", asked["search"]]
    words += [word for name in attributes for word in ("--attribute", name)]
    return shlex.join([*words, "--cache", cache, "--out", str(folder)])


def _value(value: Any) -> str:
    return "+".join(map(_value, value)) if isinstance(value, list) else str(value)


def versions(pools: Sequence[Pool]) -> dict[str, str]:
    """embedcal of the runs and of the page, Python, and what counts."""
    made = {str(run.record.get("embedcal", "")) for pool in pools for run in pool.done} - {""}
    found = {"embedcal, the runs": ", ".join(sorted(made)) or "not recorded"}
    found |= {"embedcal, this page": __version__, "Python": sys.version.split()[0]}
    for name in PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found
