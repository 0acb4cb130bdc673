"""Putting a table into a page: what stands outside the marks stays as it was."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "pages.py"


def script() -> Any:
    """``benchmarks/pages.py``, which belongs to no package."""
    spec = importlib.util.spec_from_file_location("pages_for_tests", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


markdown_table, put = script().markdown_table, script().put


def test_a_table_in_markdown() -> None:
    rows = [("erm", "61.3"), ("dfr", "92.2")]
    assert markdown_table(("method", "worst"), rows) == (
        "| method | worst |\n| --- | --- |\n| erm | 61.3 |\n| dfr | 92.2 |"
    )
    assert "| --- | ---: |" in markdown_table(("method", "worst"), rows, numbers=True)


def test_only_what_is_between_the_marks_changes(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- a -->\n\nold\n\n<!-- /a -->\n<!-- b -->\nkept\n<!-- /b -->\n")
    for _ in range(2):  # the same again
        put(page, "a", "\nnew \\1\n")
        assert page.read_text() == (
            "before\n<!-- a -->\n\nnew \\1\n\n<!-- /a -->\n<!-- b -->\nkept\n<!-- /b -->\n"
        )


@pytest.mark.parametrize("text", ["no marks\n", "<!-- a -->\n<!-- /a -->\n" * 2])
def test_a_page_without_its_one_place_is_refused(tmp_path: Path, text: str) -> None:
    page = tmp_path / "page.md"
    page.write_text(text)
    with pytest.raises(AssertionError, match="one place for a"):
        put(page, "a", "new")
    assert page.read_text() == text
