"""A run's folder as bytes, to be sent between machines that share no files."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

Files = dict[str, bytes]


def pack(folder: Path) -> Files:
    """The files of a run by name. One that has several names, by hard links, is the same bytes."""
    read: dict[int, bytes] = {}
    found: Files = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        node = path.stat().st_ino
        if node not in read:
            read[node] = path.read_bytes()
        found[path.relative_to(folder).as_posix()] = read[node]
    return found


def unpack(files: Files, folder: Path) -> None:
    """Write a run's folder whole or not at all; the same bytes are written once and linked."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}-"))
    written: dict[int, Path] = {}
    try:
        for name, content in files.items():
            path = part / name
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                path.hardlink_to(written[id(content)])
            except (KeyError, OSError):  # the first of its bytes, or no hard links here
                path.write_bytes(content)
                written[id(content)] = path
        part.chmod(0o755)  # mkdtemp's folders are private; a run's is as any other
        shutil.rmtree(folder, ignore_errors=True)
        part.replace(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)
