"""Names from the shipped list, from files of one's own, and from Visual Genome."""

from __future__ import annotations

import json

import pytest

from embedcal.datasets.places import data_dir
from embedcal.detecting.vocabulary import SHIPPED, vocabulary
from embedcal.errors import EmbedcalError


def test_the_shipped_names_are_many_plain_and_sorted_in_their_sections():
    names = vocabulary()
    assert 300 < len(names) < 1000
    assert {"water", "land", "forest", "ocean", "pacifier", "eyeglasses", "pacemaker"} <= set(names)
    for section in SHIPPED.read_text("utf-8").split("\n\n"):
        words = [line for line in section.splitlines() if line and not line.startswith("#")]
        assert words == sorted(words)
    assert all(name == name.strip() and "{" not in name for name in names)


def test_a_file_of_names(tmp_path):
    file = tmp_path / "names.txt"
    file.write_text("\ufeff# mine\nred car\n\nRed_Car  # again\n snow \n", "utf-8")
    assert vocabulary(file) == vocabulary(str(file)) == ("red car", "snow")
    assert vocabulary(["a", "A", "b"]) == ("a", "b")


def test_visual_genome(tmp_path):
    home = data_dir() / "visual-genome"
    with pytest.raises(EmbedcalError, match=r"attribute_synsets\.json and object_synsets\.json"):
        vocabulary("visual-genome")
    home.mkdir(parents=True)
    (home / "attribute_synsets.json").write_text(json.dumps({"red": "red.s.01", "x": "wet.s.01"}))
    objects = {"hot dog": "hot_dog.n.01", "dog": "dog.n.01", "puppy": "dog.n.01"}
    (home / "object_synsets.json").write_text(json.dumps(objects))
    assert vocabulary("visual-genome") == ("dog", "hot dog", "red", "wet")
    assert vocabulary(home / "object_synsets.json") == vocabulary(str(home))[:2]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"# nothing\n", "at least one name"),
        (b"\xff\xfe", "UTF-8"),
        (b"x" * 61, "at most 60 printable"),
        (b"a\x1b[31mb", "printable"),
        (None, "No such file"),
    ],
)
def test_what_is_no_vocabulary_is_told_in_one_line(tmp_path, content, message):
    file = tmp_path / "names.txt"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(EmbedcalError, match=message) as told:
        vocabulary(file)
    assert str(told.value).isprintable()


@pytest.mark.parametrize("content", ["[1]", "{", '{"a": 1}'])
def test_synsets_that_are_none(tmp_path, content):
    file = tmp_path / "object_synsets.json"
    file.write_text(content)
    with pytest.raises(EmbedcalError, match="expected"):
        vocabulary(tmp_path)
