"""A changed byte is found, a cut file is refused, and nothing raises anything but EmbedcalError."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from embedcal.cache import open_cache, verify
from embedcal.cache.format import USER_BLOCK
from embedcal.types import EmbedcalError


@pytest.fixture
def copy(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(finished, tmp_path / "copy.h5"))


def flip(path: Path, byte: int, bit: int) -> None:
    with path.open("r+b") as file:
        file.seek(byte)
        old = file.read(1)[0]
        file.seek(byte)
        file.write(bytes([old ^ (1 << bit)]))


def one_line(error: BaseException) -> bool:
    return "\n" not in str(error) and "expected" in str(error)


def open_or_refuse(path: Path) -> None:
    """Opening and reading may work or be refused, in one line; nothing else may happen."""
    refused = ""
    try:
        with open_cache(path) as cache:
            cache.read()
            _ = cache.samples
            cache.split("train")
            for bank in cache.banks:
                cache.text(bank)
            cache.projection()
    except EmbedcalError as error:
        refused = str(error)
    assert "\n" not in refused


def test_an_intact_file_is_verified(copy) -> None:
    found = verify(copy)
    assert (found.ok, found.reason, found.rows) == (True, "", ())
    with open_cache(copy) as cache:
        assert found.sha256 == cache.meta.sha256


@settings(
    max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_every_flipped_bit_is_found(copy, place, bit) -> None:
    byte = int(place * copy.stat().st_size)
    flip(copy, byte, bit)
    try:
        assert not verify(copy).ok
        open_or_refuse(copy)
    finally:
        flip(copy, byte, bit)
    assert verify(copy).ok


def test_every_bit_of_the_user_block_counts(copy) -> None:
    for byte in range(USER_BLOCK):
        flip(copy, byte, byte % 8)
        assert not verify(copy).ok, byte
        with pytest.raises(EmbedcalError):
            open_cache(copy)
        flip(copy, byte, byte % 8)


def test_verify_names_the_damaged_rows(copy) -> None:
    with open_cache(copy) as cache:
        stored = cache.stored.arrays["/images/embedding"]
    flip(copy, stored.offset + 7 * stored.row_bytes + 1, 0)
    flip(copy, stored.offset + 19 * stored.row_bytes, 3)
    found = verify(copy)
    assert not found.ok
    assert found.rows == (7, 19)
    assert "rows 7, 19" in found.reason


def test_a_cut_file_is_refused_at_once(copy) -> None:
    whole = copy.read_bytes()
    rng = random.Random(0)
    for length in [0, 1, 17, 511, 512, 513, len(whole) - 1] + [
        rng.randrange(len(whole)) for _ in range(60)
    ]:
        copy.write_bytes(whole[:length])
        with pytest.raises(EmbedcalError) as error:
            open_cache(copy)
        assert one_line(error.value)
        assert not verify(copy).ok
    copy.write_bytes(whole + b"\0")
    with pytest.raises(EmbedcalError, match="cut short or added to"):
        open_cache(copy)


def test_a_block_of_zeros_is_found(copy) -> None:
    """What a disk that lost a page gives."""
    whole = bytearray(copy.read_bytes())
    for start in range(0, len(whole), 4096):
        damaged = bytearray(whole)
        damaged[start : start + 4096] = bytes(len(damaged[start : start + 4096]))
        copy.write_bytes(damaged)
        assert not verify(copy).ok
        open_or_refuse(copy)


def test_other_files_are_named_as_such(tmp_path) -> None:
    for name, data in {"a.txt": b"hello\n", "b.npz": b"PK\3\4" + bytes(600), "c.h5": b""}.items():
        path = tmp_path / name
        path.write_bytes(data)
        with pytest.raises(EmbedcalError, match="another kind of file"):
            open_cache(path)
    with h5py.File(tmp_path / "d.h5", "w") as file:
        file["x"] = np.zeros(3)
    with pytest.raises(EmbedcalError, match="another kind of file"):
        open_cache(tmp_path / "d.h5")
    with pytest.raises(EmbedcalError, match="No such file"):
        open_cache(tmp_path / "absent.h5")
    with pytest.raises(EmbedcalError, match="No such file"):
        verify(tmp_path / "absent.h5")
    with pytest.raises(EmbedcalError, match="directory"):
        open_cache(tmp_path)
