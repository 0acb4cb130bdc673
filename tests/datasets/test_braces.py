"""Patterns with braces against bash, which has them from where everybody knows them."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from embedcal.datasets import ReadOptions, read_manifest
from embedcal.datasets.containers import shards
from embedcal.datasets.containers.shards import base_of, expand, is_pattern, place_in
from embedcal.types import EmbedcalError


@pytest.fixture
def _all_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "is_file", lambda path: True)


@pytest.mark.usefixtures("_all_there")
@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is what it is held against")
@pytest.mark.parametrize(
    "pattern",
    [
        "a-{0..3}.tar", "a-{000..012}.tar", "a-{8..12}.tar", "a-{08..12}.tar", "a-{8..012}.tar",
        "a-{7..7}.tar", "{train,val}/{0..1}-{x,y}.tar", "d-{00..01}/{a,b}.parquet", "{a,}.tar",
        "x{0}-{0..1}.tar", "x{}-{0..1}.tar", "{a/0,b/1}.tar", "a}{1,2}.tar", "%s-{1,2}.tar",
    ],
)  # fmt: skip
def test_files_are_those_of_bash(pattern: str) -> None:
    done = subprocess.run(
        ["bash", "-c", f"printf '%s\\n' {pattern}"], check=True, capture_output=True, text=True
    )
    assert is_pattern(Path(pattern))
    assert [str(path) for path in expand(Path(pattern))] == done.stdout.splitlines()


@pytest.mark.parametrize("name", ["a.tar", "a{}.tar", "a{1}.tar", "a{1..}.tar", "{a..c}.tar", "}{"])
def test_other_braces_are_part_of_the_name(name: str, tmp_path: Path) -> None:
    assert not is_pattern(Path(name))
    with pytest.raises(EmbedcalError, match="which is none of them"):
        read_manifest(tmp_path / name)


@pytest.mark.parametrize(
    ("pattern", "said"),
    [
        ("{3..1}.tar", "a range from low to high of at most 1,000,000 files, found '3..1' in"),
        ("{0..99999999999999}.tar", "of at most 1,000,000 files, found '0..99999999999999'"),
        ("{0..999}{0..999}{0..9}.tar", "at most 1,000,000 files, found 10,000,000 in the pattern"),
        ("{0..2}.tar", "the 3 files of {0..2}.tar, found 3 of them missing, first 0.tar"),
        ("{0.tar,1.txt}", "braces that stand for .tar or .parquet files, found .tar, .txt in"),
        ("{a,b}", "braces that stand for .tar or .parquet files, found no suffix in"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_one_line(
    pattern: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("0.tar", "1.txt", "a", "b"):
        if "0..2" not in pattern:
            Path(name).write_bytes(b"")
    with pytest.raises(EmbedcalError) as caught:
        read_manifest(pattern, options=ReadOptions())
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_of_that_name_comes_first(tmp_path: Path) -> None:
    (tmp_path / "{0..1}.csv").write_text("path,y,split\na,0,train\n")
    options = ReadOptions(check_files=False)
    assert read_manifest(tmp_path / "{0..1}.csv", options=options).paths == ("a",)
    assert base_of(tmp_path / "{0..1}.csv") == tmp_path


@pytest.mark.parametrize(
    ("path", "base"),
    [("a/b.tar", "a"), ("a/x{1,2}/b.tar", "a"), ("a/{0..1}.tar", "a"), ("{a,b}.tar", "."),
     ("a/b{c}/{0..1}.tar", "a/b{c}"), ("a/{b/c,d/e}.tar", "a")],
)  # fmt: skip
def test_the_folder_above_the_first_braces(path: str, base: str) -> None:
    assert base_of(Path(path)) == Path(base)


def test_where_a_row_is() -> None:
    files = [Path("d/a.tar"), Path("d/none.tar"), Path("d/b\x1b.tar")]
    place = place_in(files, [0, 2, 2])
    assert [place(row) for row in range(4)] == [
        "row 1 of a.tar", "row 2 of a.tar", "row 1 of b\\x1b.tar", "row 2 of b\\x1b.tar",
    ]  # fmt: skip
    assert place_in(files, [0, 2, 2], ["k", "l", "m\n"])(2) == "'m\\n' of b\\x1b.tar"
    assert shards.MOST == 1_000_000
