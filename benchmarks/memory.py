"""Anonymous memory while fitting, above that after imports, against the features' bytes."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

from measure import Reading, Row, spread

SMAPS = Path("/proc/self/smaps_rollup")
TIMES, EXTRA = 1.5, 200e6
PAUSE = 0.005  # seconds between two looks


def anonymous() -> int:
    """Bytes of this process's memory that no file stands behind (Linux)."""
    for line in SMAPS.read_text().splitlines():
        if line.startswith("Anonymous:"):
            return 1024 * int(line.split()[1])
    raise AssertionError("smaps_rollup without Anonymous")


class Peak(threading.Thread):
    """Looks at the memory all the time and keeps the most that it saw."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.bytes = anonymous()
        self._over = threading.Event()

    def run(self) -> None:
        while not self._over.wait(PAUSE):
            self.bytes = max(self.bytes, anonymous())

    def stop(self) -> int:
        self._over.set()
        self.join()
        return max(self.bytes, anonymous())


def child(path: Path, method: str) -> dict[str, int]:
    """Fit one method in this fresh process; bytes above those after imports, and of features."""
    import open_clip  # noqa: F401 - part of what a fit may have loaded
    import sklearn.linear_model  # noqa: F401
    import torch

    from embedcal.cache import open_cache
    from embedcal.fitting import fit_on
    from embedcal.heads import load_head
    from embedcal.keep import Keeper  # noqa: F401
    from embedcal.train import train  # noqa: F401
    from embedcal.workbench import Workbench

    torch.randn(64, 64) @ torch.randn(64, 64)  # the threads and their buffers
    before, peak = anonymous(), Peak()
    peak.start()
    with open_cache(path) as cache:
        on = Workbench(cache)
        options = {"epochs": 2, "head": "projection"} if method == "erm" else {}
        run = fit_on(on, method, options, out=path.parent / "runs", device="cpu")
        level = load_head(run.folder / "head.safetensors").level
        used = sum(on.split(split, level).x.nbytes for split in ("train", "val", "test"))
    return {"above": peak.stop() - before, "features": used, "before": before}


def measure(*, quick: bool) -> list[Row]:
    """One process a method, on a cache as large as Waterbirds'; nothing off Linux."""
    if not SMAPS.exists():
        return []
    with tempfile.TemporaryDirectory() as folder:
        from synthetic import WATERBIRDS, feature_cache

        path = feature_cache(Path(folder), (500, 300, 200) if quick else WATERBIRDS)
        return [
            _row(method, _in_child(path, method))
            for method in (("erm",) if quick else ("erm", "dfr"))
        ]


def _in_child(path: Path, method: str) -> dict[str, int]:
    command = [sys.executable, __file__, str(path), method]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, int] = json.loads(done.stdout.splitlines()[-1])
    return found


def _row(method: str, found: dict[str, int]) -> Row:
    features = found["features"]
    limit = TIMES + EXTRA / features
    return Row(
        name=f"anonymous memory while fitting {method}",
        ours=Reading(what="above that after imports", value=found["above"] / 1e6, unit="MB"),
        baseline=Reading(what="features used", value=features / 1e6, unit="MB"),
        ratio=spread([found["above"] / features]),
        target=limit,
        at_most=True,
        note=f"{TIMES:g} times the features and {EXTRA / 1e6:.0f} MB; "
        f"imports take {found['before'] / 1e6:.0f} MB",
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("path", type=Path)
    parser.add_argument("method")
    given = parser.parse_args()
    print(json.dumps(child(given.path, given.method)))
