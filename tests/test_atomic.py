"""What is written appears whole or not at all, and a failure is one line that says what to do."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from embedcal.atomic import atomic
from embedcal.types import EmbedcalError


def write(out: Path, text: str, error: BaseException | None = None, **options: Any) -> None:
    with atomic(out, **options) as part:
        part.write_text(text)
        if error is not None:
            raise error


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*"))


def test_a_file_is_replaced_when_the_block_ends(tmp_path: Path) -> None:
    out = tmp_path / "a" / "out.txt"
    with atomic(out, parents=True) as part:
        part.write_text("first")
        assert not out.exists()
    with atomic(out) as part:
        part.write_text("second")
        assert out.read_text() == "first"
    assert out.read_text() == "second"
    with pytest.raises(KeyError):
        write(out, "third", KeyError())
    assert out.read_text() == "second"
    assert names(tmp_path) == ["a", "out.txt"]  # nothing half-written is left
    mask = os.umask(0o027)
    try:
        write(out, "as any other")
    finally:
        os.umask(mask)
    assert out.stat().st_mode & 0o777 == 0o640


def test_a_folder_appears_with_what_is_in_it(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    with atomic(out, folder=True) as part:
        (part / "one").write_text("1")
        assert not any(out.iterdir())
    assert names(out) == ["one"]
    with pytest.raises(EmbedcalError, match=r"an empty folder or none at .* name another place"):
        write(out, "", folder=True)
    with pytest.raises(EmbedcalError, match=r"a file or none at .*: remove it, or go home"):
        write(out, "", otherwise="go home")


@pytest.mark.parametrize(("number", "room"), [(errno.ENOSPC, True), (errno.EACCES, False)])
def test_a_failure_says_what_helps(tmp_path: Path, number: int, room: bool) -> None:
    """Room is of use on a full disk alone."""
    with pytest.raises(EmbedcalError) as raised:
        write(tmp_path / "out", "half", OSError(number, os.strerror(number)))
    told = str(raised.value)
    remedy = "make room there, or name another place" if room else "name another place"
    assert told.endswith(f"found: {os.strerror(number)}: {remedy}")
    assert not names(tmp_path)


def test_a_file_in_the_place_of_a_folder_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for parents in (True, False):
        with pytest.raises(EmbedcalError, match=r"expected to write .*out, found: "):
            write(tmp_path / "file" / "out", "", parents=parents)
