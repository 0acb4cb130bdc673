"""Makes the pictures of the documentation again: ``python docs/screenshots.py``.

Terminals are drawn by rich from what the commands print, pages by Chromium, figures by the commands
themselves. All of it in a folder of its own, over the birds that come with the package.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.text import Text

ASSETS = Path(__file__).parent / "assets"
WIDTH = 84  # columns of a terminal
PAGE = (1200, 1500)  # pixels of a browser's window

BEFORE = (
    "embedcal cache birds --backbone tiny",
    "embedcal fit erm --select val.mean --out runs",
    "embedcal fit group-dro --out runs",
    "embedcal fit dfr --out runs",
)
TERMINALS = {
    "compare.svg": "embedcal compare runs",
}
FIGURES = {
    "map.png": "embedcal map runs/{erm} runs/{dfr} -o {out}",
    "explain.png": "embedcal explain zero-shot runs/{erm} runs/{group-dro} --worst 4 -o {out}",
    "reliability.png": "embedcal calibrate runs/{erm} --plot {out}",
}
PAGES = {"report.png": "embedcal report runs -o report.html"}


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        os.environ |= {"EMBEDCAL_HOME": f"{folder}/home", "HF_HUB_OFFLINE": "1"}
        ids: dict[str, str] = {}
        for command in BEFORE:
            _do(command.format(**ids))
            ids = _runs()
        for name, command in TERMINALS.items():
            _terminal(command.format(**ids), ASSETS / name)
        for name, command in FIGURES.items():
            _do(command.format(out=ASSETS / name, **ids))
        for name, command in PAGES.items():
            _do(command)
            _page(Path(command.split()[-1]).absolute(), ASSETS / name)


def _do(command: str, **environment: str) -> str:
    sys.stderr.write(f"$ {command}\n")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        command.split(),
        env={**os.environ, "PATH": path, "COLUMNS": str(WIDTH), **environment},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return done.stdout


def _runs() -> dict[str, str]:
    """The id of each run by its method."""
    lines = Path("runs/results.jsonl")
    records = map(json.loads, lines.read_text().splitlines()) if lines.is_file() else ()
    return {record["method"]: record["id"] for record in records}


def _terminal(command: str, path: Path) -> None:
    shown = _do(command, FORCE_COLOR="1")
    with Path(os.devnull).open("w") as nowhere:
        console = Console(record=True, width=WIDTH, file=nowhere)
        console.print(Text("$ " + command))
        console.print(Text.from_ansi(shown))
        drawn = console.export_svg(title="embedcal")
    path.write_text(
        re.sub(r"@font-face \{.*?\}\s*", "", drawn, flags=re.DOTALL)
    )  # no font from elsewhere


def _page(page: Path, path: Path) -> None:
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    for argument in ("--headless=new", "--no-sandbox", "--hide-scrollbars"):
        options.add_argument(argument)
    browser = webdriver.Chrome(options, Service(shutil.which("chromedriver")))
    try:
        browser.set_window_size(*PAGE)
        browser.get(page.as_uri())
        browser.save_screenshot(str(path))
    finally:
        browser.quit()


if __name__ == "__main__":
    main()
