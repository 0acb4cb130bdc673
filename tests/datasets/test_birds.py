"""The embedded world: its structure is Waterbirds', its bytes depend on (rows, seed) alone."""

from __future__ import annotations

import csv
import errno
import itertools
import os
import resource
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from embedcal.datasets.birds import render
from embedcal.datasets.birds.plan import FEWEST_ROWS, WATERBIRDS_COUNTS, group_counts, plan
from embedcal.types import EmbedcalError

ROWS, SEED = 240, 1234


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return render(tmp_path_factory.mktemp("birds") / "world", rows=ROWS, seed=SEED, workers=1)


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def mask_of(world: Path, filename: str) -> np.ndarray:
    with Image.open(world / "segmentations" / filename) as mask:
        assert mask.mode == "L"
        return np.asarray(mask)


def test_bytes_do_not_depend_on_workers(world: Path, tmp_path: Path) -> None:
    assert contents(render(tmp_path / "again", rows=ROWS, seed=SEED, workers=3)) == contents(world)


def test_another_seed_gives_other_pictures(world: Path) -> None:
    ours, other = plan(ROWS, SEED), plan(ROWS, SEED + 1)
    assert [row.filename for row in ours] != [row.filename for row in other]
    assert not np.array_equal(ours[0].draw().image, other[0].draw().image)


def test_no_two_pictures_are_equal(world: Path) -> None:
    pictures = Counter(
        data for name, data in contents(world).items() if name.startswith(("land", "water"))
    )
    assert len(pictures) == ROWS
    assert set(pictures.values()) == {1}


def test_metadata_has_the_columns_of_waterbirds(world: Path) -> None:
    rows = table(world / "metadata.csv")
    columns = ["img_id", "img_filename", "y", "split", "place", "place_filename"]
    assert list(rows[0]) == columns
    assert [int(row["img_id"]) for row in rows] == list(range(1, ROWS + 1))
    for row in rows:
        assert row["img_filename"].startswith(("landbird/", "waterbird/")[int(row["y"])])
        water = row["place_filename"].split("/")[2] in {"ocean", "lake", "river"}
        assert water == (row["place"] == "1")


def test_groups_are_in_the_proportions_of_waterbirds(world: Path) -> None:
    rows = table(world / "metadata.csv")
    found = Counter((int(r["split"]), 2 * int(r["y"]) + int(r["place"])) for r in rows)
    for split, group in itertools.product(range(3), range(4)):
        wanted = WATERBIRDS_COUNTS[split][group] * ROWS / 11788
        assert abs(found[split, group] - wanted) < 1


def test_the_half_and_the_whole_world_have_the_known_counts() -> None:
    assert group_counts(11788) == [list(counts) for counts in WATERBIRDS_COUNTS]
    half = group_counts(5894)
    assert half[0] == [1749, 92, 28, 529]
    assert sum(map(sum, half)) == 5894


def test_every_group_has_an_image_in_the_smallest_world() -> None:
    assert min(min(counts) for counts in group_counts(FEWEST_ROWS)) == 1


def test_masks_and_boxes_agree(world: Path) -> None:
    names = {row["img_id"]: row["img_filename"] for row in table(world / "metadata.csv")}
    boxes = table(world / "bounding_boxes.csv")
    assert list(boxes[0]) == ["img_id", "x", "y", "width", "height"]
    assert [box["img_id"] for box in boxes] == list(names)
    for box in boxes:
        mask = mask_of(world, names[box["img_id"]])
        assert mask.shape == (64, 64)
        assert set(np.unique(mask)) == {0, 255}
        x, y, width, height = (int(box[key]) for key in ("x", "y", "width", "height"))
        assert mask[y : y + height, x : x + width].sum() == mask.sum()
        inside = mask[y : y + height, x : x + width] > 0
        assert inside[[0, -1]].any(1).all()
        assert inside[:, [0, -1]].any(0).all()


def test_a_mask_lies_on_the_bird() -> None:
    # Crows are nearly black whatever they stand before: under the mask it is dark, beside it not.
    dark, light = [], []
    for row in plan(1000, SEED):
        if row.species.name == "crow":
            scene = row.draw()
            brightness = scene.image.mean(2)
            dark.append(np.median(brightness[scene.mask]))
            light.append(np.median(brightness[~scene.mask]))
    assert np.mean(np.array(dark) + 15 < np.array(light)) > 0.7


def test_pictures_are_64_pixels_of_rgb(world: Path) -> None:
    for row in table(world / "metadata.csv")[:20]:
        with Image.open(world / row["img_filename"]) as picture:
            assert (picture.mode, picture.size) == ("RGB", (64, 64))


