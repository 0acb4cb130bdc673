"""Texts as cells: no formula, nothing hidden, and no two texts the same where they come back."""

from __future__ import annotations

import csv
import io

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embedcal.datasets.spreadsheet import cell, guard, path_cell, unguard

TEMPTING = st.text(alphabet="'=+-@ \t\r\n\u00a0a,\"0", max_size=8)


@pytest.mark.parametrize(
    ("text", "guarded"),
    [
        ("=1+1", "'=1+1"),
        ("+1", "'+1"),
        ("-1", "'-1"),
        ("@SUM(A1)", "'@SUM(A1)"),
        ("  =x", "'  =x"),
        ("\t=x", "'\t=x"),
        ("'=x", "''=x"),  # so that it is another than =x
        ("'tis", "'tis"),
        ("a=b", "a=b"),
        ("0001", "0001"),
        ("", ""),
    ],
)
def test_what_begins_like_a_formula_is_guarded(text: str, guarded: str) -> None:
    assert guard(text) == guarded
    assert unguard(guarded) == text


@given(TEMPTING)
@settings(max_examples=500, deadline=None)
def test_every_text_comes_back_and_none_is_a_formula(text: str) -> None:
    assert not guard(text).lstrip().startswith(("=", "+", "-", "@"))
    assert unguard(guard(text)) == text
    row = io.StringIO()
    csv.writer(row).writerow([guard(text), 1])
    (back,) = csv.reader(io.StringIO(row.getvalue(), newline=""))
    assert unguard(back[0]) == text


@given(TEMPTING, TEMPTING)
@settings(max_examples=300, deadline=None)
def test_no_two_texts_become_one(one: str, other: str) -> None:
    assert (guard(one) == guard(other)) == (one == other)


def test_people_see_what_is_hidden() -> None:
    assert cell("a\nb\u202ec\udce9") == "a\\nb\\u202ec\\udce9"
    assert cell("\u200b=x") == "\\u200b=x"
    assert cell("=x\n") == "'=x\\n"
    assert (path_cell("=a.png"), path_cell("a/=b.png")) == ("./=a.png", "a/=b.png")
