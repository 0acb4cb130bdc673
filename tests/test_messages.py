"""Every message says what to do, after what was expected and what was found."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import embedcal

HERE = Path(embedcal.__file__).parent
# What a damaged head is answered with is completed in heads/files.py, a precision that is none is
# refused by load_encoder before a CLIP sees it, and each fault of a download brings its advice.
ELSEWHERE = ("heads/", "datasets/downloads/downloading.py")
VALUE = "{}"  # whatever a placeholder holds; behind other text, without a blank, it is a hint


def texts(node: ast.expr) -> Iterator[str]:
    """The texts that an expression may be, placeholders as ``{}``."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
    elif isinstance(node, ast.JoinedStr):
        yield "".join("".join(texts(part)) for part in node.values)
    elif isinstance(node, ast.IfExp):
        yield from texts(node.body)
        yield from texts(node.orelse)
    elif isinstance(node, ast.BinOp):
        yield from (a + b for a in texts(node.left) for b in texts(node.right))
    else:
        yield VALUE


def lacks_advice(text: str) -> bool:
    _, found, tail = text.partition(", found")
    hinted = tail.endswith(VALUE) and not tail.endswith(" " + VALUE)
    return bool(found) and ": " not in tail.removeprefix(": ") and not hinted


def test_no_message_leaves_it_at_what_was_found() -> None:
    assert lacks_advice("expected a, found {} there")
    assert lacks_advice("expected a, found: {}")
    assert not lacks_advice("expected a, found {}: take b")
    lacking, seen = [], 0
    for path in sorted(HERE.rglob("*.py")):
        name = path.relative_to(HERE).as_posix()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "EmbedcalError":
                for text in texts(node.args[0]):
                    seen += 1
                    if lacks_advice(text) and not name.startswith(ELSEWHERE):
                        lacking.append(f"{name}:{node.lineno}: {text}")
    assert seen > 500
    assert not lacking, "\n".join(lacking)
