"""Tables that a benchmark puts into the documentation, between marks that stay there."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

EXPLANATION = Path(__file__).parent.parent / "docs" / "explanation"


def markdown_table(
    heads: Sequence[str], rows: Iterable[Sequence[str]], *, numbers: bool = False
) -> str:
    """Rows under their heads; ``numbers``: all columns but the first are set to the right."""
    rule = ["---", *["---:" if numbers else "---"] * (len(heads) - 1)]
    lines = [heads, rule, *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def put(page: Path, name: str, text: str) -> None:
    """Put a text in place of what stands between ``<!-- name -->`` and ``<!-- /name -->``."""
    marks = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
    before = page.read_text()
    assert len(marks.findall(before)) == 1, f"one place for {name} in {page}"
    page.write_text(marks.sub(lambda found: f"{found[1]}\n{text.strip()}\n\n{found[2]}", before))
