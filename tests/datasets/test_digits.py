"""Coloured digits: counts, colours and bytes depend on (rows, seed) alone."""

from __future__ import annotations

import csv
import hashlib
import io
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from embedcal.datasets import ReadOptions, benchmark, group_counts, read_manifest
from embedcal.datasets.digits import ROWS, make
from embedcal.datasets.digits.folder import COLORS, draw
from embedcal.datasets.digits.plan import plan
from embedcal.datasets.made import png, share_out
from embedcal.types import EmbedcalError

SMALL = 400


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("digits"), rows=SMALL, seed=1234, workers=1)


def table(folder: Path) -> list[dict[str, str]]:
    with (folder / "metadata.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def digests(folder: Path) -> tuple[str, str]:
    """SHA-256 of all files with their names, and of all pixels."""
    files, pixels = hashlib.sha256(), hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            files.update(path.relative_to(folder).as_posix().encode() + path.read_bytes())
        if path.suffix == ".png":
            with Image.open(path) as picture:
                pixels.update(np.asarray(picture).tobytes())
    return files.hexdigest(), pixels.hexdigest()


def test_bytes_and_pixels_are_those_of_every_machine(folder: Path) -> None:
    assert digests(folder) == (
        "dd46bcc51d2a7ef272e540eff4e9a07129c6bf2ecdaf83357ebd75b0e1ef363f",
        "ca3302970c683986a0236cbfafe5f66ee08197b8c797b73a55fb652c2fe52299",
    )


def test_bytes_do_not_depend_on_workers_and_home(folder: Path, tmp_path: Path) -> None:
    again = make(tmp_path, rows=SMALL, seed=1234, workers=3)
    assert digests(again) == digests(folder)
    assert again.name == folder.name


def test_the_columns_and_the_pictures(folder: Path) -> None:
    rows = table(folder)
    assert list(rows[0]) == ["id", "filename", "y", "split", "digit", "color"]
    assert len({row["id"] for row in rows}) == SMALL
    for row in rows:
        assert int(row["y"]) == int(row["digit"]) // 2
        with Image.open(folder / row["filename"]) as picture:
            assert (picture.mode, picture.size) == ("RGB", (64, 64))


def test_the_colour_is_where_the_table_says(folder: Path) -> None:
    for row in table(folder)[:50]:
        with Image.open(folder / row["filename"]) as picture:
            pixels = np.asarray(picture).astype(float).reshape(-1, 3)
        brightest = pixels[pixels.sum(1).argmax()]
        far = [np.abs(brightest - np.array(color)).sum() for color in COLORS]
        assert np.argmin(far) == int(row["color"])


def test_counts_are_those_of_the_facts_for_any_seed() -> None:
    from sklearn.datasets import load_digits

    digits = load_digits().target
    published = benchmark("digits").counts
    for seed in (0, 5):
        rows = plan(digits, rows=ROWS, seed=seed)
        found = Counter((row.split, 5 * row.y + row.color) for row in rows)
        for split, name in enumerate(("train", "val", "test")):
            assert [found[split, g] for g in range(25)] == list(published[name])
        assert len({row.image for row in rows}) == ROWS
        assert all(row.digit == digits[row.image] for row in rows)
    assert plan(digits, rows=ROWS, seed=0) != plan(digits, rows=ROWS, seed=5)
    assert min(published["train"]) >= 5


def test_both_digits_of_a_class_are_dealt_out_alike() -> None:
    digits = np.repeat(np.arange(10), [10 * k + 100 for k in range(10)])
    rows = plan(digits, rows=len(digits), seed=3)
    for split in range(3):
        for y in range(5):
            cell = Counter(row.digit for row in rows if (row.split, row.y) == (split, y))
            whole = [(digits == d).sum() for d in (2 * y, 2 * y + 1)]
            share = sum(cell.values()) / sum(whole)
            for digit, count in zip((2 * y, 2 * y + 1), whole):
                assert abs(cell[digit] - share * count) <= 1.5


@pytest.mark.parametrize("rows", [100, 333, 1500, None])
def test_it_is_read_without_a_warning_about_counts(rows: int | None) -> None:
    manifest = read_manifest("digits", options=ReadOptions(rows=rows, seed=2))
    assert len(manifest) == rows or ROWS
    assert manifest.attribute("color").values == ("red", "yellow", "green", "blue", "purple")
    assert sum(map(sum, group_counts(manifest).values())) == len(manifest)
    assert [line for line in manifest.warnings if "empty" not in line] == []


def test_ink_keeps_its_place_and_its_amount() -> None:
    image = np.zeros((8, 8), np.uint8)
    image[2, 5] = 16
    drawn = draw(image, 1)
    assert drawn.shape == (64, 64, 3)
    rows, columns = np.nonzero(drawn.sum(2) > 300)
    assert (rows.mean() // 8, columns.mean() // 8) == (2, 5)
    assert drawn[:, :32].max() == 0
    assert np.array_equal(draw(np.full((8, 8), 16, np.uint8), 2), np.full((64, 64, 3), COLORS[2]))


@pytest.mark.parametrize("shape", [(1, 1, 3), (28, 28, 3), (160, 150, 3)])
def test_our_png_is_read_by_pillow(shape: tuple[int, ...]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    with Image.open(io.BytesIO(png(pixels))) as picture:
        picture.load()
        assert np.array_equal(np.asarray(picture), pixels)
    with Image.open(io.BytesIO(png(pixels))) as picture:
        picture.verify()  # the checksums of its chunks


def test_shares_add_up_and_never_exceed_their_counts() -> None:
    for rows in range(0, 31):
        shares = share_out([1, 9, 0, 20], rows)
        assert sum(shares) == rows
        assert all(share <= count for share, count in zip(shares, [1, 9, 0, 20]))


def test_a_second_call_finds_the_first(folder: Path) -> None:
    def drew(done: int) -> None:
        pytest.fail("drew")

    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    assert make(folder.parent, rows=SMALL, seed=1234, progress=drew) == folder
    assert make(folder.parent, root=folder, progress=drew) == folder
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_whole_or_not_at_all(tmp_path: Path) -> None:
    def interrupt(done: int) -> None:
        if done == 30:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make(tmp_path, rows=100, progress=interrupt)
    assert list(tmp_path.iterdir()) == []
    code = (
        "import os; from pathlib import Path; from embedcal.datasets.digits import make\n"
        f"make(Path({str(tmp_path)!r}), rows=100, progress=lambda d: d < 50 or os._exit(9))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 9
    (left,) = tmp_path.iterdir()
    assert left.name.startswith(".rows-100-seed-0.part-")
    assert not (left / "made.json").exists()
    assert make(tmp_path, rows=100).is_dir()


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    made = make(tmp_path, rows=100)
    with pytest.raises(EmbedcalError, match=r"found another one .*seed.* name another folder"):
        make(tmp_path, root=made, rows=100, seed=5)
    next(made.rglob("*.png")).unlink()
    with pytest.raises(EmbedcalError, match="found 99, or no table: remove the folder"):
        make(tmp_path, rows=100)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.md").touch()
    with pytest.raises(EmbedcalError, match="found something else"):
        make(tmp_path, root=tmp_path / "mine")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write into any folder")
def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(EmbedcalError, match="set EMBEDCAL_HOME to another folder"):
        make(tmp_path / "home", rows=100)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rows": 99}, "expected rows to be an integer from 100 to 1797, found 99"),
        ({"rows": 1798}, "found 1798"),
        ({"rows": True}, "found True"),
        ({"seed": -1}, "expected seed to be an integer from 0 to 4294967295, found -1"),
        ({"workers": 0}, "expected workers"),
    ],
)
def test_bad_arguments_are_explained(tmp_path: Path, arguments: dict, message: str) -> None:
    with pytest.raises(EmbedcalError, match=message) as error:
        make(tmp_path, **arguments)
    assert "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_making_leaves_torch_alone(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; import embedcal.datasets.digits as digits\n"
        "print([m for m in ('torch', 'sklearn', 'PIL') if m in sys.modules])\n"
        f"digits.make(Path({str(tmp_path)!r}), rows=100)\n"
        "print([m for m in ('torch', 'open_clip') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.splitlines() == ["[]", "[]"]
