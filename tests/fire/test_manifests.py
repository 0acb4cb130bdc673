"""Tables of 10^5 rows with faults in them: one message with row numbers, in seconds."""

from __future__ import annotations

import random
import re
import time
from pathlib import Path

import pytest

from embedcal.datasets import ReadOptions, read_manifest
from embedcal.types import EmbedcalError

ROWS = 100_000
SECONDS = 20  # a busy machine's; an idle one takes about one
QUIET = ReadOptions(check_files=False)
HEADER = "path,y,split,a,id"
FAULTS = {
    "label": ("{p},9x,train,0,{i}", "label not an integer"),
    "blank label": ("{p},,train,0,{i}", "blank label"),
    "attribute": ("{p},0,train,-7,{i}", "attribute 'a' out of range"),
    "split": ("{p},0,trian,0,{i}", "unknown split"),
    "outside": ("../../etc/passwd{i},0,train,0,{i}", "path outside the root"),
    "absolute": ("/etc/passwd{i},0,train,0,{i}", "path outside the root"),
    "blank path": (",0,train,0,{i}", "blank path"),
    "id": ("{p},0,train,0,0", "duplicate id"),
    "blank id": ("{p},0,train,0,", "blank id"),
    "two splits": ("images/0.png,0,test,0,{i}", "one image in two splits"),
}


def rows() -> list[str]:
    return [f"images/{i}.png,{i % 2},train,{i // 2 % 2},{i}" for i in range(ROWS)]


def refused(path: Path, options: ReadOptions = QUIET) -> str:
    began = time.perf_counter()
    with pytest.raises(EmbedcalError) as error:
        read_manifest(path, options=options)
    assert time.perf_counter() - began < SECONDS
    said = str(error.value)
    assert "\n" not in said
    assert len(said) < 6000
    return said


def write(folder: Path, lines: list[str]) -> Path:
    path = folder / "big.csv"
    path.write_text("\n".join([HEADER, *lines]) + "\n", encoding="utf-8")
    return path


def test_all_kinds_of_fault_in_one_message(tmp_path) -> None:
    lines, rng = rows(), random.Random(0)
    places = rng.sample(range(1, ROWS), len(FAULTS))
    for place, (line, _) in zip(places, FAULTS.values()):
        lines[place] = line.format(p=f"images/{place}.png", i=place)
    said = refused(write(tmp_path, lines))
    for place, (_, kind) in zip(places, FAULTS.values()):
        assert kind in said
        assert re.search(rf"line {place + 2}\b", said), kind


@pytest.mark.slow
@pytest.mark.parametrize("name", FAULTS)
def test_one_kind_of_fault_everywhere(tmp_path, name) -> None:
    line, kind = FAULTS[name]
    lines = rows()
    for place in range(1, ROWS, 2):
        lines[place] = line.format(p=f"images/{place}.png", i=place)
    said = refused(write(tmp_path, lines))
    assert kind in said
    if name != "absolute":
        assert "line 3" in said
    assert "and 49,995 more" in said or name in ("label", "attribute")


def test_ragged_rows_at_the_end(tmp_path) -> None:
    lines = [*rows(), "images/x.png,0,train", '"quoted\nover lines",0,train,0,a,b']
    said = refused(write(tmp_path, lines))
    assert f"line {ROWS + 2} (3 cells), line {ROWS + 3} (6 cells)" in said


def test_a_quote_that_is_never_closed(tmp_path) -> None:
    lines = rows()
    lines[70_000] = '"images/70000.png,0,train,0,70000'
    said = refused(write(tmp_path, lines))
    assert "line 70002" in said
    assert "unclosed quote" in said


@pytest.mark.slow
def test_files_that_are_not_there(tmp_path) -> None:
    said = refused(write(tmp_path, rows()), ReadOptions())
    assert "100,000 of 100,000 files are missing" in said
