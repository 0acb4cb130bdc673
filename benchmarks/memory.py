"""Memory while fitting, above that after imports: features held in memory, and left in the file."""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

from measure import Reading, Row, spread

SMAPS = Path("/proc/self/smaps_rollup")
TIMES, EXTRA = 1.5, 200e6
STREAMED, EACH = 200e6, 200  # bytes of a streamed fit, whatever the features; and for each row
PAUSE = 0.005  # seconds between two looks


def own() -> dict[str, int]:
    """Bytes of this process that no file stands behind, and all that are resident (Linux)."""
    found = dict(re.findall(r"^(Anonymous|Rss): +(\d+) kB", SMAPS.read_text(), re.MULTILINE))
    return {"anonymous": int(found["Anonymous"]) << 10, "resident": int(found["Rss"]) << 10}


class Peak(threading.Thread):
    """Looks at the memory all the time and keeps the most that it saw."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.most = own()
        self._over = threading.Event()

    def run(self) -> None:
        while not self._over.wait(PAUSE):
            self._look()

    def _look(self) -> None:
        self.most = {name: max(value, self.most[name]) for name, value in own().items()}

    def stop(self) -> dict[str, int]:
        self._over.set()
        self.join()
        self._look()
        return self.most


def child(path: Path, method: str, memory: int | None) -> dict[str, int]:
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
    before, peak = own(), Peak()
    peak.start()
    with open_cache(path) as cache:
        on = Workbench(cache, None, memory)
        options = {"epochs": 2} if method == "erm" else {}
        run = fit_on(on, method, options, out=path.parent / "runs", device="cpu")
        most = peak.stop()
        level = load_head(run.folder / "head.safetensors").level
        width = cache.meta.shapes[level][0]
        rows = sum(len(on.split(split, level)) for split in ("train", "val", "test"))
    return {
        "above": most["anonymous"] - before["anonymous"],
        "resident": most["resident"] - before["resident"],
        "features": 4 * rows * width,
        "rows": rows,
        "before": before["anonymous"],
    }


def measure(*, quick: bool) -> list[Row]:
    """One process a fit: a cache as large as Waterbirds', and one five times the limit.

    Nothing off Linux.
    """
    if not SMAPS.exists():
        return []
    from synthetic import WATERBIRDS, feature_cache

    with tempfile.TemporaryDirectory() as folder:
        path = feature_cache(Path(folder), (500, 300, 200) if quick else WATERBIRDS)
        rows = [
            _row(method, in_child(path, method))
            for method in (("erm",) if quick else ("erm", "dfr"))
        ]
    with tempfile.TemporaryDirectory() as folder:
        path = feature_cache(Path(folder), (500, 300, 200) if quick else (20_000, 2_000, 2_000))
        memory = 1_000_000 if quick else 39_000_000
        return [*rows, *_streamed(in_child(path, "erm", memory), memory)]


def in_child(path: Path, method: str, memory: int | None = None) -> dict[str, int]:
    """What :func:`child` finds in a process of its own."""
    limit = [] if memory is None else ["--memory", str(memory)]
    command = [sys.executable, __file__, str(path), method, *limit]
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


def _streamed(found: dict[str, int], memory: int) -> list[Row]:
    features, most = found["features"], STREAMED + EACH * found["rows"]
    baseline = Reading(what="features used", value=features / 1e6, unit="MB")
    first = Row(
        name=f"... erm with --memory {memory / 1e6:g}MB",
        ours=Reading(what="above that after imports", value=found["above"] / 1e6, unit="MB"),
        baseline=baseline,
        ratio=spread([found["above"] / features]),
        target=most / features,
        at_most=True,
        note=f"{STREAMED / 1e6:g} MB and {EACH} bytes a row, {found['rows']:,} of them",
    )
    second = Row(
        name="... all that was resident",
        ours=Reading(what="above that after imports", value=found["resident"] / 1e6, unit="MB"),
        baseline=baseline,
        ratio=spread([found["resident"] / features]),
        note="pages of the file among it, which the system takes back when it needs them",
    )
    return [first, second]


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("path", type=Path)
    parser.add_argument("method")
    parser.add_argument("--memory", type=int)
    given = parser.parse_args()
    print(json.dumps(child(given.path, given.method, given.memory)))
