"""The documentation is run: what a page shows is what happens, and no page is lost."""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import fields
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from packaging.version import Version

import embedcal
from embedcal.cache import open_cache
from embedcal.evaluate import RULES, Metrics
from embedcal.fitting import fit
from embedcal.methods import names

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
FRONT = [ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
RUN = sorted([*DOCS.glob("tutorials/*.md"), *DOCS.glob("how-to/*.md")])
RUN_TOO = (
    "architecture",
    "comparing",
    "embedded-world",
    "methods-that-train-nothing",
    "scale",
    "without-group-labels",
)
ALSO_RUN = [DOCS / "reference" / "encoders.md"] + [
    DOCS / "explanation" / f"{page}.md" for page in RUN_TOO
]
NEEDS_FILES = [DOCS / "reference" / "cache-format.md", DOCS / "reference" / "runs.md"]

sys.path.insert(0, str(DOCS))  # the scripts that make the pages lie beside them

import blocks  # noqa: E402
import generate  # noqa: E402

# Pages show what these print; older ones fold tables and word help otherwise.
SHOWN_WITH = {"rich": "15.0", "typer": "0.29"}
AS_SHOWN = all(Version(version(name)) >= Version(least) for name, least in SHOWN_WITH.items())


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def check(path: Path, folder: Path) -> None:
    """Run a page; what it shows must be what is printed, where it can be."""
    for step, found in blocks.run(path.read_text(), folder):
        if AS_SHOWN and step.shown is not None and not blocks.matches(step.shown, found):
            pytest.fail(f"{name(path)}, line {step.line}: shown\n{step.shown}\nfound\n{found}")


@pytest.mark.parametrize("path", [*RUN, *ALSO_RUN], ids=name)
def test_a_page_does_what_it_shows(path: Path, tmp_path: Path) -> None:
    check(path, tmp_path)


@pytest.mark.parametrize("path", NEEDS_FILES, ids=name)
def test_a_page_about_files_reads_real_ones(path: Path, birds: Path, tmp_path: Path) -> None:
    (tmp_path / "cache.h5").write_bytes(birds.read_bytes())
    with open_cache(birds) as cache:
        fit("zeroshot", cache, out=tmp_path / "runs")
    check(path, tmp_path)


@pytest.mark.slow
def test_the_readme_does_what_it_shows(tmp_path: Path) -> None:
    check(ROOT / "README.md", tmp_path)


@pytest.mark.parametrize("path", [*PAGES, *FRONT], ids=name)
def test_every_block_is_read_or_is_for_reading_only(path: Path) -> None:
    """A fence that the reader of blocks misses would never be run."""
    text = path.read_text()
    opened = re.findall(r"^ *```+ *(\w+)", text, re.MULTILINE)
    read = [match["kind"] for match in blocks.FENCE.finditer(text)]
    assert read == [kind for kind in opened if kind in ("python", "console")]
    if path in RUN:
        kinds = {"python", "console", "text", "sh", "toml", "json"}
        assert set(opened) <= kinds, "a kind of block that nobody runs"
    for step in blocks.steps(text):
        assert not step.skip or len(step.skip.split()) > 1, "left out without a reason"


@pytest.mark.skipif(not AS_SHOWN, reason=f"help as {SHOWN_WITH} word it")
def test_the_generated_pages_are_what_the_code_gives() -> None:
    for path, text in generate.pages().items():
        assert (DOCS / path).read_text() == text, f"{path}: run python docs/generate.py"


def prose() -> Iterator[str]:
    """Every page that people read from start to end: not the reference."""
    for path in [*FRONT, *PAGES]:
        if "reference" not in path.parts:
            yield path.read_text()


def test_every_command_method_and_public_name_is_mentioned_outside_the_reference() -> None:
    from typer.main import get_command

    from embedcal.cli import app

    text = "\n".join(prose())
    command: Any = get_command(app)
    wanted = {f"embedcal {word}" for word in command.commands}
    wanted |= {f"embedcal fit {method}" for method in names()}
    wanted |= {f"embedcal.{public}" for public in embedcal.__all__ if public != "__version__"}
    wanted |= {rule.name for rule in RULES}
    missing = sorted(word for word in wanted if not re.search(rf"{re.escape(word)}\b", text))
    assert not missing


def test_every_page_is_in_the_navigation_and_no_other() -> None:
    def pages(entries: list[Any]) -> Iterator[str]:
        for entry in entries:
            for value in entry.values():
                yield from [value] if isinstance(value, str) else pages(value)

    listed = list(pages(tomllib.loads((ROOT / "zensical.toml").read_text())["project"]["nav"]))
    assert sorted(listed) == sorted(str(path.relative_to(DOCS)) for path in PAGES)


LINK = re.compile(r"(!?)\[[^\]]*\]\(([^)\s]+)\)", re.DOTALL)


@pytest.mark.parametrize("path", [*PAGES, *FRONT], ids=name)
def test_every_relative_link_and_image_exists(path: Path) -> None:
    text = re.sub(r"^```.*?^```$", "", path.read_text(), flags=re.DOTALL | re.MULTILINE)
    text = re.sub(r"`[^`\n]*`", "`code`", text)
    for _, target in LINK.findall(text):
        if re.match(r"[a-z]+:", target):
            continue
        file, _, anchor = target.partition("#")
        there = (path.parent / file).resolve() if file else path
        assert there.is_file(), f"{name(path)} links to {target}"
        if anchor:
            assert anchor in anchors(there), f"{name(path)} links to {target}"


def anchors(path: Path) -> set[str]:
    """The headings of a page as the site and GitHub name them."""
    heads = re.findall(r"^#+ (.+)$", path.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head).strip().lower().replace(" ", "-") for head in heads}


