"""Columns in a file against the same columns as tuples, and what of them is in memory."""

from __future__ import annotations

import copy
import pickle
import resource
import threading
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from embedcal.datasets import Manifest, Table, build_manifest
from embedcal.datasets import stored_text as module
from embedcal.datasets.labels import factorise, repeats
from embedcal.datasets.options import ReadOptions
from embedcal.datasets.scratch import SMALL, Scratch, scratch_array
from embedcal.datasets.stored_text import (
    ColumnsWriter,
    StoredText,
    TextWriter,
    gathered,
    mapped,
    picked,
)
from embedcal.types import EmbedcalError

CELLS = st.lists(st.text(st.characters(max_codepoint=0x11000), max_size=5), max_size=40)
FUZZY = settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=80
)


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ROWS", 4)


@FUZZY
@given(CELLS)
def test_a_column_is_its_tuple(cells: list[str]) -> None:
    """Lone surrogates are among the texts, two of which make one character end to end."""
    found = gathered(cells)
    assert isinstance(found, StoredText if len(cells) >= 4 else tuple)
    assert tuple(found) == tuple(cells)
    assert [found[row] for row in range(len(cells))] == cells
    assert [found[-row - 1] for row in range(len(cells))] == cells[::-1]
    assert found == tuple(cells)
    assert found != (*cells, "x")
    for part in (slice(2, 9), slice(None), slice(-3, None), slice(9, 2, -2), slice(90, 99)):
        assert found[part] == tuple(cells)[part]
    assert picked(found, np.arange(len(cells))[::2]) == tuple(cells[::2])
    assert mapped(str.upper, found) == tuple(cell.upper() for cell in cells)
    for row in (len(cells), -len(cells) - 1):
        with pytest.raises(IndexError):
            found[row]


def test_the_form_of_a_column_is_kept() -> None:
    few, many = ("a", "b", "c", "d", "e"), gathered("abcdef")
    assert isinstance(mapped(str.upper, few), tuple)
    assert isinstance(picked(few, range(5)), tuple)
    assert isinstance(mapped(str.upper, many), StoredText)
    assert isinstance(picked(many, range(5)), StoredText)
    assert many != "abcdef"
    assert many != (*"abcdeg",)
    for twin in (pickle.loads(pickle.dumps(many)), copy.deepcopy(many)):
        assert twin == (*"abcdef",)


def test_columns_of_rows_that_lack_cells() -> None:
    rows = [{"a": "1"}, {}, *({"b": str(i)} for i in range(9)), {"a": "2", "c": ""}, {}]
    writer = ColumnsWriter()
    for row in rows:
        writer.add(row)
    found = writer.done()
    assert found == {name: tuple(row.get(name, "") for row in rows) for name in "abc"}


def test_blank_blocks_take_no_room() -> None:
    scratch = Scratch()
    writer = TextWriter(scratch)
    writer.pad(10_000)
    writer.add("x")
    assert writer.done()[9_998:] == ("", "", "x")
    assert scratch.append(b"") < 64


