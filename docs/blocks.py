"""The code blocks of a page: read them, run them, compare what they print with what is shown.

A ``python`` block is run in one namespace a page, and a ``text`` block right after it is what it
prints. A ``console`` block holds commands after ``$ ``, each with what it prints below it; lines
after ``> `` go on with a command. Blocks of any other kind are for reading only. An HTML comment
before a block says more: ``<!-- file: NAME -->`` writes the block to a file, and
``<!-- not run: REASON -->`` leaves it out.

In what is shown, ``...`` stands for anything and a number with a decimal point for any such
number: those depend on the machine. White space and the length of ruled lines do not count.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

FENCE = re.compile(
    r"(?:<!-- (?P<mark>file|not run): (?P<said>.*?) -->\n+)?"
    r"^```(?P<kind>python|console)\n(?P<body>.*?)^```$"
    r"(?:\n+```text\n(?P<shown>.*?)^```$)?",
    re.DOTALL | re.MULTILINE,
)
VOLATILE = re.compile(r"(\d[\d,]*\.\d+|\.\.\.)")
LEFT_OUT = {"make": "it installs or runs the tests", "pip install": "it installs"}
QUIET = {"COLUMNS": "80", "NO_COLOR": "1", "TERM": "dumb", "HF_HUB_OFFLINE": "1"}


@dataclass(frozen=True, kw_only=True)
class Step:
    """One thing to do: ``span`` is where ``shown`` stands in the page, both None for nothing."""

    kind: Literal["python", "command", "file"]
    code: str
    line: int
    shown: str | None = None
    span: tuple[int, int] | None = None
    file: str = ""
    skip: str = ""


def steps(page: str) -> list[Step]:
    """Every step of a page in order, the ones to be left out with their reason."""
    found: list[Step] = []
    for block in FENCE.finditer(page):
        said = block["said"] or ""
        skip = said if block["mark"] == "not run" else ""
        line = page.count("\n", 0, block.start("body")) + 1
        if block["mark"] == "file":
            found.append(Step(kind="file", code=block["body"], line=line, file=said))
        elif block["kind"] == "python":
            found.append(
                Step(
                    kind="python",
                    code=block["body"],
                    line=line,
                    shown=block["shown"],
                    span=block.span("shown") if block["shown"] else None,
                    skip=skip,
                )
            )
        else:
            found += _commands(block["body"], block.start("body"), line, skip)
    return found


def _commands(body: str, start: int, line: int, skip: str) -> Iterator[Step]:
    for part in re.finditer(r"^\$ (.*\n(?:> .*\n)*)((?:(?!\$ ).*\n)*)", body, re.MULTILINE):
        command = part[1].replace("\\\n> ", "").replace("\n> ", "\n").strip()
        reasons = (why for word, why in LEFT_OUT.items() if command.startswith(word))
        yield Step(
            kind="command",
            code=command,
            line=line + body.count("\n", 0, part.start()),
            shown=part[2] or None,
            span=(start + part.start(2), start + part.end(2)) if part[2] else None,
            skip=skip or next(reasons, ""),
        )


def run(page: str, folder: Path) -> Iterator[tuple[Step, str]]:
    """Do the steps of a page in a folder of its own; each with what it printed.

    Raises whatever a Python block raises, and RuntimeError for a command that fails, unless the
    page shows embedcal's one line about a mistake.
    """
    namespace: dict[str, Any] = {"__name__": "page"}
    with _place(folder):
        for step in steps(page):
            if step.skip:
                continue
            yield step, _do(step, namespace)


def _do(step: Step, namespace: dict[str, Any]) -> str:
    if step.kind == "file":
        Path(step.file).write_text(step.code)
        return ""
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        if step.kind == "python":
            exec(compile(step.code, f"line {step.line}", "exec"), namespace)
            return out.getvalue()
        words = shlex.split(step.code)
        if words[0] == "embedcal" and not set("|<>;&$`") & set(step.code):
            status = _embedcal(words)
        else:
            status, text = _shell(step.code)
            out.write(text)
    if status != 0 and not re.search(r"^embedcal: ", step.shown or "", re.MULTILINE):
        raise RuntimeError(f"line {step.line}: '{step.code}' ended with {status}: {out.getvalue()}")
    return out.getvalue()


def _embedcal(words: list[str]) -> int:
    """The command in this process: importing torch for each would take most of the time."""
    from embedcal.cli import main

    before, sys.argv = sys.argv, words
    try:
        main()
    except SystemExit as end:
        return int(end.code or 0)
    finally:
        sys.argv = before
    return 0


def _shell(command: str) -> tuple[int, str]:
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout


@contextlib.contextmanager
def _place(folder: Path) -> Iterator[None]:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    home = {"EMBEDCAL_HOME": str(folder / "home")}
    with contextlib.chdir(folder), environment({**QUIET, **home, "PATH": path}):
        yield


@contextlib.contextmanager
def environment(values: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def matches(shown: str, found: str) -> re.Match[str] | None:
    """Whether a page shows what was printed; the groups are the numbers that were printed."""
    pattern = "".join(
        ".*?" if part == "..." else r"(\d[\d,]*\.\d+)" if at % 2 else re.escape(part)
        for at, part in enumerate(VOLATILE.split(_even(shown)))
    )
    return re.fullmatch(pattern, _even(found), re.DOTALL)


def renumbered(shown: str, numbers: tuple[str, ...]) -> str:
    """What is shown with other numbers in place of its own, columns kept where they fit."""
    rest = iter(numbers)

    def put(old: re.Match[str]) -> str:
        text = re.sub(r"\d[\d,]*\.\d+", lambda _: next(rest), old[2])
        return text.rjust(len(old[0])) if old[1] else text

    return re.sub(r"( *)(\d[\d,]*\.\d+(?:–\d[\d,]*\.\d+)?)", put, shown)


def _even(text: str) -> str:
    return re.sub("─+", "─", " ".join(text.split()))
