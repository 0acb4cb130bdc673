"""The leaderboard as a person and a script see it: tables within 80 columns, JSON, mistakes."""

from __future__ import annotations

import io
import json
import re
from collections import Counter
from pathlib import Path

import pytest
import typer
from rich.console import Console
from typer.testing import CliRunner

from embedcal.answers.leaderboard import latex, leaderboard_report, markdown
from embedcal.commands import leaderboard as command
from embedcal.leading import leaderboard
from embedcal.types import EmbedcalError

WORDS = ("--methods", "erm,group-dro,evals,zeroshot", "--seeds", "2", "--set", "epochs=1")


@pytest.fixture
def found(cache, tmp_path):
    methods = ("erm", "group-dro", "linear-probe", "evals", "zeroshot")
    return leaderboard(
        cache, methods, seeds=2, budget=2, options={"epochs": "1"}, out=tmp_path / "runs",
        engine="sequential",
    )  # fmt: skip


def printed(board, width: int) -> str:
    out = io.StringIO()
    to = Console(file=out, width=width, no_color=True)
    for part in leaderboard_report(board).renderables:
        to.print(part, soft_wrap=isinstance(part, str))
    return out.getvalue()


def tables(text: str) -> str:
    """What stands in the tables, without rules and blanks."""
    start, end = text.index("reads class labels"), text.index("±: deviation")
    return re.sub(r"[\s─]", "", text[start:end])


def run(*words: str) -> tuple[int, str, BaseException | None]:
    app = typer.Typer(rich_markup_mode=None)
    command.register(app)
    done = CliRunner().invoke(app, list(words))
    return done.exit_code, done.stdout, done.exception


def test_a_table_a_budget_within_80_columns(found) -> None:
    text = printed(found, 80)
    for kind in ("class labels", "groups of validation images", "groups of training images"):
        assert f"reads {kind}" in text
    assert "reads nothing" not in text
    tables = text[: text.index("±: deviation")]
    assert max(map(len, tables.splitlines()[1:])) <= 80
    assert re.search(r"erm +[\d.]+ ± [\d.]+ +[\d.]+–[\d.]+ +[\d.]+ +\d(–\d)? +[\d.]+ +[\d.]+", text)
    assert re.search(r"zeroshot +expected class prompts for zeroshot, found none", text)
    assert "1*" in text
    assert "* fits rows of val" in text
    assert "none; setting" not in text


def test_narrow_terminals_lose_no_number(found) -> None:
    wide, narrow = (Counter(tables(printed(found, width))) for width in (80, 60))
    assert wide == narrow  # folded, and not cut off


def test_markdown_and_latex_have_a_cell_for_every_head(found) -> None:
    lines = [line for line in markdown(found).splitlines() if line.startswith("|")]
    assert len(lines) == 2 + len(found.standings)
    assert len({len(re.findall(r"(?<!\\)\|", line)) for line in lines}) == 1
    text = latex(found)
    body = text[text.index(r"\toprule") : text.index(r"\bottomrule")]
    rows = [line for line in body.splitlines() if line.endswith(r"\\")]
    assert len(rows) == 1 + len(found.standings)
    columns = re.search(r"\\begin\{tabular\}\{(\w+)\}", text)
    assert columns is not None
    assert {line.count(" & ") + 1 for line in rows} == {len(columns[1])}
    assert body.count(r"\midrule") == len({standing.kind for standing in found.standings})
    assert "%" not in re.sub(r"\\%|^%.*$", "", text, flags=re.MULTILINE)


def test_one_json_document_and_the_cache_is_remembered(made: Path, tmp_path: Path) -> None:
    words = (*WORDS, "--quick", "--out", str(tmp_path), "--json")
    status, out, _ = run(*words, "--cache", str(made))
    assert status == 0
    found = json.loads(out)
    assert [s["row"]["method"] for s in found["standings"] if s["kind"] == "class labels"]
    assert found["refused"].keys() == {"zeroshot"}
    status, out, _ = run(*words)  # the cache used last
    assert json.loads(out)["reused"] == found["runs"]
    status, out, _ = run(*words[:-1], "--markdown")
    assert status == 0
    assert out.startswith("**made, ")


def test_a_failed_run_is_status_3(made: Path, tmp_path: Path) -> None:
    grid = tmp_path / "grid.toml"
    grid.write_text(
        'runs = [{ method = "erm", epochs = 3, optimizer = "sgd", lr = [1e-2, 1e38] }]\n'
    )
    words = ("--grid", str(grid), "--seeds", "1", "--cache", str(made), "--out", str(tmp_path))
    status, out, _ = run(*words)
    assert status == 3
    assert "1 of 2 runs failed" in out.replace("\n", " ")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("--set", "epochs"), "expected --set OPTION=VALUE, found 'epochs'"),
        (("--methods", "emr"), "did you mean"),
        (("--seeds", "some"), "--seeds"),
        (("--select", "val.worst_group,val.men"), "did you mean val.mean"),
        (("--quick", "--default-grid"), "found --quick and --default-grid"),
    ],
)
def test_a_mistake_is_one_line(made: Path, words: tuple[str, ...], expected: str) -> None:
    _, out, error = run("--cache", str(made), *words)
    assert isinstance(error, EmbedcalError)
    assert expected in str(error)
    assert "\n" not in str(error)
    assert out == ""