def test_threads_read_one_column() -> None:
    texts = [str(i) for i in range(400)]
    column, wrong = gathered(texts), []

    def look(seed: int) -> None:
        rows = np.random.default_rng(seed).integers(0, 400, 3000)
        wrong.extend(row for row in rows.tolist() if column[row] != texts[row])

    threads = [threading.Thread(target=look, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


# Scratch files


def test_arrays_in_pages(own_home: Path) -> None:
    for shape in ((5, 32), (SMALL // 32 + 1, 32)):
        array = scratch_array(shape, np.uint8)
        assert array.shape == shape
        assert not array.any()
        array[-1] = 7
        assert array[-1].tolist() == [7] * 32
    text = scratch_array((SMALL,), "S3")
    text[1:3] = [b"ab", b"abc"]
    assert text[:4].tolist() == [b"", b"ab", b"abc", b""]
    assert scratch_array((0, 32), np.uint8).shape == (0, 32)
    assert not [path for path in own_home.rglob("*") if path.is_file()]


def test_a_home_that_cannot_be_written_is_no_hindrance(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("EMBEDCAL_HOME", str(tmp_path / "file"))
    assert gathered("abcdef") == (*"abcdef",)


@pytest.mark.parametrize(
    "fill",
    [
        lambda: scratch_array((4 * SMALL,), np.uint8),
        lambda: Scratch().append(bytes(4 * SMALL)),
        lambda: gathered("x" * SMALL for _ in range(16)),
    ],
)
def test_a_full_disk_is_one_line(fill: Callable[[], object]) -> None:
    """A limit on the size of files stands for it; what lies in pages must not end the process."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2 * SMALL, before[1]))
    try:
        with pytest.raises(EmbedcalError, match="expected room for working files") as caught:
            fill()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "\n" not in str(caught.value)


def test_pages_have_real_blocks(small_disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EMBEDCAL_HOME", str(small_disk))
    with pytest.raises(EmbedcalError, match="No space left on device: make room there"):
        scratch_array((64 * SMALL,), np.uint8)


# Repeats


@FUZZY
@given(st.lists(st.sampled_from(["", "a", "b", "ab", "\udcff", "c"]), max_size=30), st.booleans())
def test_repeats_are_those_of_a_dictionary(cells: list[str], clash: bool) -> None:
    column = tuple(map(Clashing, cells)) if clash else gathered(cells)
    rows, firsts = repeats(column)
    _, index = factorise(cells)
    first = np.unique(index, return_index=True)[1][index] if cells else np.zeros(0, int)
    assert rows.tolist() == np.flatnonzero(first != np.arange(len(cells))).tolist()
    assert firsts.tolist() == first[rows].tolist()


class Clashing(str):
    """Text whose hash all others have too."""

    def __hash__(self) -> int:
        return 7


# The manifest


def columns(n: int) -> dict[str, list[str]]:
    draw = np.random.default_rng(3)
    return {
        "path": [f"{row // 1000:05d}/row-{row:08d}.png" for row in range(n)],
        "id": [f"train-{row // 1000:06d}/{row:08d}" for row in range(n)],
        "y": [("dry", "wet")[code] for code in draw.integers(0, 2, n)],
        "split": [("train", "val", "test")[code] for code in draw.integers(0, 3, n)],
        "a": [("land", "sea", "")[code] for code in draw.integers(0, 3, n)],
        "mask": [f"m/{row}.png" if row % 3 else "" for row in range(n)],
    }


def made(table: Table, root: Path) -> Manifest:
    return build_manifest(
        table, root=root, name="t", options=ReadOptions(check_files=False, classes="dry,wet")
    )


def test_a_manifest_is_that_of_tuples(tmp_path: Path) -> None:
    given_columns = columns(50)
    stored = {name: gathered(cells) for name, cells in given_columns.items()}
    one = made(Table(source="t", columns=stored), tmp_path)
    other = made(Table.of(given_columns, source="t"), tmp_path)
    assert isinstance(one.ids, StoredText)
    assert isinstance(one.paths, StoredText)
    assert isinstance(one.masks, StoredText)
    assert isinstance(other.ids, tuple)
    for name in ("ids", "paths", "masks", "classes", "warnings"):
        assert getattr(one, name) == getattr(other, name), name
    for name in ("y", "split"):
        assert getattr(one, name).tolist() == getattr(other, name).tolist()
    assert one.attributes[0].labels.tolist() == other.attributes[0].labels.tolist()
    assert one.files[7] == other.files[7] == tmp_path / given_columns["path"][7]
    assert one.files[45:60] == [tmp_path / path for path in given_columns["path"][45:]]


@pytest.mark.parametrize(
    ("name", "row", "cell"),
    [
        ("y", 37, "moist"), ("split", 37, "tran"), ("id", 37, None), ("path", 37, None),
        ("path", 37, "../x.png"), ("path", 37, "\udcff"), ("path", 37, ""), ("id", 37, ""),
        ("mask", 37, "/m.png"),
    ],
)  # fmt: skip
def test_faults_are_named_as_of_tuples(
    name: str, row: int, cell: str | None, tmp_path: Path
) -> None:
    """None stands for the cell five rows before."""
    bad = columns(50)
    bad[name][row] = bad[name][row - 5] if cell is None else cell
    bad["y"][3] = bad["y"][48] = "damp"
    bad["split"][32] = "test"
    if name == "path" and cell is None:
        bad["split"][37] = "train"  # else the same image twice in one split is no fault
    said = []
    for kept in (gathered, tuple):
        table = Table(source="t", columns={key: kept(cells) for key, cells in bad.items()})
        with pytest.raises(EmbedcalError) as caught:
            made(table, tmp_path)
        said.append(str(caught.value))
    assert said[0] == said[1]
    assert "row 38" in said[0]


@pytest.mark.usefixtures("own_home")
def test_memory_of_a_manifest_is_its_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At its peak less than 60 bytes a row, of which 24 stay; tuples of text take 400."""
    monkeypatch.setattr(module, "ROWS", 128)
    peaks, kept = {}, {}
    for form, n in ((gathered, 2_000), (gathered, 8_000), (tuple, 2_000), (tuple, 8_000)):

        def text(change: Callable[[int], str], n: int = n, form: object = form) -> object:
            return form(change(row) for row in range(n))  # type: ignore[operator]

        tracemalloc.start()
        table = Table(
            source="t",
            columns={
                "path": text(lambda row: f"{row // 1000:05d}/row-{row:08d}.png"),
                "id": text(lambda row: f"train-{row // 1000:06d}/{row:08d}"),
                "y": text(lambda row: ["wet", "dry"][row % 2]),
                "split": text(lambda row: ["train", "val", "test"][row % 3]),
                "a": text(lambda row: ["land", "sea"][row % 2]),
            },  # type: ignore[dict-item]
        )
        manifest = made(table, tmp_path)
        del table
        kept[form, n], peaks[form, n] = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert len(manifest) == n

    def each(found: dict[tuple[object, int], int], form: object) -> float:
        return (found[form, 8_000] - found[form, 2_000]) / 6_000

    assert each(peaks, gathered) < 60, each(peaks, gathered)
    assert each(kept, gathered) < 30, each(kept, gathered)
    assert each(peaks, tuple) > 300
