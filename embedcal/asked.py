"""``grid.json``: which runs of a folder somebody asked for; the others are only stages of these."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from embedcal.runs import CLAIMS
from embedcal.types import EmbedcalError

GRID = "grid.json"
FORMAT = 1


def asked_of(folder: Path) -> list[str] | None:
    """The ids of ``grid.json``, in the order in which they were asked for; None without one."""
    try:
        document = json.loads((folder / GRID).read_text())
        return [str(name) for name in document["asked"]]
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise EmbedcalError(
            f"expected a list of runs in {folder / GRID}, found it unreadable ({error}): delete "
            "it, and give the command of the grid again"
        ) from None


def add(
    folder: Path,
    ids: Iterable[str],
    command: Mapping[str, Any] | None = None,
    *,
    begin: Callable[[], Iterable[str]] | None = None,
) -> None:
    """Add runs, and the command that asks for them, to ``grid.json``, whoever else does so.

    Where there is none it is made, beginning with the ids that ``begin`` finds, or without
    ``begin`` left so. EmbedcalError where the folder cannot be written to, or its disk is full.
    """
    from filelock import FileLock

    try:
        (folder / CLAIMS).mkdir(parents=True, exist_ok=True)
        with FileLock(folder / CLAIMS / "grid.lock"):
            before = asked_of(folder)
            commands = []
            if before is not None:
                commands = json.loads((folder / GRID).read_text()).get("commands", [])
            elif begin is None:
                return
            else:
                before = [*begin()]
            if command is not None and command not in commands:
                commands = [*commands, command]
            document = {
                "format": FORMAT,
                "commands": commands,
                "asked": list(dict.fromkeys([*before, *ids])),
            }
            part = folder / f"{GRID}.part"
            part.write_text(json.dumps(document, indent=1) + "\n")
            part.replace(folder / GRID)
    except OSError as error:
        raise EmbedcalError(
            f"expected to write into {folder}, found: {error.strerror}: make room there, or choose "
            "another folder with --out"
        ) from None
