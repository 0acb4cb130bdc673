"""What a person sees of names from files: every character, and nothing that acts."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest
from rich.console import Console

sys.path.insert(0, str(Path(__file__).parent / "grids"))  # helper modules of other tests

import grids_for_tests

import embedcal
from embedcal.answers.runs import run_report
from embedcal.commands.shared import plain
from embedcal.tables import console, facts, show, shown


def printed(value: object, name: str = "what") -> str:
    out = io.StringIO()
    Console(file=out, width=500, color_system=None).print(facts({name: value}))
    return out.getvalue()


@pytest.mark.parametrize(
    "text",
    [
        "[red]text[/red]",
        "[/]",
        "[link=file:///etc]here[/link]",
        "/runs/[bold]/a.h5",
        "[x] [X] [1] []",
        "C:\\\\[bold]",
        "a [#ff0000]b",
    ],
)
def test_markup_in_a_fact_does_nothing(text: str) -> None:
    for found in (printed(text), printed(shown(text)), printed(0, name=text)):
        assert text in found  # markup that acts is not printed
        assert f"\\{text}" not in found


def test_escaped_already_is_not_escaped_again() -> None:
    names = ", ".join(map(shown, ("a", "[b]", "C:\\[c]")))
    assert "a, [b], C:\\[c]" in printed(names)
    assert "C:[c]" in printed("C:\\[c]")  # taken for escaped


def test_control_characters_are_shown() -> None:
    for found in (printed("a\x1b[31mb\u202ec\x07"), printed(0, name="a\x1b[31mb\u202ec\x07")):
        assert "a\\x1b[31mb\\u202ec\\x07" in found


def test_several_lines_stay_lines_and_nothing_is_cut() -> None:
    lines = printed("one\n[b]two").splitlines()
    assert len(lines) == 2
    assert lines[1].strip() == "[b]two"
    assert "x" * 450 in printed("x" * 450)
    assert "12" in printed(12)


def test_no_name_becomes_a_picture(capsys: pytest.CaptureFixture[str]) -> None:
    console().print(facts({"class": ":car: :warning:"}))
    assert ":car: :warning:" in capsys.readouterr().out


def test_a_page_to_print_as_it_is_is_not_folded(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    row = "| " + " | ".join(["[bold]words"] * 20) + " |"
    show(plain(f"{row}\n{row}\n"))
    assert capsys.readouterr().out.splitlines()[:2] == [row, row]


def test_groups_known_on_test_alone_have_a_dash_on_validation(tmp_path: Path) -> None:
    path = grids_for_tests.make_cache(tmp_path / "late.h5", placeless=[1])
    with embedcal.open(path) as cache:
        run = embedcal.fit("erm", cache, epochs=1, device="cpu")
        names = cache.group_names("place")
    out = io.StringIO()
    Console(file=out, width=120).print(run_report(run, names))
    rows = {line.split("  ")[0].strip(): line.split() for line in out.getvalue().splitlines()}
    for name, accuracy in zip(names, run.test["groups"], strict=True):
        assert rows[name][3:5] == ["–", f"{100 * accuracy:.1f}"]
