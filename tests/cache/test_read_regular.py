"""Whole files, and nothing that is not one."""

from __future__ import annotations

import os
import tracemalloc
from pathlib import Path

import pytest

from embedcal.cache.digests import MAX_FILE_BYTES, read_regular


@pytest.mark.parametrize("size", [0, 1, (1 << 20) + 1, 5 << 20])
def test_all_bytes_and_room_for_no_more(size: int, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(data := os.urandom(size))
    tracemalloc.start()
    try:
        found = read_regular(tmp_path / "file")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert found == data
    assert peak < size + (1 << 16)


def test_a_pipe_a_folder_and_a_huge_file_are_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    with (tmp_path / "huge").open("wb") as file:
        file.truncate(MAX_FILE_BYTES + 1)
    for name, reason in (("pipe", "regular"), ("folder", "directory"), ("huge", "1 GiB")):
        with pytest.raises(OSError, match=reason):
            read_regular(tmp_path / name)
    if (files := Path("/proc/self/fd")).is_dir():
        still = [os.path.realpath(link) for link in files.iterdir()]
        assert not [path for path in still if path.startswith(os.path.realpath(tmp_path))]