def test_the_demos_table_has_its_place_in_the_readme() -> None:
    assert len(generate.DEMO.findall((ROOT / "README.md").read_text())) == 1


def test_every_field_of_a_record_is_described(birds: Path) -> None:
    page = (DOCS / "reference" / "runs.md").read_text()
    described = set(re.findall(r"`(\w+)`", page))
    with open_cache(birds) as cache:
        record = fit("erm", cache, epochs=1).record
    for where in (record, record["cache"], record["val"], record["val"]["interval"]):
        assert set(where) <= described


def test_every_metric_is_defined() -> None:
    described = set(re.findall(r"^\| `(\w+)`", (DOCS / "explanation/metrics.md").read_text(), re.M))
    assert {field.name for field in fields(Metrics)} == described


@pytest.mark.parametrize(
    ("shown", "found", "same"),
    [
        ("a  b\n", "a b", True),
        ("a b", "a c", False),
        ("run ... (0.1 s)", "run 12ab (31.25 s)", True),
        ("run ... (0.1 s)", "run 12ab (3 s)", False),
        ("rows 600", "rows 601", False),
        ("a\n...\nz", "a\nb\nc\nz", True),
        ("a\n...", "b\na", False),
        ("┃ ──── ┃", "┃ ──────── ┃", True),
        ("1.0", "nan", False),
    ],
)
def test_what_is_compared_and_what_is_not(shown: str, found: str, same: bool) -> None:
    assert bool(blocks.matches(shown, found)) is same


def test_numbers_are_put_in_without_moving_columns() -> None:
    shown = "worst   34.4   19.9–48.8\nmean   100.0   66.8–74.8\n...  600 rows\n"
    found = "worst  7.5 4.3–27.4 mean 99.9 1.0–2.0 x 600 rows"
    same = blocks.matches(shown, found)
    assert same is not None
    assert blocks.renumbered(shown, same.groups()) == (
        "worst    7.5    4.3–27.4\nmean    99.9     1.0–2.0\n...  600 rows\n"
    )


@pytest.mark.parametrize(
    ("page", "error"),
    [
        ("```console\n$ false\n```\n", RuntimeError),
        ("```console\n$ embedcal fit nothing\n```\n", RuntimeError),
        ("```python\nraise KeyError\n```\n", KeyError),
    ],
)
def test_a_step_that_fails_is_not_passed_over(
    page: str, error: type[Exception], tmp_path: Path
) -> None:
    with pytest.raises(error):
        list(blocks.run(page, tmp_path))


def test_a_block_can_be_a_file_or_be_left_out(tmp_path: Path) -> None:
    page = (
        "<!-- file: it.txt -->\n```python\nnot python\n```\n"
        "<!-- not run: it needs a network -->\n```console\n$ exit 1\n```\n"
        "```console\n$ make test\n$ cat it.txt | tr a-z A-Z\nNOT PYTHON\n```\n"
    )
    done = list(blocks.run(page, tmp_path))
    assert [step.kind for step, _ in done] == ["file", "command"]
    assert done[-1][1] == "NOT PYTHON\n"
    assert [step.skip for step in blocks.steps(page) if step.skip] == [
        "it needs a network",
        "it installs or runs the tests",
    ]
