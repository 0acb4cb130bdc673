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
        ("t.json", b'{"a": ["{}"], "b": null}', "NoneType"),
        ("t.json", b"null", "NoneType"),
        ("t.json", b'{"": ["{}"]}', "empty one"),
        ("t.json", b"{}", "found none"),
        ("t.json", b'{"a": ["{}", "{c}"]}', "once in 'a' of"),
        ("t.json", b"[3]", "template 1"),
    ],
)
def test_what_is_refused(name: str, content: bytes, says: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(EmbedcalError, match=says) as caught:
        templates(str(path))
    assert "\n" not in str(caught.value)


KEYED = {"my_birds": ["a {c}, a type of bird."], "vtab/pets": ["a {c}.", "the {c}."]}


@pytest.fixture
def keyed(tmp_path: Path) -> str:
    """A file in the layout of CLIP_benchmark: lists by data set."""
    path = tmp_path / "t.json"
    path.write_text(json.dumps(KEYED))
    return str(path)


@pytest.mark.parametrize("dataset", ["my_birds", "my-birds", "My_Birds"])
def test_the_data_sets_own_list_is_taken(keyed: str, dataset: str) -> None:
    assert templates(keyed, dataset) == ("a {}, a type of bird.",)
    assert templates(f"{keyed}#vtab/pets", dataset) == ("a {}.", "the {}.")


def test_the_only_list_serves_every_data_set(tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    path.write_text(json.dumps({"imagenet1k": ["a {c}."]}))
    assert templates(str(path), "waterbirds") == ("a {}.",)


@pytest.mark.parametrize("suffix", ["", "#birds", "#"])
def test_a_key_that_is_not_there_lists_those_that_are(keyed: str, suffix: str) -> None:
    with pytest.raises(EmbedcalError, match="found my_birds, vtab/pets: name the file as FILE#KEY"):
        templates(keyed + suffix, "waterbirds")


def test_the_exact_key_goes_first_and_a_key_that_is_asked_for_is_exact(tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    path.write_text(json.dumps({"my-birds": ["x {c}"], "my_birds": ["y {c}"]}))
    assert templates(str(path), "my_birds") == ("y {}",)
    for name, dataset in ((str(path), "MY_BIRDS"), (f"{path}#MY_BIRDS", "my_birds")):
        with pytest.raises(EmbedcalError, match="for 'MY_BIRDS'"):
            templates(name, dataset)


def test_a_key_of_a_plain_list_and_a_file_with_a_hash(tmp_path: Path) -> None:
    for name in ("t.txt", "a#b.txt"):
        (tmp_path / name).write_text("a {}.")
    assert templates(str(tmp_path / "a#b.txt"), "x") == ("a {}.",)
    with pytest.raises(EmbedcalError, match=r"for 'k' in .*found a list without keys"):
        templates(str(tmp_path / "t.txt#k"), "x")


def test_an_unknown_name() -> None:
    with pytest.raises(EmbedcalError, match="openai, simple, photo2 or a file, found 'clip'"):
        templates("clip")
