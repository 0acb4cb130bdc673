"""Colored MNIST in both forms, against loops written from the description of the official code."""

from __future__ import annotations

import csv
import gzip
import hashlib
import math
import struct
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from embedcal.datasets import ReadOptions, benchmark_names, group_counts, read_manifest
from embedcal.datasets.colored_mnist import make
from embedcal.datasets.colored_mnist.idx import read_idx
from embedcal.datasets.colored_mnist.mnist import read_mnist
from embedcal.types import EmbedcalError

TRAIN, T10K = 600, 200
FILES = ("images-idx3-ubyte", "labels-idx1-ubyte")


def idx(array: np.ndarray) -> bytes:
    head = struct.pack(f">I{array.ndim}I", 0x0800 + array.ndim, *array.shape)
    return head + array.astype(np.uint8).tobytes()


def images_of(name: str, n: int) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(len(name))
    return draw.integers(0, 256, (n, 28, 28)).astype(np.uint8), draw.integers(0, 10, n)


def mnist(folder: Path, *names: str, zipped: bool = True) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names or ("train", "t10k"):
        for kind, array in zip(FILES, images_of(name, TRAIN if name == "train" else T10K)):
            data = idx(array)
            path = folder / f"{name}-{kind}{'.gz' if zipped else ''}"
            path.write_bytes(gzip.compress(data) if zipped else data)
    return folder


