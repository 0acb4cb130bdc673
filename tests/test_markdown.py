"""Foreign text on a page of Markdown, as two readers of Markdown see it."""

from __future__ import annotations

import html
import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from embedcal.datasets.printable import printable
from embedcal.markdown import escaped, table_lines


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("land bird", "land bird"),
        ("a|b", r"a\|b"),
        ("`code` *em* _em_ ~no~ $x$", r"\`code\` \*em\* \_em\_ \~no\~ \$x\$"),
        ("[a](b) ![a][b]", r"\[a\](b) \!\[a\]\[b\]"),
        ("<script>alert(1)</script>", "&lt;script&gt;alert(1)&lt;/script&gt;"),
        ("&lt;b>", "&amp;lt;b&gt;"),
        ("http://a.b, www.a.b, me@a.b", r"http\://a.b, www\.a.b, me\@a.b"),
        ("back\\slash", r"back\\slash"),
        ("two\nlines\r\n# head", r"two\\nlines\\r\\n\# head"),
        ("\u202egnp.exe\x1b[31m", r"\\u202egnp.exe\\x1b\[31m"),
        ("# head", r"\# head"),
        ("> quote", "&gt; quote"),
        ("- item", r"\- item"),
        ("  + item", r"  \+ item"),
        ("-", r"\-"),
        ("---", r"\---"),
        ("=== ", r"\=== "),
        ("1. first", r"1\. first"),
        ("   23) next", r"   23\) next"),
        ("     code", "   code"),
        ("    - item", r"   \- item"),
        # Nothing that stands for numbers and words as they are is touched.
        ("-0.5 (-1.2 to 0.1)", "-0.5 (-1.2 to 0.1)"),
        ("91.2 ± 0.8", "91.2 ± 0.8"),
        ("v1.0", "v1.0"),
        (" and others", " and others"),
        ("-rf", "-rf"),
        ("", ""),
    ],
)
def test_nothing_foreign_is_markup(text: str, shown: str) -> None:
    assert escaped(text) == shown


def read(shown: str) -> str:
    """What a reader of Markdown shows of escaped text: CommonMark's rules for both kinds."""
    return html.unescape(re.sub(r"\\([!-/:-@\[-`{-~])", lambda at: f"&#{ord(at[1])};", shown))


HOSTILE = st.text(
    st.sampled_from("\\`*_[]|~#!$@<>&-+=1.): \n\taw:/") | st.characters(), max_size=30
)


@given(HOSTILE)
@example("    \\| &amp; 1. www.")
@example("- - -")
def test_a_reader_shows_what_was_written(text: str) -> None:
    shown = escaped(text)
    assert read(shown) == re.sub("^ {4,}", "   ", printable(text, longest=2000))
    assert "\n" not in shown
    assert not re.search(r"(?<!\\)(\\\\)*[`*_\[\]|~#!$@]", shown)
    assert not re.search("[<>]|&(?!(amp|lt|gt);)", shown)
    assert not re.match(r" *([-+]( |$)|\d{1,9}[.)]( |$)|(-+|=+) *$)", shown)


def test_what_is_long_is_cut() -> None:
    assert escaped("a" * 50, longest=10) == "a" * 9 + "…"
    assert len(escaped("a" * 5000)) == 2000


def test_a_table_has_a_cell_for_every_head() -> None:
    lines = table_lines(["what|", "%", "n"], [["a|b\n", "-1", "<i>"]], words=2)
    assert lines == [r"| what\| | % | n |", "| --- | --- | ---: |", r"| a\|b\\n | -1 | &lt;i&gt; |"]
    assert table_lines(["", "%"], []) == ["|  | % |", "| --- | ---: |"]
