"""Every promise of the page on trust names tests that exist."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from embedcal.reencoding import BOUNDS, COARSE

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "explanation" / "trust.md").read_text(encoding="utf-8")
NAMED = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", PAGE)


def promises() -> list[list[str]]:
    table = PAGE.split("## Promises\n")[1].split("\n## ")[0]
    rows = [line for line in table.splitlines() if line.startswith("|")][2:]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]


def test_every_promise_has_a_test() -> None:
    assert len(promises()) > 20
    for promise, rests_on, tests in promises():
        assert promise
        assert rests_on
        assert re.fullmatch(r"`tests/[\w/.:]+`(, `tests/[\w/.:]+`)*", tests), promise


@pytest.mark.parametrize(("file", "name"), NAMED, ids=lambda part: part.rpartition("/")[2])
def test_every_named_test_exists(file: str, name: str) -> None:
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def test_the_bounds_are_those_of_the_code() -> None:
    assert BOUNDS == {"fp32": (0.99999, 0.01)}
    assert COARSE == (0.999, 0.1)
    assert "cosine of 0.99999 and a largest difference of a hundredth" in PAGE
    assert "0.999 and a tenth in bf16 and fp16" in PAGE
