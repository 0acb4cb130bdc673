"""Write the pages of the reference that are made from the code, and refresh shown numbers.

python docs/generate.py              reference/cli.md, methods.md, api.md, named-data-sets.md
python docs/generate.py --check      write nothing; fail where one of them differs
python docs/generate.py --numbers    run the tutorials and how-tos, put their numbers in
python docs/generate.py --demo       run the demo, put its table into README.md
"""

from __future__ import annotations

import contextlib
import inspect
import io
import re
import sys
import tempfile
import textwrap
from pathlib import Path
from typing import Any

import blocks
from datasets_page import datasets_page
from markdown_text import MADE, fence, page, prose
from methods_page import methods_page

DOCS = Path(__file__).parent
README = DOCS.parent / "README.md"
DEMO = re.compile(r"(<!-- demo-table -->\n).*?(<!-- /demo-table -->)", re.DOTALL)


def pages() -> dict[Path, str]:
    """The generated pages by their path below ``docs``."""
    return {
        Path("reference/cli.md"): cli_page(),
        Path("reference/methods.md"): methods_page(),
        Path("reference/api.md"): api_page(),
        Path("reference/named-data-sets.md"): datasets_page(),
    }


# The command line


def cli_page() -> str:
    from typer.main import get_command

    from embedcal.cli import app

    command: Any = get_command(app)
    parts = [MADE, "# Command line", CLI_INTRODUCTION]
    names = [*command.commands]
    parts += ["## embedcal", _help([])]
    for name in names:
        parts += [f"## embedcal {name}", _help([name])]
        for inner in getattr(command.commands[name], "commands", ()):
            if name == "datasets":
                parts += [f"### embedcal {name} {inner}", _help([name, inner])]
        if name == "fit":
            parts += [
                "METHOD is one of [the methods](methods.md), or a file that defines one: "
                "[Add a method](../how-to/add-a-method.md). These options are those of every "
                "method; its own come before them.",
                fence(_shared_options()),
            ]
    return page([*parts, CLI_END])


def _shared_options() -> str:
    """The part of a method's help that all methods have in common."""
    text = _help_text(["fit", "zeroshot"])
    return text[text.index("  --cache ") :]


def _help(words: list[str]) -> str:
    return fence(_help_text(words))


def _help_text(words: list[str]) -> str:
    from typer.main import get_command

    from embedcal.cli import app

    out = io.StringIO()
    with blocks.environment(blocks.QUIET), contextlib.redirect_stdout(out):
        get_command(app).main([*words, "--help"], prog_name="embedcal", standalone_mode=False)
    return out.getvalue()


CLI_INTRODUCTION = """\
Every command is one call of a public function, and prints what it returns; the functions are in
[Python](api.md). `--json` is everywhere: exactly one JSON document on standard output and nothing
else there. Fractions in JSON, percent with one decimal in tables. An option may be written with
`-` or `_`: `--batch-size` and `--batch_size` are the same.

Which cache: `--cache FILE`, else the one used last, else the only one there is. `fit` says first
which one it took, on standard error."""

CLI_END = """\
## Exit status

| status | meaning |
|---|---|
| 0 | done |
| 1 | a mistake of ours: please report the traceback |
| 2 | a mistake that you can mend; one line says what was expected, what was found, what to do |
| 3 | finished, but images could not be read; they are listed |
| 130 | interrupted; what was finished is kept, and the last line is the command that goes on |

## Environment

| variable | meaning |
|---|---|
| `EMBEDCAL_HOME` | folder of caches, runs, rendered birds and the memory of the cache used last |
| `HF_HUB_OFFLINE` | set to 1, nothing asks the network for weights |
| `NO_COLOR` | set to anything, no colours |
| `COLUMNS` | width of help texts and tables |"""


# Python


def api_page() -> str:
    import embedcal

    parts = [MADE, "# Python", API_INTRODUCTION]
    for name in sorted(embedcal.__all__, key=str.lower):
        if name == "__version__":
            continue
        value = getattr(embedcal, name)
        if inspect.ismodule(value):  # a package that can be called
            value = CALLED[name]()
        parts += [f"## embedcal.{name}", *_entry(f"embedcal.{name}", value)]
    return page(parts)


def _cache() -> Any:
    from embedcal.caching import cache

    return cache


def _evaluate() -> Any:
    from embedcal.evaluate import evaluate_labels

    return evaluate_labels


