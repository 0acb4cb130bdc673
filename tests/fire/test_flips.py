"""Every bit counts, wherever it stands; and a file cut anywhere is refused."""

from __future__ import annotations

import contextlib
import random
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
from faults_for_tests import flip

import embedcal.cache.verification as verification
from embedcal.cache import open_cache, verify
from embedcal.cache.format import USER_BLOCK
from embedcal.cache.layout import StoredFile
from embedcal.types import EmbedcalError

SUPERBLOCK = 96  # bytes; versions 0 and 1 of HDF5's own are the longest


@pytest.fixture
def copy(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(finished, tmp_path / "copy.h5"))


def regions(path: Path) -> dict[str, np.ndarray]:
    """The bytes of a file by what they are; every byte is in one of them."""
    left = np.ones(path.stat().st_size, bool)
    found: dict[str, np.ndarray] = {}

    def take(name: str, start: int, stop: int) -> None:
        found[name] = start + np.flatnonzero(left[start:stop])
        left[start:stop] = False

    take("user block", 0, USER_BLOCK)
    take("superblock", USER_BLOCK, USER_BLOCK + SUPERBLOCK)
    with StoredFile(path) as file:
        for name, stored in file.arrays.items():
            take(name, stored.offset, stored.offset + stored.nbytes)
    with h5py.File(path, "r") as file:
        for name in ("/", *file["images"], "samples/y"):
            item = file[name] if name == "/" or "/" in name else file["images"][name]
            info = h5py.h5o.get_info(item.id)
            start = int(info.addr) + USER_BLOCK
            take(f"object header of {name}", start, start + 64)
    found["other structure"] = np.flatnonzero(left)
    assert sum(map(len, found.values())) == len(left)
    return found


def flips(path: Path, positions: int, bits: int, seed: int) -> list[tuple[str, int, int]]:
    rng = random.Random(seed)
    return [
        (name, byte, bit)
        for name, places in regions(path).items()
        if len(places)
        for byte in rng.sample(places.tolist(), min(positions, len(places)))
        for bit in rng.sample(range(8), bits)
    ]


def test_the_regions_are_what_they_are_called(copy) -> None:
    found = regions(copy)
    whole = np.frombuffer(copy.read_bytes(), np.uint8)
    assert {"user block", "superblock", "other structure", "/images/tokens"} < found.keys()
    assert whole[found["superblock"]].tobytes().startswith(b"\x89HDF\r\n")
    assert min(map(len, found.values())) > 0
    assert len([name for name in found if name.startswith("object header")]) == 5


@pytest.mark.parametrize(
    ("positions", "bits"), [(1, 2), pytest.param(6, 8, marks=pytest.mark.slow)]
)
@pytest.mark.timeout(900)
def test_no_bit_of_any_region_changes_in_silence(copy, positions, bits) -> None:
    """verify reports each; open hashes nothing, so it may miss one, but raises nothing else."""
    ends = [("the first byte hashed", USER_BLOCK, 0), ("the last byte", copy.stat().st_size - 1, 7)]
    for name, byte, bit in [*ends, *flips(copy, positions, bits, seed=positions)]:
        flip(copy, byte, bit)
        found = verify(copy)
        assert not found.ok, (name, byte, bit)
        assert "\n" not in found.reason
        with contextlib.suppress(EmbedcalError), open_cache(copy) as cache:
            _ = cache.samples
        flip(copy, byte, bit)
    assert verify(copy).ok


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_every_bit_of_a_whole_file(copy, monkeypatch) -> None:
    """All of them. Which rows were hit is not asked, as that parses the file each time."""
    monkeypatch.setattr(verification, "_damage", lambda path: ((), ""))
    whole = copy.read_bytes()
    with copy.open("r+b", buffering=0) as file:
        for byte, old in enumerate(whole):
            for bit in range(8):
                file.seek(byte)
                file.write(bytes([old ^ (1 << bit)]))
                assert not verify(copy).ok, (byte, bit)
            file.seek(byte)
            file.write(bytes([old]))
    assert verify(copy).ok


@pytest.mark.parametrize("seed", range(5))
def test_cut_at_any_of_fifty_lengths(copy, seed) -> None:
    """Ten for each seed, near the borders of regions and anywhere."""
    whole = copy.read_bytes()
    rng = random.Random(seed)
    borders = [int(places[0]) for places in regions(copy).values() if len(places)]
    lengths = rng.sample(borders, 5) + [rng.randrange(len(whole)) for _ in range(5)]
    for length in lengths:
        copy.write_bytes(whole[:length])
        with pytest.raises(EmbedcalError) as error:
            open_cache(copy)
        assert "\n" not in str(error.value)
        assert not verify(copy).ok
        copy.write_bytes(whole[:length] + bytes(len(whole) - length))  # as ext4 may after a crash
        assert not verify(copy).ok
