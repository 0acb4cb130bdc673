"""Small archives of every kind, and what is in a folder."""

from __future__ import annotations

import io
import os
import tarfile
import zipfile
from pathlib import Path

FILES = {
    "set/metadata.csv": b"path,y\n" * 300,
    "set/images/1 é.jpg": os.urandom(3000),
    "set/images/deep/er/2.jpg": b"",
    "set/images/3.jpg": os.urandom(600_000),
}


def pack(path: Path, files: dict[str, bytes], folders: tuple[str, ...] = ()) -> Path:
    """An archive of the kind that its name says; a name that comes twice is a list's job."""
    return pack_list(path, [*((name + "/", b"") for name in folders), *files.items()])


def pack_list(path: Path, files: list[tuple[str, bytes]]) -> Path:
    if path.name.endswith(".zip"):
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as zipped:
            for name, content in files:
                zipped.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_DEFLATED)
        return path
    with tarfile.open(path, "w" if path.name.endswith(".tar") else "w:gz") as tar:
        for name, content in files:
            info = tarfile.TarInfo(name.rstrip("/"))
            info.type = tarfile.DIRTYPE if name.endswith("/") else tarfile.REGTYPE
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def tree(folder: Path) -> dict[str, bytes]:
    """Every file that is not our own note or lock."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.endswith((".unpacked", ".lock"))
    }
