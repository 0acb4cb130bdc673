"""Concept pairs from a file or a mapping, and those that the package has for its data sets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from embedcal.cache import open_cache
from embedcal.caching import cache
from embedcal.datasets import ReadOptions
from embedcal.datasets.named import benchmark_names
from embedcal.datasets.named.facts import benchmark
from embedcal.datasets.prompts import PAIRS, pairs_for, read_pairs
from embedcal.types import ROLES, EmbedcalError

TEXT = """
equal = [["a {} bird", "b"]]
reject = [
  ["b", "W\u00e4ter "],   # word for word
  ["c", "b"],
]
"""


@pytest.mark.parametrize("as_file", [True, False])
def test_pairs_are_read_by_role_and_each_prompt_once(tmp_path: Path, as_file: bool) -> None:
    path = tmp_path / "p.toml"
    path.write_text(TEXT)
    given = {"equal": [["a {} bird", "b"]], "reject": (("b", "W\u00e4ter "), ["c", "b"])}
    found = read_pairs(path if as_file else given)
    assert found.prompts == ("b", "W\u00e4ter ", "c", "a {} bird")
    assert found.pairs == ((0, 1, "reject"), (2, 0, "reject"), (3, 0, "equal"))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"rejct": [["a", "b"]]}, "found 'rejct': did you mean reject?"),
        ({"xyz\n": []}, r"under reject, accept, equal in the concept pairs, found 'xyz\n'"),
        ({"reject": [["a", "b"], ["a"]]}, "in pair 2 of 'reject'"),
        ({"reject": [["a", "b", "c"]]}, "in pair 1 of 'reject'"),
        ({"reject": [["a", "a"]]}, "two different prompts"),
        ({"reject": [["a", " "]]}, "two different prompts"),
        ({"reject": [["a", 3]]}, "two different prompts"),
        ({"reject": ["ab"]}, "two different prompts"),
        ({"accept": "ab"}, "in pair 1 of 'accept'"),
        ({"accept": 3}, "in pair 1 of 'accept'"),
        ({"reject": [["a", "\ud800"]]}, "two different prompts"),
        ({}, "at least one pair in the concept pairs, found none"),
        ({"reject": []}, "at least one pair"),
    ],
)
def test_another_form_is_refused_in_one_line(given: dict[str, Any], said: str) -> None:
    with pytest.raises(EmbedcalError) as error:
        read_pairs(given)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"reject = [", "expected TOML"),
        (b"\xff\xfe\xff", "expected TOML"),
        (b"[" * 5000, "expected TOML"),
        (None, "expected a file of concept pairs"),
    ],
)
def test_another_file_is_refused_in_one_line(
    tmp_path: Path, content: bytes | None, said: str
) -> None:
    path = tmp_path / "p.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(EmbedcalError, match=said) as error:
        read_pairs(path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("path", sorted(PAIRS.glob("*.toml")), ids=lambda path: path.stem)
def test_those_of_the_package_have_every_role(path: Path) -> None:
    assert path.stem in benchmark_names()
    found = read_pairs(path)
    assert {role for _, _, role in found.pairs} == set(ROLES)
    # Group prompts come with them, one for each class and value.
    facts = benchmark(path.stem)
    values = next(iter(facts.attributes.values()))
    assert len(facts.prompts["group"]) == len(facts.classes) * len(values)


def test_who_gets_the_packages_pairs() -> None:
    own = pairs_for(None, "birds", renamed=False)
    assert own == read_pairs(PAIRS / "birds.toml")
    assert pairs_for(None, "birds", renamed=True) is None
    assert pairs_for("none", "birds", renamed=False) is None
    assert pairs_for(None, "./birds", renamed=False) is None
    assert pairs_for(None, "../pairs/birds", renamed=False) is None
    assert pairs_for({"reject": [["a", "b"]]}, "birds", renamed=True).prompts == ("a", "b")  # type: ignore[union-attr]


def test_a_cache_of_birds_has_them_unless_told_otherwise(tmp_path: Path) -> None:
    few = ReadOptions(rows=211, seed=3)
    (tmp_path / "p.toml").write_text(TEXT)
    for pairs, wanted in [
        (None, read_pairs(PAIRS / "birds.toml").pairs),
        ("none", None),
        (str(tmp_path / "p.toml"), ((0, 1, "reject"), (2, 0, "reject"), (3, 0, "equal"))),
    ]:
        with open_cache(cache("birds", backbone="tiny", read=few, pairs=pairs).path) as opened:
            assert "group" in opened.banks
            assert ("pairs" in opened.banks) == (wanted is not None)
            if wanted is not None:
                assert opened.text("pairs").pairs == wanted
