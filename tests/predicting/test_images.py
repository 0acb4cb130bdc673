"""Which files a folder, a table or a list stands for, in which order, and how far ahead."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from embedcal.predicting.images import Listed, listed
from embedcal.predicting.pixels import AHEAD, batches
from embedcal.types import EmbedcalError


def picture(path: Path, value: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 4), (value, 0, 0)).save(path, format="PNG")
    return path


def test_a_folder_is_walked_in_the_order_of_its_paths(tmp_path: Path) -> None:
    for name in ("b/z.png", "b/a/1.PNG", "a.png", "c.jpg", "b.png", ".hidden.png", ".git/x.png"):
        picture(tmp_path / name)
    (tmp_path / "b" / "notes.txt").write_text("no image")
    (tmp_path / "empty").mkdir()
    found = list(listed(tmp_path))
    names = ["a.png", "b/a/1.PNG", "b/notes.txt", "b/z.png", "b.png", "c.jpg"]
    assert [each.name for each in found] == names
    assert [each.name for each in found if not each.image] == ["b/notes.txt"]
    assert all(each.file == tmp_path / each.name for each in found)


def test_links_are_followed_but_not_round_in_a_ring(tmp_path: Path) -> None:
    picture(tmp_path / "far" / "1.png")
    here = tmp_path / "here"
    picture(here / "2.png")
    (here / "deep").mkdir()
    (here / "deep" / "up").symlink_to(here)
    (here / "far").symlink_to(tmp_path / "far")
    (here / "lost.png").symlink_to(tmp_path / "nothing.png")
    assert [each.name for each in listed(here)] == ["2.png", "far/1.png", "lost.png"]


def test_tables_lists_and_single_files(tmp_path: Path) -> None:
    picture(tmp_path / "in" / "a.png")
    table = tmp_path / "in" / "some.csv"
    table.write_text("y,path\n0,a.png\n1,deep/b.png\n0,a.png\n")
    a, b = tmp_path / "in" / "a.png", tmp_path / "in" / "deep" / "b.png"
    expected = [Listed("a.png", a), Listed("deep/b.png", b), Listed("a.png", a)]
    assert list(listed(table)) == expected
    lines = tmp_path / "list.txt"
    lines.write_text("\ufeffa.png\n\ndeep/b.png\r\na.png")
    assert list(listed(lines, tmp_path / "in")) == expected
    assert list(listed(["a.png", Path("deep/b.png"), "a.png"], tmp_path / "in")) == expected
    assert list(listed(a)) == [Listed(str(a), a)]
    assert list(listed([a])) == [Listed(str(a), a)]


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        (
            "no.csv",
            "file,y\na.png,0\n",
            "expected a column 'path' in .*, found file, y: rename one",
        ),
        ("blank.csv", "path,y\na.png,0\n,1\n", "found none in line 3: fill it in"),
        ("bad.txt", b"\xff\xfe\x00", "found bytes that are not UTF-8: mend the list"),
        ("absent", None, "found nothing there: check the path"),
    ],
)
def test_sources_that_cannot_be_used(
    tmp_path: Path, name: str, text: str | bytes | None, said: str
) -> None:
    if text is not None:
        (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(EmbedcalError, match=said) as told:
        list(listed(tmp_path / name))
    assert "\n" not in str(told.value)
    with pytest.raises(EmbedcalError, match="expected no root beside the folder"):
        listed(tmp_path, root=tmp_path)


def prepare(image: Image.Image) -> np.ndarray:
    return np.asarray(image.convert("RGB"))


def test_batches_are_few_in_memory_and_keep_their_places(tmp_path: Path) -> None:
    paths = [picture(tmp_path / f"{i:02d}.png", i) for i in range(20)]
    paths[5].write_bytes(b"no image")
    paths[7].write_bytes(b"")
    asked = 0

    def files() -> Iterator[Listed]:
        nonlocal asked
        for path in paths:
            asked += 1
            yield Listed(path.name, path)

    some = batches(
        files(), prepare, wanted=lambda each: each.name != "06.png", batch_size=4, workers=2
    )
    seen = 0
    for number, batch in enumerate(some):
        assert asked <= 4 * (number + 1 + AHEAD)
        assert len(batch.images) == 4
        assert batch.pixels is not None
        for i, each in enumerate(batch.images):
            gone = each.name in ("05.png", "06.png", "07.png")
            assert batch.pixels[i, 0, 0, 0] == (0 if gone else int(each.name[:2]))
            assert batch.wanted[i] == (each.name != "06.png")
            assert bool(batch.reasons[i]) == (each.name in ("05.png", "07.png"))
        seen += 4
    assert seen == 20


def test_what_the_system_refuses_is_a_reason(tmp_path: Path) -> None:
    (tmp_path / "folder.png").mkdir()
    os.mkfifo(tmp_path / "pipe.png")
    names = ["folder.png", "pipe.png", "gone.png"]
    files = iter([Listed(name, tmp_path / name) for name in names])
    (batch,) = batches(files, prepare, wanted=lambda _: True, batch_size=8, workers=1)
    assert batch.pixels is None
    assert batch.reasons == (
        "is a directory", "not a regular file", "no such file or directory"
    )  # fmt: skip