def test_progress_counts_to_the_end(tmp_path: Path) -> None:
    seen: list[int] = []
    render(tmp_path / "world", rows=FEWEST_ROWS, workers=2, progress=seen.append)
    assert seen == list(range(1, FEWEST_ROWS + 1))


def test_a_complete_folder_is_left_alone(world: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in world.rglob("*")}
    assert render(world, rows=ROWS, seed=SEED, progress=lambda done: pytest.fail("drew")) == world
    assert {path: path.stat().st_mtime_ns for path in world.rglob("*")} == before


def test_an_interrupted_rendering_leaves_nothing(tmp_path: Path) -> None:
    def interrupt(done: int) -> None:
        assert not (tmp_path / "world").exists()
        if done == 30:
            raise KeyboardInterrupt

    for workers in (1, 2):
        with pytest.raises(KeyboardInterrupt):
            render(tmp_path / "world", rows=ROWS, seed=SEED, workers=workers, progress=interrupt)
        assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("workers", [1, 2])
def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path, workers: int) -> None:
    def world(folder: Path) -> str:
        with pytest.raises(EmbedcalError, match="set EMBEDCAL_HOME to another folder") as told:
            render(folder, rows=ROWS, seed=SEED, workers=workers)
        return str(told.value)

    (tmp_path / "file").write_text("")
    assert os.strerror(errno.ENOTDIR) in world(tmp_path / "file" / "home" / "world")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))  # pictures are larger
    try:
        assert os.strerror(errno.EFBIG) in world(tmp_path / "world")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_killed_rendering_does_not_look_complete(tmp_path: Path) -> None:
    code = (
        "import os; from pathlib import Path; from embedcal.datasets.birds import render\n"
        f"render(Path({str(tmp_path / 'world')!r}), rows={ROWS}, workers=1,"
        " progress=lambda done: os._exit(9) if done == 50 else None)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 9
    left = list(tmp_path.iterdir())
    assert [path.name.startswith(".world.part-") for path in left] == [True]
    assert not (left[0] / "birds.json").exists()
    assert render(tmp_path / "world", rows=ROWS, seed=SEED, workers=1).is_dir()


def test_a_script_without_a_main_guard_may_render(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "from pathlib import Path\nfrom embedcal.datasets.birds import render\n"
        f"print(render(Path({str(tmp_path / 'world')!r}), rows={FEWEST_ROWS}, workers=2))\n"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, str(script)],
        cwd=root,
        env={"PYTHONPATH": str(root)},
        check=True,
        capture_output=True,
        text=True,
    )
    assert done.stdout.strip() == str(tmp_path / "world")


def test_another_world_in_the_folder_is_refused(world: Path) -> None:
    with pytest.raises(EmbedcalError, match=r"found another world .*1234.*name another folder"):
        render(world, rows=ROWS, seed=SEED + 1)


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(EmbedcalError, match="found something else: name another folder"):
        render(tmp_path, rows=ROWS)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_a_folder_that_lost_a_picture_is_refused(tmp_path: Path) -> None:
    folder = render(tmp_path / "world", rows=FEWEST_ROWS, workers=1)
    next(folder.glob("landbird/*/*.png")).unlink()
    with pytest.raises(EmbedcalError, match=f"found {2 * FEWEST_ROWS - 1} PNG files"):
        render(folder, rows=FEWEST_ROWS)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rows": FEWEST_ROWS - 1}, rf"expected rows .* at least {FEWEST_ROWS}.*found .*: ask for"),
        ({"rows": 0}, "found 0: ask for more"),
        ({"rows": True}, "found True"),
        ({"rows": 500.0}, r"found 500\.0"),
        ({"seed": -1}, "seed to be an integer from 0 to 4294967295, found -1: take, say, 0"),
        ({"seed": 2**32}, "found 4294967296"),
        ({"workers": 0}, "workers to be a positive integer, found 0: leave it out"),
    ],
)
def test_bad_arguments_are_explained(
    tmp_path: Path, arguments: dict[str, int], message: str
) -> None:
    with pytest.raises(EmbedcalError, match=message) as error:
        render(tmp_path / "world", **arguments)
    assert "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_importing_and_rendering_leave_torch_alone(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; import embedcal.datasets.birds as birds\n"
        "print([m for m in ('torch', 'open_clip') if m in sys.modules])\n"
        f"birds.render(Path({str(tmp_path / 'world')!r}), rows={FEWEST_ROWS}, workers=1)\n"
        "print([m for m in ('torch', 'open_clip') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.splitlines() == ["[]", "[]"]
