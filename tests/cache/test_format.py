"""The schema and its page say the same; names survive; offsets count from the file's first byte."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedcal.cache import open_cache
from embedcal.cache.format import (
    ATTRIBUTES,
    ENTRIES,
    FORMAT_VERSION,
    USER_BLOCK,
    Head,
    entry_for,
    escape_name,
    is_group,
    parse_head,
    unescape_name,
)
from embedcal.types import EmbedcalError

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "cache-format.md"


def table(heading: str) -> list[list[str]]:
    """Rows of the first table below a heading of the page, without head and ruler."""
    text = PAGE.read_text(encoding="utf-8").split(f"## {heading}\n")[1].split("\n## ")[0]
    lines = [line for line in text.splitlines() if line.startswith("|")]
    cells = [re.split(r"(?<!\\)\|", line)[1:-1] for line in lines[2:]]
    return [[cell.strip().replace("\\|", "|") for cell in row] for row in cells]


def test_the_page_lists_the_arrays_of_the_schema() -> None:
    page = [
        (path.strip("`"), tuple(types.split()), shape, need, "*by row*" in meaning)
        for path, types, shape, need, meaning in table("Arrays")
    ]
    assert page == [
        (e.path, e.dtypes, e.shape, "MUST" if e.required else "MAY", e.per_row) for e in ENTRIES
    ]


def test_the_page_lists_the_root_attributes() -> None:
    page = [(name.strip("`"), kind) for name, kind, _ in table("Root attributes")]
    assert page == [(attribute.name, attribute.kind) for attribute in ATTRIBUTES]


def test_the_page_is_of_this_version() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert f"# The cache file, format {FORMAT_VERSION}\n" in text
    assert max(int(row[0]) for row in table("Versions")) == FORMAT_VERSION


def test_the_pages_example_runs(finished: Path, tmp_path: Path, monkeypatch) -> None:
    code = PAGE.read_text(encoding="utf-8").split("```python\n")[1].split("```")[0]
    (tmp_path / "cache.h5").write_bytes(finished.read_bytes())
    monkeypatch.chdir(tmp_path)
    names: dict[str, np.ndarray] = {}
    exec(code, names)
    with open_cache(finished) as cache:
        np.testing.assert_array_equal(names["x"], cache.split("train").x)


@pytest.mark.parametrize("userblock", [0, 512, 4096])
def test_offsets_include_the_user_block(tmp_path, userblock) -> None:
    """A fact about h5py that the reader rests on."""
    path = tmp_path / "x.h5"
    data = np.arange(1000, dtype="<f4") + 7
    with h5py.File(path, "w", userblock_size=userblock) as file:
        file["x"] = data
    with h5py.File(path, "r") as file:
        offset = file["x"].id.get_offset()
    assert path.read_bytes()[offset : offset + 4000] == data.tobytes()


def test_every_array_of_a_file_is_where_the_layout_says(finished) -> None:
    whole = finished.read_bytes()
    with open_cache(finished) as cache, h5py.File(finished, "r") as file:
        for path, stored in cache.stored.arrays.items():
            found = whole[stored.offset : stored.offset + stored.nbytes]
            assert found == file[path][...].tobytes(), path


@given(st.text(min_size=1).filter(lambda s: s.isprintable()))
def test_any_name_survives(name) -> None:
    link = escape_name(name)
    assert unescape_name(link) == name
    assert "/" not in link
    assert link not in (".", "..")
    found = entry_for(f"/attributes/{link}")
    assert found is not None
    assert found[1] == link
    assert is_group(f"/text/{link}")
    assert not is_group(f"/attributes/{link}")


HEAD = Head(
    state="complete",
    length=2**61,
    sha256="a" * 64,
    identity="b" * 64,
    fingerprint="c" * 64,
    created="2026-11-22T00:00:00+00:00",
)


def test_a_user_block_is_read_back() -> None:
    block = HEAD.render()
    assert len(block) == USER_BLOCK
    assert block.startswith(b"embedcal-cache 2\n")
    assert parse_head(block, "here") == HEAD
    older = replace(HEAD, version=1)
    assert older.render().startswith(b"embedcal-cache 1\n")
    assert parse_head(older.render(), "here") == older


@pytest.mark.parametrize("line", [b"embedcal-cache 0", b"embedcal-cache 02", b"embedcal-cache 3"])
def test_another_version_in_the_first_line(line) -> None:
    block = line + HEAD.render()[len(b"embedcal-cache 2") :]
    with pytest.raises(EmbedcalError, match=r"cache format 1 to 2|in the first 512 bytes"):
        parse_head(block[:USER_BLOCK].ljust(USER_BLOCK, b"\0"), "here")


@pytest.mark.parametrize(
    "change",
    [
        {"state": "done"},
        {"length": -1},
        {"length": 2**62},
        {"length": "123"},
        {"length": 123.0},
        {"length": True},
        {"sha256": 5},
        {"created": None},
    ],
)
def test_a_user_block_that_makes_no_sense(change) -> None:
    with pytest.raises(EmbedcalError, match="in the first 512 bytes of here"):
        parse_head(replace(HEAD, **change).render(), "here")
