"""Images written out of the files that hold them: whole or not at all, once."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from embedcal.datasets.containers.members import MARK, states_of, unpack_members
from embedcal.types import EmbedcalError


def images(n: int, stop: Exception | None = None) -> Callable[[], Iterator[bytes | None]]:
    def give() -> Iterator[bytes | None]:
        for i in range(n):
            yield b"P6\n" + bytes([i % 256]) * 300 if i != 1 else None
        if stop is not None:
            raise stop

    return give


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "a file").write_bytes(b"of something")
    return tmp_path / "a file"


def test_rows_suffixes_and_rows_without_an_image(file: Path) -> None:
    done = []
    members = unpack_members(
        images(1203), name="..//odd name", states=states_of([file]), progress=done.append
    )
    assert members.root.name.startswith("odd-name-")
    assert members.paths[:2] == ("00000/row-00000000.ppm", "00000/row-00000001.img")
    assert members.paths[1202] == "00001/row-00001202.ppm"
    assert not (members.root / members.paths[1]).exists()
    assert (members.root / members.paths[1202]).read_bytes() == list(images(1203)())[1202]
    assert done == list(range(1, 1204))


def test_nothing_is_left_of_what_failed(file: Path, own_home: Path) -> None:
    with pytest.raises(EmbedcalError, match="torn"):
        unpack_members(images(5, EmbedcalError("torn")), name="x", states=states_of([file]))
    with pytest.raises(KeyboardInterrupt):
        unpack_members(images(5, KeyboardInterrupt()), name="x", states=states_of([file]))  # type: ignore[arg-type]
    assert [path.suffix for path in (own_home / "unpacked").iterdir()] == [".lock"]
    assert len(unpack_members(images(5), name="x", states=states_of([file])).paths) == 5


def test_a_file_that_changes_meanwhile(file: Path, own_home: Path) -> None:
    def meddle() -> Iterator[bytes]:
        yield b"an image"
        file.write_bytes(b"something else")

    with pytest.raises(EmbedcalError, match="found a change"):
        unpack_members(meddle, name="x", states=states_of([file]))
    assert [path.suffix for path in (own_home / "unpacked").iterdir()] == [".lock"]
    states = states_of([file])
    unpack_members(images(2), name="x", states=states)
    file.write_bytes(b"changed after its labels were read")
    with pytest.raises(EmbedcalError, match="found a change"):
        unpack_members(images(2), name="x", states=states)


def test_a_damaged_mark_is_named(file: Path) -> None:
    root = unpack_members(images(2), name="x", states=states_of([file])).root
    for content in ("[", "{}", '{"paths": [1]}', '{"paths": "ab"}', "[]"):
        (root / MARK).write_text(content)
        with pytest.raises(EmbedcalError, match=f"expected {MARK} in .*delete that folder"):
            unpack_members(images(2), name="x", states=states_of([file]))


def test_an_image_above_the_limit(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("embedcal.datasets.containers.members.LARGEST", 302)
    with pytest.raises(EmbedcalError, match="found one of 303 bytes in row 1"):
        unpack_members(images(2), name="x", states=states_of([file]))


def test_what_a_killed_process_left_is_cleared(file: Path, own_home: Path) -> None:
    script = (
        "import os, signal, sys; from pathlib import Path\n"
        "from embedcal.datasets.containers.members import states_of, unpack_members\n"
        "def give():\n"
        "    yield b'one'\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "unpack_members(give, name='x', states=states_of([Path(sys.argv[1])]))\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(file)], check=False)
    assert done.returncode == -9
    (part,) = (own_home / "unpacked").glob(".*.part")
    assert list(part.rglob("row-*"))
    root = unpack_members(images(3), name="x", states=states_of([file])).root
    assert not part.exists()
    assert {path.name for path in root.rglob("row-*")} == {"row-00000000.ppm", "row-00000002.ppm"}


def test_two_processes_unpack_once(file: Path) -> None:
    script = (
        "import sys, time; from pathlib import Path\n"
        "from embedcal.datasets.containers.members import states_of, unpack_members\n"
        "def give():\n"
        "    print('made')\n"
        "    for i in range(20):\n"
        "        time.sleep(0.05)\n"
        "        yield bytes(2000 + i)\n"
        "found = unpack_members(give, name='x', states=states_of([Path(sys.argv[1])]))\n"
        "assert len(found.paths) == len(list(found.root.rglob('row-*'))) == 20\n"
    )
    command = [sys.executable, "-c", script, str(file)]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    said = [process.communicate(timeout=60)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert sorted(said) == ["", "made\n"]


def test_a_full_disk_is_named_and_nothing_is_left(
    file: Path, small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EMBEDCAL_HOME", str(small_disk))
    with pytest.raises(EmbedcalError, match=f"into {small_disk}.*No space left") as caught:
        unpack_members(lambda: iter([bytes(200_000)] * 9), name="x", states=states_of([file]))
    assert "\n" not in str(caught.value)
    assert not [path for path in (small_disk / "unpacked").iterdir() if path.is_dir()]


def test_a_home_that_cannot_be_written(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EMBEDCAL_HOME", str(file))
    with pytest.raises(EmbedcalError, match="set EMBEDCAL_HOME"):
        unpack_members(images(2), name="x", states=states_of([file]))
