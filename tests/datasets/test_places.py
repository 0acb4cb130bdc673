"""Where things lie, and the memory of the cache used last."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import platformdirs
import pytest

from embedcal.datasets import data_dir, last_cache, remember_last_cache


def test_home_is_taken_from_the_environment(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("EMBEDCAL_HOME", str(tmp_path / "not yet"))
    assert data_dir() == tmp_path / "not yet"
    assert not data_dir().exists()
    for unset in ("", "  "):
        monkeypatch.setenv("EMBEDCAL_HOME", unset)
        assert data_dir() == Path(platformdirs.user_data_dir("embedcal", appauthor=False))
    monkeypatch.setenv("EMBEDCAL_HOME", "~/birds")
    assert data_dir() == Path.home() / "birds"


def test_importing_touches_nothing(tmp_path: Path) -> None:
    env = {**os.environ, "EMBEDCAL_HOME": str(tmp_path / "home"), "HOME": str(tmp_path)}
    subprocess.run([sys.executable, "-c", "import embedcal.datasets"], env=env, check=True)
    assert list(tmp_path.iterdir()) == []


def test_memory(own_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert last_cache() is None
    cache = tmp_path / "my cache é.h5"
    cache.touch()
    monkeypatch.chdir(tmp_path)
    remember_last_cache(cache.name)
    monkeypatch.chdir(own_home)
    assert last_cache() == cache
    other = tmp_path / "other.h5"
    other.touch()
    remember_last_cache(other)
    assert last_cache() == other
    other.unlink()
    assert last_cache() is None
    assert [entry.name for entry in own_home.iterdir()] == ["last-cache.json"]


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"cache": 3}', b'{"cache": ""}', b"\xff"])
def test_broken_memory_is_no_memory(own_home: Path, content: bytes, tmp_path: Path) -> None:
    (own_home / "last-cache.json").write_bytes(content)
    assert last_cache() is None
    (tmp_path / "c.h5").touch()
    remember_last_cache(tmp_path / "c.h5")
    assert last_cache() == tmp_path / "c.h5"


def test_a_write_that_fails_leaves_the_old_memory(
    own_home: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    first = tmp_path / "first.h5"
    first.touch()
    remember_last_cache(first)

    def full(self: Path, target: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    remember_last_cache(tmp_path / "second.h5")  # what was made is there, remembered or not
    assert re.search("No space left.*EMBEDCAL_HOME", caplog.text)
    assert last_cache() == first
    assert [entry.name for entry in own_home.iterdir()] == ["last-cache.json"]


def test_home_that_is_a_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("EMBEDCAL_HOME", str(tmp_path / "file"))
    assert last_cache() is None
    remember_last_cache(tmp_path / "c.h5")
    assert "EMBEDCAL_HOME" in caplog.text


def test_many_writers_leave_one_whole_memory(own_home: Path, tmp_path: Path) -> None:
    names = [tmp_path / f"{i}.h5" for i in range(3)]
    for name in names:
        name.touch()
    code = (
        "import sys; from embedcal.datasets.places import remember_last_cache as r\n"
        "for _ in range(100): r(sys.argv[1])"
    )
    children = [subprocess.Popen([sys.executable, "-c", code, str(name)]) for name in names]
    while any(child.poll() is None for child in children):
        file = own_home / "last-cache.json"
        if file.exists():
            assert Path(json.loads(file.read_text())["cache"]) in names
    assert [child.wait() for child in children] == [0, 0, 0]
    assert last_cache() in names
