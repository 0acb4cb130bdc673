"""Templates by name and from files."""

from __future__ import annotations

import json
from pathlib import Path

import open_clip
import pytest

from embedcal.encoders.templates import templates
from embedcal.types import EmbedcalError


def test_the_eighty_are_open_clips() -> None:
    found = templates("openai")
    assert len(set(found)) == len(found) == 80
    wanted = [template("cat") for template in open_clip.OPENAI_IMAGENET_TEMPLATES]
    assert [template.format("cat") for template in found] == wanted


def test_the_other_names() -> None:
    assert len(templates("simple")) == 7
    assert templates("photo2") == ("a photo of the {}.", "a photo of a {}.")
    assert set(templates("photo2")) <= set(templates("openai"))


def test_files(tmp_path: Path) -> None:
    lines, listed = tmp_path / "t.txt", tmp_path / "t.json"
    lines.write_text("﻿a {}.\r\n\n  {c} in a tree  \n", encoding="utf-8")
    listed.write_text(json.dumps(["a {}.", "{c} in a tree"]))
    assert templates(str(lines)) == templates(str(listed)) == ("a {}.", "{} in a tree")


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("t.txt", b"", "at least one"),
        ("t.txt", b"a {}.\na bird", "template 2"),
        ("t.txt", b"{} and {}", "template 1"),
        ("t.txt", b"a {name}", "template 1"),
        ("t.txt", b"a {0} {}", "template 1"),
        ("t.txt", b"a {}\na {c}", "once"),
        ("t.txt", b"\xff\xfe{}", "UTF-8"),
        ("t.json", b"[", "JSON"),
        ("t.json", b'{"a": "{}"}', "list"),
        ("t.json", b"[3]", "template 1"),
    ],
)
def test_what_is_refused(name: str, content: bytes, says: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(EmbedcalError, match=says) as caught:
        templates(str(path))
    assert "\n" not in str(caught.value)


def test_an_unknown_name() -> None:
    with pytest.raises(EmbedcalError, match="openai, simple, photo2 or a file, found 'clip'"):
        templates("clip")
