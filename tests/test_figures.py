"""Figures as files: whole, of the kind that the name says, the same bytes twice."""

from __future__ import annotations

from pathlib import Path

import pytest
from matplotlib.figure import Figure

from embedcal.answers.seeing import save
from embedcal.figures import write
from embedcal.types import EmbedcalError

HEADS = {".svg": b"<?xml", ".png": b"\x89PNG", ".pdf": b"%PDF", ".PNG": b"\x89PNG"}


def drawn() -> Figure:
    figure = Figure(figsize=(2, 2))
    ax = figure.subplots()
    ax.plot([0, 1], [1, 0], "o", clip_on=True)
    ax.set_title("a bird")
    return figure


@pytest.mark.parametrize("suffix", HEADS)
def test_the_same_bytes_twice_whoever_writes(tmp_path: Path, suffix: str) -> None:
    one = write(drawn(), tmp_path / f"one{suffix}")
    two = tmp_path / "deep" / f"two{suffix}"
    save(drawn(), two)
    assert one.read_bytes() == two.read_bytes()
    assert one.read_bytes().startswith(HEADS[suffix])
    assert not list(tmp_path.rglob("*.part"))


def test_letters_are_drawn_as_shapes(tmp_path: Path) -> None:
    text = write(drawn(), tmp_path / "a.svg").read_text()
    assert "<text" not in text
    assert "<dc:date>" not in text


def test_a_place_that_cannot_be_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for mend in ("another place", "another folder with --out"):
        with pytest.raises(EmbedcalError, match=f"expected to write .*: choose {mend}$") as error:
            write(drawn(), tmp_path / "file" / "a.png", mend=mend)
        assert "\n" not in str(error.value)
    with pytest.raises(EmbedcalError, match=r"found a\.txt: rename it"):
        save(drawn(), tmp_path / "a.txt")


def test_what_was_there_stays_where_drawing_fails(tmp_path: Path) -> None:
    class Broken(Figure):
        def savefig(self, *args: object, **words: object) -> None:
            raise OSError(28, "No space left on device")

    file = tmp_path / "a.png"
    file.write_text("before")
    with pytest.raises(EmbedcalError, match="No space left on device"):
        write(Broken(), file)
    assert file.read_text() == "before"