CALLED = {"cache": _cache, "evaluate": _evaluate}
API_INTRODUCTION = """\
Everything here is in the package's own name: `import embedcal`. Names are loaded when first used,
so the import costs next to nothing. `embedcal.__version__` is the version. Values are frozen.
What you can mend raises `embedcal.EmbedcalError` with one line."""


def _entry(name: str, value: Any) -> list[str]:
    text, _, example = (inspect.getdoc(value) or "").partition("\nExample:\n")
    found = [prose(text)]
    if example:
        found.append(fence(textwrap.dedent(example), "pycon"))
    if isinstance(value, type) and issubclass(value, Exception):
        return found
    found = [fence(_signature(name, value), "python"), *found]
    if not inspect.isclass(value):
        return found
    rows = []
    for key, member in vars(value).items():
        target = member.fget if isinstance(member, property) else getattr(member, "func", member)
        if key.startswith("_") or not inspect.isfunction(target):
            continue
        call = key if target is not member else _signature(key, target, method=True)
        doc = (inspect.getdoc(target) or "").split("\n\n")[0].replace("\n", " ")
        rows.append(f"- `{call}`" + (f": {prose(doc)}" if doc else ""))
    return [*found, "\n".join(rows)] if rows else found


def _signature(name: str, value: Any, *, method: bool = False) -> str:
    """A signature with its annotations as they are written."""
    parts, starred = [], False
    for parameter in list(inspect.signature(value).parameters.values())[int(method) :]:
        if parameter.kind is parameter.KEYWORD_ONLY and not starred:
            parts.append("*")
            starred = True
        prefix = {parameter.VAR_KEYWORD: "**", parameter.VAR_POSITIONAL: "*"}.get(
            parameter.kind, ""
        )
        text = prefix + parameter.name
        if parameter.annotation is not parameter.empty:
            text += f": {_annotation(parameter.annotation)}"
        if parameter.default is not parameter.empty:
            default = parameter.default
            made = callable(default) or "factory" in repr(default)  # their repr has an address
            text += f" = {'...' if made else repr(default)}"
        parts.append(text)
    back = "" if inspect.isclass(value) else _returns(value)
    line = f"{name}({', '.join(parts)}){back}"
    if len(line) <= 88 or method:
        return line
    return f"{name}(\n" + "".join(f"    {part},\n" for part in parts) + f"){back}"


def _returns(value: Any) -> str:
    annotation = inspect.signature(value).return_annotation
    return "" if annotation is inspect.Signature.empty else f" -> {_annotation(annotation)}"


def _annotation(annotation: Any) -> str:
    return annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)


# Numbers


def refresh(path: Path) -> bool:
    """Run a page, put the numbers that it prints into it; whether all else is as shown."""
    page = path.read_text()
    edits, good = [], True
    with tempfile.TemporaryDirectory() as folder:
        for step, found in blocks.run(page, Path(folder)):
            if step.shown is None or step.span is None:
                continue
            same = blocks.matches(step.shown, found)
            if same is None:
                good = False
                sys.stdout.write(f"{path.name}, line {step.line}: by hand, please:\n{found}\n")
            else:
                edits.append((step.span, blocks.renumbered(step.shown, same.groups())))
    for (start, end), text in reversed(edits):
        page = page[:start] + text + page[end:]
    path.write_text(page)
    return good


def demo() -> None:
    """Run the demo as shipped and put what it prints between the marks of the README."""
    with tempfile.TemporaryDirectory() as folder:
        page = "```console\n$ embedcal demo\n```\n"
        text = "".join(found for _, found in blocks.run(page, Path(folder)))
    table = text.split("\nNext:")[0].strip("\n")
    lines = "\n".join(line.rstrip() for line in table.splitlines())
    shown = f"```text\n{lines}\n```\n"
    README.write_text(DEMO.sub(lambda mark: mark[1] + shown + mark[2], README.read_text()))


def main(words: list[str]) -> int:
    if words == ["--numbers"]:
        runnable = sorted([*DOCS.glob("tutorials/*.md"), *DOCS.glob("how-to/*.md")])
        return 0 if min(map(refresh, runnable)) else 1
    if words == ["--demo"]:
        demo()
        return 0
    if words not in ([], ["--check"]):
        sys.stderr.write(__doc__ or "")
        return 2
    different = [
        path
        for path, text in pages().items()
        if not (DOCS / path).is_file() or (DOCS / path).read_text() != text
    ]
    for path in different:
        if words:
            sys.stderr.write(f"docs/{path} is not what the code gives: python docs/generate.py\n")
        else:
            (DOCS / path).write_text(pages()[path])
    return 1 if words and different else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