def table(folder: Path) -> list[dict[str, str]]:
    with (folder / "metadata.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def column(rows: list[dict[str, str]], name: str) -> list[int]:
    return [int(row[name]) for row in rows]


def digests(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
    }


def pixels(folder: Path, row: dict[str, str]) -> np.ndarray:
    with Image.open(folder / row["filename"]) as picture:
        return np.asarray(picture)


def official_5x5(seed: int) -> list[tuple[str, int, int, int]]:
    """(id, split, y, colour) with NumPy's global generator, as the official code uses it."""
    train, test = images_of("train", TRAIN)[1], images_of("t10k", T10K)[1]
    np.random.seed(seed)  # noqa: NPY002
    order = np.arange(TRAIN)
    np.random.shuffle(order)  # noqa: NPY002
    n_val = int(np.round(0.2 * TRAIN))
    rows = []
    for split, (name, digits, which) in enumerate(
        [("train", train, order[n_val:]), ("train", train, order[:n_val]),
         ("t10k", test, np.arange(T10K))]
    ):  # fmt: skip
        targets = [int(digits[i]) // 2 for i in which]
        colors = [-1] * len(which)
        np.random.seed(seed)  # noqa: NPY002
        for c in range(5):
            members = [k for k, target in enumerate(targets) if target == c]
            spurious = np.random.binomial(1, 0.995, size=len(members))  # noqa: NPY002
            for place, k in enumerate(members):
                if split == 0:
                    rest = [x for x in range(5) if x != c]
                    drawn = c if spurious[place] else np.random.choice(rest)  # noqa: NPY002
                else:
                    drawn = np.random.randint(5)  # noqa: NPY002
                colors[k] = int(drawn)
        rows += [
            (f"{name}-{i:05d}", split, t, a)
            for i, t, a in zip(which.tolist(), targets, colors, strict=True)
        ]
    return rows


@pytest.mark.parametrize("seed", [None, 7])
def test_5x5_is_the_official_draw(tmp_path: Path, seed: int | None) -> None:
    folder = make(tmp_path, root=mnist(tmp_path / "idx"), form="5x5", seed=seed)
    rows = table(folder)
    assert list(rows[0]) == ["id", "filename", "y", "split", "digit", "color"]
    found = [(r["id"], int(r["split"]), int(r["y"]), int(r["color"])) for r in rows]
    assert found == official_5x5(42 if seed is None else seed)


def test_2x2_is_the_official_draw(tmp_path: Path) -> None:
    folder = make(tmp_path, root=mnist(tmp_path / "idx"), form="2x2")
    rows = table(folder)
    digits = images_of("train", TRAIN)[1]
    cuts = [(0, 300), (300, 400), (400, 600)]
    for split, (start, end) in enumerate(cuts):
        draw = np.random.default_rng(666)
        flips = draw.random(end - start) < 0.25
        turns = draw.random(end - start) < 0.2
        mine = [row for row in rows if row["split"] == str(split)]
        assert [row["id"] for row in mine] == [f"train-{i:05d}" for i in range(start, end)]
        for row, digit, flip, turn in zip(mine, digits[start:end], flips, turns, strict=True):
            y = int((digit >= 5) != flip)
            assert (int(row["y"]), int(row["color"])) == (y, int(y != turn))


def test_5x5_is_painted_on_bright_pixels(tmp_path: Path) -> None:
    folder = make(tmp_path, root=mnist(tmp_path / "idx"), form="5x5")
    hsv = [(255, 0, 0), (208, 255, 0), (0, 255, 92), (0, 116, 255), (184, 0, 255)]
    for row in table(folder)[::40]:
        name, image = row["id"].split("-")
        grey = images_of(name, TRAIN if name == "train" else T10K)[0][int(image)]
        wanted = np.stack([grey] * 3, axis=-1)
        wanted[grey >= 120] = hsv[int(row["color"])]
        assert np.array_equal(pixels(folder, row), wanted)


def test_the_five_colours_are_those_of_matplotlib() -> None:
    import matplotlib as mpl

    from embedcal.datasets.colored_mnist.forms import HSV

    values = [mpl.colormaps["hsv"](value)[:3] for value in np.arange(0, 1, step=1 / 5)]
    assert [tuple(int(255 * channel) for channel in rgb) for rgb in values] == list(HSV)


def test_2x2_is_painted_into_one_channel(tmp_path: Path) -> None:
    folder = make(tmp_path, root=mnist(tmp_path / "idx"), form="2x2")
    for row in table(folder)[::40]:
        wanted = np.zeros((28, 28, 3), np.uint8)
        wanted[..., int(row["color"])] = images_of("train", TRAIN)[0][int(row["id"][6:])]
        assert np.array_equal(pixels(folder, row), wanted)


def test_plain_and_zipped_files_in_any_layout_are_one_data_set(tmp_path: Path) -> None:
    made = [
        make(tmp_path / str(i), root=root, form="5x5", rows=300, workers=workers)
        for i, (root, workers) in enumerate(
            [
                (mnist(tmp_path / "idx"), 1),
                (mnist(tmp_path / "torchvision/MNIST/raw", zipped=False).parents[1], 3),
            ]
        )
    ]
    assert made[0].name == made[1].name
    assert digests(made[0]) == digests(made[1])
    assert make(tmp_path / "0", root=tmp_path / "idx", form="5x5", rows=300) == made[0]


def test_another_mnist_is_another_folder(tmp_path: Path) -> None:
    first = make(tmp_path, root=mnist(tmp_path / "a"), form="5x5")
    mnist(tmp_path / "b")
    labels = images_of("t10k", T10K)[1][::-1]
    (tmp_path / "b" / "t10k-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(labels)))
    assert make(tmp_path, root=tmp_path / "b", form="5x5") != first
    assert make(tmp_path, root=first, form="5x5") == first  # one made earlier is named


def test_fewer_rows_are_a_part_of_all(tmp_path: Path) -> None:
    root = mnist(tmp_path / "idx")
    whole = table(make(tmp_path, root=root, form="5x5"))
    some = table(make(tmp_path, root=root, form="5x5", rows=200))
    assert Counter(column(some, "split")) == {0: 120, 1: 30, 2: 50}
    known = {row["id"]: row for row in whole}
    assert all(known[row["id"]] == row for row in some)


@pytest.mark.parametrize(("form", "cuts"), [("5x5", (120, 40, 40)), ("2x2", (100, 33, 67))])
def test_t10k_alone_is_cut_and_says_so(tmp_path: Path, form: str, cuts: tuple[int, ...]) -> None:
    name = {"5x5": "colored-mnist", "2x2": "colored-mnist-2x2"}[form]
    manifest = read_manifest(name, root=mnist(tmp_path / "idx", "t10k"))
    counts = group_counts(manifest)
    assert tuple(sum(counts[split]) for split in ("train", "val", "test")) == cuts
    assert len(counts["train"]) == {"5x5": 25, "2x2": 4}[form]
    sizes = "/".join(map(str, cuts))
    assert any(f"t10k files alone, cut into {sizes}" in line for line in manifest.warnings)
    assert len(set(manifest.ids)) == T10K


def test_whole_mnist_has_no_such_warning(tmp_path: Path) -> None:
    assert {"colored-mnist", "colored-mnist-2x2"} <= set(benchmark_names())
    manifest = read_manifest("colored-mnist", root=mnist(tmp_path / "idx"))
    assert not any("t10k" in line for line in manifest.warnings)


def test_what_is_missing_is_said(tmp_path: Path) -> None:
    for root, said in (
        (None, "expected a root with MNIST's files"),
        (tmp_path / "none", "expected train-images-idx3-ubyte, with or without .gz"),
        (mnist(tmp_path / "train", "train"), "expected t10k-images-idx3-ubyte"),
    ):
        with pytest.raises(EmbedcalError, match=said) as error:
            make(tmp_path, root=root, form="5x5")
        assert "\n" not in str(error.value)
    (mnist(tmp_path / "half") / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(EmbedcalError, match=r"expected t10k-labels-idx1-ubyte, .* beside its part"):
        make(tmp_path, root=tmp_path / "half", form="2x2")
    with pytest.raises(EmbedcalError, match="found '3x3'"):
        make(tmp_path, root=mnist(tmp_path / "idx"), form="3x3")
    with pytest.raises(EmbedcalError, match="expected rows to be an integer from 100 to 800"):
        make(tmp_path, root=tmp_path / "idx", form="5x5", rows=801)


GOOD = idx(np.zeros((3, 28, 28)))
ZIPPED = gzip.compress(GOOD, mtime=0)
HUGE = struct.pack(">I3I", 0x0803, 2**31, 28, 28)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "magic number 0x00000803 .* found 0x:"),
        (b"\x89PNG\r\n\x1a\n" + b"\0" * 20, "found 0x89504e47"),
        (idx(np.zeros(5)), "found 0x00000801"),
        (GOOD[:10], "magic number"),
        (GOOD[:-1], "expected 2,352 bytes behind the header .* found 2,351: get the file again"),
        (GOOD + b"x", "found more"),
        (HUGE, "expected at most 1,073,741,824 bytes"),
        (ZIPPED[:-12], "expected an idx file in .* end-of-stream"),
        (b"\x1f\x8b" + b"damaged", "expected an idx file in "),
        (ZIPPED[:-8] + b"\0" * 8, "CRC check failed"),
        (ZIPPED[:10] + b"\xff" * 30, "expected an idx file in .* invalid"),
    ],
    ids=range(11),
)
def test_damaged_files_get_one_line(tmp_path: Path, data: bytes, said: str) -> None:
    path = tmp_path / "t10k-images-idx3-ubyte"
    path.write_bytes(data)
    with pytest.raises(EmbedcalError, match=said) as error:
        read_idx(path, axes=3)
    assert "\n" not in str(error.value)


def test_files_that_do_not_fit_each_other(tmp_path: Path) -> None:
    images, labels = images_of("t10k", 5)
    for pictures, digits, said in (
        (images, labels[:4], "found 4 and 5"),
        (images[:0], labels[:0], "found 0 and 0"),
        (images[:, :20], labels, "found 20 x 28"),
        (images, labels + 10, "these files are not MNIST's"),
    ):
        for kind, array in zip(FILES, (pictures, digits)):
            (tmp_path / f"t10k-{kind}").write_bytes(idx(array))
        with pytest.raises(EmbedcalError, match=said):
            read_mnist(tmp_path)


@pytest.mark.parametrize(
    ("form", "digest"),
    [
        ("5x5", "000cac8c97a61c728ee33ac09ccad6e91c7224110f71527dc904a361a2fa203a"),
        ("2x2", "1ec8dd5bf19270b183ff3c8fa35f6b96dc1b80119cbbd9e2dc55d08b8d5fc917"),
    ],
)
def test_real_digits_give_these_bytes(
    real_data: Path, tmp_path: Path, form: str, digest: str
) -> None:
    """MNIST's own t10k files: the same bytes on every machine."""
    root = real_data / "mnist-t10k"
    if not root.is_dir():
        pytest.skip("EMBEDCAL_TEST_DATA has no mnist-t10k")
    folder = make(tmp_path, root=root, form=form, rows=1000)
    files = "".join(f"{name} {value}\n" for name, value in sorted(digests(folder).items()))
    assert hashlib.sha256(files.encode()).hexdigest() == digest


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_every_method_fits_25_groups_some_of_them_empty(real_data: Path) -> None:
    from embedcal.cache import open_cache
    from embedcal.caching import cache
    from embedcal.fitting import configure, fit_on
    from embedcal.methods import find, names
    from embedcal.methods.base import options
    from embedcal.workbench import Workbench

    root = real_data / "mnist-t10k"
    if not root.is_dir():
        pytest.skip("EMBEDCAL_TEST_DATA has no mnist-t10k")
    report = cache("colored-mnist", root=root, backbone="tiny", read=ReadOptions(rows=2000))
    with open_cache(report.path) as opened:
        assert len(opened.group_names()) == 25
        on = Workbench(opened)
        for name in names():
            known = {item.name for item in options(find(name))}
            given = {key: 2 for key in known if key == "epochs" or key.endswith("_epochs")}
            given |= {"early_epochs": 1} if "early_epochs" in known else {}
            refits = {"refits": 2, "halves": 1} if "refits" in known else {}
            configure(name, {**given, **refits})
            run = fit_on(on, name, {**given, **refits}, seed=0, select="val.mean")
            for split in (run.val, run.test):
                assert len(split["groups"]) == 25, name
                found = [value for value in split["groups"] if value is not None]
                assert min(found) == split["worst_group"] <= split["mean"] <= 1, name
                assert all(math.isfinite(split[key]) for key in ("mean", "group_mean")), name
