"""Write a world as a folder in the structure of Waterbirds."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

import numpy as np
from PIL import Image

import embedcal
from embedcal.datasets.birds import ROWS
from embedcal.datasets.birds.plan import Row, plan
from embedcal.datasets.made import writing
from embedcal.types import EmbedcalError

# Raise it whenever the same (rows, seed) gives other pictures.
RENDERER = 1
MARK = "birds.json"
MASKS = "segmentations"
FAILED = "error "  # what a rendering process says before the number of an OSError

Box = tuple[int, int, int, int]


def render(
    folder: Path,
    *,
    rows: int = ROWS,
    seed: int = 0,
    workers: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> Path:
    """Render a world of `rows` scenes into `folder`, or return at once where it is already there.

    The folder holds `metadata.csv` (Waterbirds' columns), the pictures in `class/species/`, their
    masks at the same paths in `segmentations/` (0 and 255), `bounding_boxes.csv` (pixels: left,
    top, width, height) and `birds.json`. Its bytes depend on `rows` and `seed` alone. It appears
    whole: everything is written to a hidden folder beside it, which is then renamed.

    Args:
        folder: Where the world shall lie; absent, empty, or holding this very world.
        rows: Number of scenes. The default is half of Waterbirds.
        seed: Any 32-bit number.
        workers: Processes to draw with; by default one for each processor at hand, fewer for a
            small world.
        progress: Called, one call at a time but from any thread, with the number of scenes done.

    Raises:
        EmbedcalError: A bad argument, or a folder that holds something else or cannot be written.
    """
    rows_planned = plan(rows, seed)
    if workers is None:
        processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
        # A process takes about as long to start as a hundred scenes take to draw.
        workers = min(processors, 1 + rows // 400)
    if isinstance(workers, bool) or not isinstance(workers, int) or workers < 1:
        raise EmbedcalError(
            f"expected workers to be a positive integer, found {workers!r}: leave it out to use "
            "every processor"
        )
    folder = Path(folder)
    identity = {"renderer": RENDERER, "rows": rows, "seed": seed}
    with writing(folder, lambda: _holds(folder, identity)) as partial:
        if partial is not None:
            _write(partial, identity, rows_planned, workers, progress)
    return folder


def _write(
    partial: Path,
    identity: dict[str, int],
    rows_planned: list[Row],
    workers: int,
    progress: Callable[[int], None] | None,
) -> None:
    _make_folders(partial, rows_planned)
    boxes: dict[int, Box] = {}
    lock = threading.Lock()

    def done(img_id: int, box: Box) -> None:
        with lock:
            boxes[img_id] = box
            if progress is not None:
                progress(len(boxes))

    if workers == 1:
        for img_id, box in write_share(partial, rows_planned):
            done(img_id, box)
    else:
        _write_in_processes(partial, identity, workers, done)
    _write_tables(partial, rows_planned, boxes)
    (partial / MARK).write_text(json.dumps(identity) + "\n", encoding="utf-8")


def write_share(
    folder: Path, rows: list[Row], *, part: int = 0, parts: int = 1
) -> Iterator[tuple[int, Box]]:
    """Draw every `parts`-th row from `part` on into `folder`; yield each image's id and box."""
    for row in rows[part::parts]:
        scene = row.draw()
        Image.fromarray(scene.image).save(folder / row.filename)
        mask = Image.fromarray(scene.mask.astype(np.uint8) * np.uint8(255))
        mask.save(folder / MASKS / row.filename)
        yield row.img_id, scene.box


def _holds(folder: Path, identity: dict[str, int]) -> bool:
    """Whether `folder` is that world, complete; false where there is nothing yet."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return False
    try:
        found = json.loads((folder / MARK).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        found = None
    if found != identity:
        what = "something else" if found is None else f"another world ({json.dumps(found)})"
        raise EmbedcalError(
            f"expected {folder} to be new, empty, or to hold the world {json.dumps(identity)}, "
            f"found {what}: name another folder, or remove it"
        )
    pictures = sum(1 for _ in folder.rglob("*.png"))
    tables = (folder / "metadata.csv").is_file() and (folder / "bounding_boxes.csv").is_file()
    if pictures != 2 * identity["rows"] or not tables:
        raise EmbedcalError(
            f"expected {2 * identity['rows']} PNG files, metadata.csv and bounding_boxes.csv in "
            f"{folder}, found {pictures} PNG files, or a table missing: remove the folder to have "
            "it rendered again"
        )
    return True


def _make_folders(folder: Path, rows: list[Row]) -> None:
    for below in {Path(row.filename).parent for row in rows}:
        (folder / below).mkdir(parents=True)
        (folder / MASKS / below).mkdir(parents=True)


def _write_in_processes(
    folder: Path, identity: dict[str, int], workers: int, done: Callable[[int, Box], None]
) -> None:
    """Share the rows among fresh interpreters, each followed by one thread.

    Not multiprocessing: its safe start methods import the caller's main script once more in
    every process, and a script without a main guard would then render in each of them.
    """
    root = str(Path(embedcal.__file__).parents[1])
    path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    # With -P no module in the working directory can stand in for one of ours.
    command = [sys.executable, "-P", "-m", "embedcal.datasets.birds", str(folder)]
    command += [str(identity["rows"]), str(identity["seed"])]
    environment = {**os.environ, "PYTHONPATH": path}
    children: list[subprocess.Popen[str]] = []

    def start(part: int) -> subprocess.Popen[str]:
        share = [*command, str(part), str(workers)]
        return subprocess.Popen(share, stdout=subprocess.PIPE, env=environment, text=True)

    def follow(child: subprocess.Popen[str]) -> None:
        assert child.stdout is not None
        for line in child.stdout:
            if line.startswith(FAILED):
                number = int(line.removeprefix(FAILED))
                raise OSError(number, os.strerror(number))
            img_id, left, top, width, height = map(int, line.split())
            done(img_id, (left, top, width, height))
        if child.wait() != 0:
            raise RuntimeError(f"a rendering process ended with status {child.returncode}")

    try:
        # One by one, so that those already started are ended if a later one cannot be.
        children.extend(start(part) for part in range(workers))
        with ThreadPoolExecutor(workers) as threads:
            try:
                for follower in as_completed([threads.submit(follow, child) for child in children]):
                    follower.result()
            except BaseException:
                # The other threads end with their children.
                for child in children:
                    child.kill()
                raise
    finally:
        for child in children:
            child.kill()
            child.wait()
            assert child.stdout is not None
            child.stdout.close()


def _write_tables(folder: Path, rows: list[Row], boxes: dict[int, Box]) -> None:
    with (folder / "metadata.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["img_id", "img_filename", "y", "split", "place", "place_filename"])
        table.writerows(
            [row.img_id, row.filename, row.y, row.split, row.place, row.place_filename]
            for row in rows
        )
    with (folder / "bounding_boxes.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["img_id", "x", "y", "width", "height"])
        table.writerows([row.img_id, *boxes[row.img_id]] for row in rows)
