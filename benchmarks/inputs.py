"""Memory while building a cache from tar shards and from Parquet: bytes for each further row.

Each build runs in a process of its own, twice as columns in files, as they are, and twice as
columns in memory; a row is what the larger one takes more, over the rows that it has more.
"""

from __future__ import annotations

import argparse
import io
import json
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from measure import Reading, Row, spread
from memory import SMAPS, Peak, own

FORMS = ("webdataset", "parquet")
SIZES, QUICK = (10_000, 60_000), (500, 1500)
SHARD = 5000  # samples
LIMIT = 0.25  # of what the columns in memory take


class Blank:
    """An encoder that does nothing: what is measured is the table."""

    def __init__(self) -> None:
        from embedcal.encoders.base import EncoderMeta

        self.meta = EncoderMeta(
            name="blank", weights="none", weights_sha256="0" * 64, library="numpy",
            preprocessing={}, precision="fp32", shapes={"embedding": (4,)}, text_shapes={},
            context_length=0,
        )  # fmt: skip

    def prepare(self, image: Any) -> np.ndarray:
        return np.asarray(image)

    def images(self, pixels: np.ndarray, levels: Sequence[str]) -> dict[str, np.ndarray]:
        return {level: np.zeros((len(pixels), 4), np.float32) for level in levels}

    def text(self, prompts: Sequence[str]) -> dict[str, np.ndarray]:
        return {}

    def projection(self) -> None:
        return None


def picture(i: int) -> bytes:
    return b"P6\n1 1\n255\n" + bytes([i % 256, i // 256 % 256, i // 65536 % 256])


def write(folder: Path, form: str, n: int) -> None:
    """``n`` images of one pixel, with a label and an attribute, in shards."""
    for start in range(0, n, SHARD):
        rows = range(start, min(start + SHARD, n))
        name = f"train-{start // SHARD:06d}"
        if form == "parquet":
            import pyarrow as pa
            import pyarrow.parquet as pq

            columns = {
                "image": [picture(i) for i in rows],
                "id": [f"{name}/{i:09d}" for i in rows],
                "y": [("dry", "wet")[i % 2] for i in rows],
                "a": [("land", "sea")[i // 2 % 2] for i in rows],
            }
            pq.write_table(pa.table(columns), folder / f"{name}.parquet", row_group_size=1000)
            continue
        with tarfile.open(folder / f"{name}.tar", "w") as sink:
            for i in rows:
                label = json.dumps({"y": ("dry", "wet")[i % 2], "a": ("land", "sea")[i // 2 % 2]})
                for suffix, data in (("ppm", picture(i)), ("json", label.encode())):
                    info = tarfile.TarInfo(f"{i:09d}.{suffix}")
                    info.size = len(data)
                    sink.addfile(info, io.BytesIO(data))


def child(folder: Path, *, in_memory: bool) -> dict[str, int]:
    """Build one cache in this fresh process; bytes above those after imports."""
    import PIL.PpmImagePlugin  # noqa: F401

    from embedcal.cache import BuildOptions, build_cache
    from embedcal.datasets import read_manifest, scratch, stored_text

    if in_memory:
        stored_text.ROWS, scratch.SMALL = 1 << 40, 1 << 60
    before, peak = own(), Peak()
    peak.start()
    manifest = read_manifest(folder)
    options = BuildOptions(out=folder.parent / "made.h5", batch_size=256, templates=())
    rows = build_cache(manifest, Blank(), options=options).rows  # type: ignore[arg-type]
    most = peak.stop()
    return {"above": most["anonymous"] - before["anonymous"], "rows": rows}


def in_child(form: str, n: int, *, in_memory: bool) -> int:
    """Bytes above those after imports, of a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "source"
        source.mkdir()
        write(source, form, n)
        command = [sys.executable, __file__, str(source), *(["--in-memory"] if in_memory else [])]
        done = subprocess.run(
            command, check=True, stdout=subprocess.PIPE, text=True, env=_at(Path(folder) / "home")
        )
    found: dict[str, int] = json.loads(done.stdout.splitlines()[-1])
    assert found["rows"] == n
    return found["above"]


def _at(home: Path) -> dict[str, str]:
    import os

    return {**os.environ, "EMBEDCAL_HOME": str(home)}


def measure(*, quick: bool, sizes: Sequence[int] = SIZES) -> list[Row]:
    """Nothing off Linux."""
    if not SMAPS.exists():
        return []
    few, many = QUICK if quick else sizes
    return [_row(form, few, many) for form in FORMS]


def _row(form: str, few: int, many: int) -> Row:
    each = []
    for in_memory in (False, True):
        above = [in_child(form, n, in_memory=in_memory) for n in (few, many)]
        each.append((above[1] - above[0]) / (many - few))
    ours, theirs = each
    return Row(
        name=f"memory for each row while caching {form}",
        ours=Reading(what="columns in files", value=ours, unit="bytes"),
        baseline=Reading(what="columns in memory", value=theirs, unit="bytes"),
        ratio=spread([ours / theirs]),
        target=LIMIT,
        at_most=True,
        note=f"anonymous memory at its most, {many:,} rows against {few:,}",
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--in-memory", action="store_true")
    parser.add_argument("--rows", type=int, nargs=2, default=SIZES, metavar=("FEW", "MANY"))
    given = parser.parse_args()
    if given.folder is not None:
        print(json.dumps(child(given.folder, in_memory=given.in_memory)))
    else:
        for row in measure(quick=False, sizes=given.rows):
            print(
                f"{row.name}: {row.ours.value:,.0f} bytes, {row.baseline.value:,.0f} with "
                f"{row.baseline.what} ({row.note})"
            )
