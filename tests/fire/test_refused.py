"""Hostile files are refused before anything is allocated, by a child with no memory to spare."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from faults_for_tests import seal
from test_hostile import HOSTILE

from embedcal.cache.format import FORMAT, USER_BLOCK

SPARE = 64 << 20  # bytes that a child may take beyond what it has after its imports
CHILD = """
import json, resource, sys
from embedcal.cache import open_cache, verify
from embedcal.types import EmbedcalError

warm, spare, *paths = sys.argv[1:]
with open_cache(warm) as cache:
    cache.read()
held = int(next(line.split()[1] for line in open("/proc/self/status") if "VmSize" in line)) << 10
resource.setrlimit(resource.RLIMIT_AS, (held + int(spare),) * 2)
try:
    bytearray(2 * int(spare))
except MemoryError:
    print(json.dumps(["limited", True]))
for path in paths:
    try:
        with open_cache(path) as cache:
            print(json.dumps([path, "opened"]))
    except EmbedcalError as error:
        print(json.dumps([path, str(error)]))
    assert not verify(path).ok or path.endswith("label.h5"), path
"""


def file_size_lie(path: Path) -> None:
    """A file of a terabyte that takes a few kilobytes of disk."""
    os.truncate(path, 1 << 40)


def resized(path: Path, old: bytes, new: bytes) -> None:
    data = path.read_bytes()
    assert old in data
    path.write_bytes(data.replace(old, new))


def dimensions(path: Path) -> None:
    row, huge = (24).to_bytes(8, "little"), (1 << 40).to_bytes(8, "little")
    data = path.read_bytes()
    path.write_bytes(data[:USER_BLOCK] + data[USER_BLOCK:].replace(row, huge))


def string_size(path: Path) -> None:
    """Each fixed-length string type made one of two gigabytes."""
    with h5py.File(path, "r") as file:
        sizes = {dset.dtype.itemsize for dset in (file["classes"], file["samples/id"])}
        sizes |= {len(value) for value in file.attrs.values() if isinstance(value, bytes)}
    data = path.read_bytes()
    for size in sizes:
        # class 3 (string), version 1, padding null, UTF-8, then the size
        old = bytes([0x13, 0x11, 0, 0]) + size.to_bytes(4, "little")
        data = data.replace(old, old[:4] + (1 << 31).to_bytes(4, "little"))
    path.write_bytes(data)


def foreign(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file.create_dataset("x", (1 << 36,), "<f8")


def newer(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(f"{FORMAT} 3\n".encode() + data[20:])


PATCHED = {
    "dimensions": (dimensions, True),
    "string size": (string_size, True),
    "foreign": (foreign, False),
    "newer": (newer, False),
}


@pytest.fixture(scope="module")
def said(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What one child with little memory says of every hostile file."""
    folder = tmp_path_factory.mktemp("hostile")
    for number, (what, (change, _)) in enumerate(HOSTILE.items()):
        path = Path(shutil.copy(finished, folder / f"{number}-{what}.h5"))
        with h5py.File(path, "r+") as file:
            change(file, folder)
        seal(path)
        path.rename(folder / f"{what}.h5")
    for what, (patch, sealed) in PATCHED.items():
        path = Path(shutil.copy(finished, folder / f"{what}.h5"))
        patch(path)
        if sealed:
            seal(path)
    names = [*HOSTILE, *PATCHED]
    run = [sys.executable, "-c", CHILD, str(finished), str(SPARE)]
    done = subprocess.run(
        [*run, *(str(folder / f"{name}.h5") for name in names)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    pairs = [json.loads(line) for line in done.stdout.splitlines()]
    assert pairs[0] == ["limited", True], "the child was not limited, so it shows nothing"
    return {Path(path).stem: text for path, text in pairs[1:]}


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's /proc")
@pytest.mark.parametrize("what", [*HOSTILE, *PATCHED])
def test_refused_with_next_to_no_memory(said: dict[str, str], what: str) -> None:
    message = said[what]
    assert message != "opened"
    assert "\n" not in message
    if what in HOSTILE:
        assert HOSTILE[what][1] in message
    elif what == "newer":
        assert "use a newer embedcal" in message
    elif what == "foreign":
        assert "another kind of file" in message


def test_no_other_file_is_opened(finished: Path, tmp_path: Path, monkeypatch) -> None:
    """External links, raw storage and virtual sources name a pipe: opening it would never end."""
    os.mkfifo(tmp_path / "other.h5")
    os.mkfifo(tmp_path / "secret")
    for what in ("external storage", "external link", "virtual data set"):
        path = Path(shutil.copy(finished, tmp_path / "hostile.h5"))
        with h5py.File(path, "r+") as file:
            if what == "external storage":
                del file["images/embedding"]
                external = [(str(tmp_path / "secret"), 0, 24 * 6 * 4)]
                file.create_dataset("images/embedding", (24, 6), "<f4", external=external)
            elif what == "external link":
                del file["samples/y"]
                file["samples/y"] = h5py.ExternalLink(str(tmp_path / "other.h5"), "/y")
            else:
                del file["images/embedding"]
                layout = h5py.VirtualLayout(shape=(24, 6), dtype="<f4")
                layout[...] = h5py.VirtualSource(str(tmp_path / "other.h5"), "x", shape=(24, 6))
                file.create_virtual_dataset("images/embedding", layout)
        seal(path)
        code = (
            "import sys; from embedcal.cache import open_cache\n"
            "from embedcal.types import EmbedcalError\n"
            "try: open_cache(sys.argv[1])\n"
            "except EmbedcalError: print('refused')"
        )
        done = subprocess.run(
            [sys.executable, "-c", code, str(path)], capture_output=True, text=True, timeout=60
        )
        assert done.stdout == "refused\n", (what, done.stderr)


def test_a_sparse_file_of_a_terabyte(finished: Path, tmp_path: Path) -> None:
    path = Path(shutil.copy(finished, tmp_path / "sparse.h5"))
    file_size_lie(path)
    assert np.isclose(path.stat().st_size, 2**40)
    code = (
        "import sys; from embedcal.cache import open_cache, verify\n"
        "print(verify(sys.argv[1]).reason)\nopen_cache(sys.argv[1])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, timeout=60
    )
    assert "behind the user block" in done.stdout  # told by the length, before any hashing
    assert "cut short or added to" in done.stderr.replace("\n", " ")
