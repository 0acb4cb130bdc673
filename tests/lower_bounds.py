"""The oldest releases that embedcal says it works with, as constraints for pip.

python tests/lower_bounds.py            write tests/lower-bounds.txt from pyproject.toml
python tests/lower_bounds.py --check    fail where it differs

``make lower-bounds`` installs embedcal with them, the tools of its tests free, and runs the quick
tests.
"""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

PAIR = ("torch", "torchvision")  # of one build: a local one such as 2.13.0+cpu may lie in one's way
ROOT = Path(__file__).parent.parent
FILE = Path(__file__).with_name("lower-bounds.txt")
HEAD = "# Written by tests/lower_bounds.py from pyproject.toml: make lower-bounds installs these.\n"


def constraints(requirements: list[str]) -> str:
    """``name>=1.2; marker`` as ``name==1.2; marker``, one a line; others cannot be pinned.

    ``===`` takes the release itself and no local build of it.
    """
    lines = []
    for line in requirements:
        found = re.fullmatch(r"([\w.-]+)>=([\w.]+)((?:,<[\w.]+)?)(\s*;.*)?", line.strip())
        if found is None:
            raise SystemExit(f"expected NAME>=VERSION in pyproject.toml, found '{line}'")
        equals = f"==={found[2]}.0" if found[1] in PAIR else f"=={found[2]}"
        lines.append(f"{found[1]}{equals}{found[4] or ''}\n")
    return HEAD + "".join(lines)


def main() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    text = constraints(project["dependencies"])
    if "--check" not in sys.argv[1:]:
        FILE.write_text(text)
    elif not FILE.is_file() or FILE.read_text() != text:
        raise SystemExit(f"{FILE.name} is not what pyproject.toml says: run {sys.argv[0]}")


if __name__ == "__main__":
    main()
