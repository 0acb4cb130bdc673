"""Options that mean nothing where they are given are refused in one line, before any work."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from embedcal.cli import main
from embedcal.datasets.places import check_place, obstacle
from embedcal.types import EmbedcalError


def refused(words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    """The one line that a command ends with."""
    monkeypatch.setattr("sys.argv", ["embedcal", *shlex.split(words)])
    with pytest.raises(SystemExit) as stop:
        main()
    out, err = capsys.readouterr()
    assert stop.value.code == 2
    assert (out, err.count("\n")) == ("", 1), err
    return err


@pytest.mark.parametrize(
    ("words", "option"),
    [
        ("fit erm --select ''", "--select"),
        ("fit erm --out ' '", "--out"),
        ("fit erm --out=", "--out"),
        ("cache birds --backbone ''", "--backbone"),
        ("report -o ''", "-o"),
        ("cache ''", "an argument"),
        ("''", "an argument"),
    ],
)
def test_a_blank_value_is_refused(own_home: Path, monkeypatch, capsys, words, option) -> None:
    assert f"expected a value for {option}, found a blank" in refused(words, monkeypatch, capsys)
    assert not list(own_home.rglob("*"))


def test_a_name_without_values_is_no_blank_value(own_home: Path, monkeypatch, capsys) -> None:
    """``--attributes "place=;time="`` takes the values from the table."""
    line = refused("cache no.csv --attributes 'place=;time='", monkeypatch, capsys)
    assert "no.csv" in line
    line = refused("cache no.csv --attributes='place='", monkeypatch, capsys)
    assert "no.csv" in line


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("compare --latex --markdown", "found --latex and --markdown"),
        ("compare --json --latex", "found --json and --latex"),
        ("leaderboard --markdown --latex --json", "found --json and --latex and --markdown"),
        ("study --markdown --json", "found --json and --markdown"),
        ("reproduce --markdown --json", "found --json and --markdown"),
        ("compare --plot figure.txt", "to end in .svg or .png, found 'figure.txt'"),
        ("sensitivity --plot figure.txt", "to end in .svg or .png, found 'figure.txt'"),
        ("explain -o figure.txt", "found figure.txt: rename it"),
        ("cache birds --jobs 2", "expected --engine ray beside --jobs"),
        ("cache birds --crop 9460", "expected a crop of 1 to 9459 pixels"),
        ("grid erm --seeds many", "found 'many': write how many, or which"),
    ],
)
def test_what_goes_with_nothing_is_refused(
    own_home: Path, monkeypatch, capsys, words, expected
) -> None:
    assert expected in refused(words, monkeypatch, capsys)
    assert not list(own_home.rglob("*"))


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="no folder that takes no file")
def test_a_place_that_takes_no_file_is_known_before(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    assert obstacle(tmp_path / "new" / "folder" / "page.html") == ""
    assert obstacle(file) == ""
    for place in (tmp_path, file / "page.html", Path("/proc/page.html")):
        assert obstacle(place)
        with pytest.raises(EmbedcalError, match=f"expected to write {place}, found: .* with -o$"):
            check_place(place)
    assert list(tmp_path.iterdir()) == [file]
