"""Files made to do harm: everything that the format does not have is refused, in one line."""

from __future__ import annotations

import os
import shutil
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest

from embedcal.answers.caches import info_record
from embedcal.cache import open_cache, verify
from embedcal.cache.checksums import digest
from embedcal.cache.format import FORMAT, USER_BLOCK, parse_head
from embedcal.types import EmbedcalError


def seal(path: Path) -> None:
    """Give a changed file a user block that fits it: malice can, so nothing may rest on it."""
    head = parse_head(path.read_bytes()[:USER_BLOCK], "test")
    length = path.stat().st_size - USER_BLOCK
    with path.open("r+b") as file:
        sealed = digest(file.fileno(), length, [])
        file.write(replace(head, length=length, sha256=sealed).render())


def replaced(name: str, **how) -> Callable[[h5py.File, Path], None]:
    def change(file: h5py.File, folder: Path) -> None:
        data = how.pop("data", None)
        data = file[name][...] if data is None else data
        del file[name]
        file.create_dataset(name, data=data, **how)

    return change


def external_storage(file: h5py.File, folder: Path) -> None:
    (folder / "secret").write_bytes(bytes(range(256)) * 64)
    shape = file["images/embedding"].shape
    del file["images/embedding"]
    name = os.fspath(folder / "secret")
    file.create_dataset("images/embedding", shape, "<f4", external=[(name, 0, 24 * 6 * 4)])


def virtual(file: h5py.File, folder: Path) -> None:
    shape = file["images/embedding"].shape
    del file["images/embedding"]
    layout = h5py.VirtualLayout(shape=shape, dtype="<f4")
    layout[...] = h5py.VirtualSource(os.fspath(folder / "other.h5"), "x", shape=shape)
    file.create_virtual_dataset("images/embedding", layout)


def four_terabytes(file: h5py.File, folder: Path) -> None:
    del file["images/embedding"]
    creation = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    creation.set_alloc_time(h5py.h5d.ALLOC_TIME_LATE)
    space = h5py.h5s.create_simple((24, 1 << 36))
    h5py.h5d.create(file.id, b"images/embedding", h5py.h5t.IEEE_F32LE, space, creation)


def soft_link(file: h5py.File, folder: Path) -> None:
    del file["samples/y"]
    file["samples/y"] = h5py.SoftLink("/samples/split")


def external_link(file: h5py.File, folder: Path) -> None:
    with h5py.File(folder / "other.h5", "w") as other:
        other["y"] = np.zeros(24, "<i4")
    del file["samples/y"]
    file["samples/y"] = h5py.ExternalLink(os.fspath(folder / "other.h5"), "/y")


def loop(file: h5py.File, folder: Path) -> None:
    file["text/class/class"] = file["text"]


def group_for_array(file: h5py.File, folder: Path) -> None:
    del file["samples/y"]
    file.create_group("samples/y")


def contiguous(name: str, array: np.ndarray) -> Callable[[h5py.File, Path], None]:
    return replaced(name, data=array)


def attribute(name: str, value: object) -> Callable[[h5py.File, Path], None]:
    def change(file: h5py.File, folder: Path) -> None:
        file.attrs[name] = value

    return change


def without(name: str) -> Callable[[h5py.File, Path], None]:
    def change(file: h5py.File, folder: Path) -> None:
        del file[name]

    return change


def no_attribute(file: h5py.File, folder: Path) -> None:
    del file.attrs["identity"]


def attribute_below(file: h5py.File, folder: Path) -> None:
    file["samples/y"].attrs["note"] = 1


def named_type(file: h5py.File, folder: Path) -> None:
    file["attributes/colour"] = np.dtype("<f4")


def wrong_list(file: h5py.File, folder: Path) -> None:
    file.attrs["attributes"] = np.bytes_(b'["place"]')


def extra_name(file: h5py.File, folder: Path) -> None:
    file["samples/zzz"] = np.zeros(24)


VLEN = np.array(["a"] * 24, dtype=object)

HOSTILE = {
    "external storage": (external_storage, "external storage"),
    "virtual data set": (virtual, "chunked, compact or virtual"),
    "absurd size": (four_terabytes, "bytes in a file of"),
    "soft link": (soft_link, "soft or external link"),
    "external link": (external_link, "soft or external link"),
    "loop": (loop, "unknown name"),
    "group for array": (group_for_array, "another kind of object"),
    "named type": (named_type, "another kind of object"),
    "chunks": (replaced("images/embedding", chunks=(4, 6)), "chunked"),
    "filters": (replaced("images/embedding", compression="gzip"), "chunked"),
    "vlen strings": (
        replaced("samples/id", data=VLEN, dtype=h5py.string_dtype()),
        "type other than text",
    ),
    "compound": (contiguous("samples/y", np.zeros(24, "<i4,<i4")), "type other than"),
    "bool": (contiguous("samples/status", np.zeros(24, bool)), "type other than"),
    "float64": (contiguous("images/embedding", np.zeros((24, 6))), "type other than"),
    "big-endian": (contiguous("samples/y", np.zeros(24, ">i4")), "type other than"),
    "rows": (contiguous("samples/y", np.zeros(23, "<i4")), "where N is 24"),
    "rank": (contiguous("samples/y", np.zeros((24, 1), "<i4")), "where the format has N"),
    "width": (contiguous("images/embedding", np.zeros((24, 5), "<f4")), "where D is"),
    "scalar": (contiguous("rows_done", np.int64(24)), "array of shape"),
    "label": (contiguous("samples/y", np.full(24, 2, "<i4")), "expected /samples/y between"),
    "negative label": (contiguous("samples/y", np.full(24, -1, "<i4")), "expected /samples/y"),
    "split": (contiguous("samples/split", np.full(24, 3, "|u1")), "expected /samples/split"),
    "count": (contiguous("rows_done", np.array([23])), "expected /rows_done"),
    "extra name": (extra_name, "unknown name"),
    "missing array": (without("samples/sha256"), "found nothing at /samples/sha256"),
    "missing attribute": (no_attribute, "no attribute identity"),
    "extra attribute": (attribute("evil", 1), "unknown name at attribute evil"),
    "vlen attribute": (attribute("dataset", "text of any length"), "another type"),
    "attribute type": (attribute("format_version", 1.0), "another type"),
    "attribute below": (attribute_below, "attributes below the root"),
    "attribute list of lists": (
        attribute("attributes", np.bytes_(b'[["place"]]')),
        "list the attri",
    ),
    "attribute list as object": (attribute("attributes", np.bytes_(b"{}")), "another type"),
    "preprocessing as list": (attribute("preprocessing", np.bytes_(b"[1]")), "another type"),
    "levels as number": (attribute("levels", np.bytes_(b"7")), "another type"),
    "preprocessing of NaN": (attribute("preprocessing", np.bytes_(b'{"a": NaN}')), "damage in"),
    "half a character": (attribute("preprocessing", np.bytes_(b'{"a": "\\ud800"}')), "damage in"),
    "attribute list": (wrong_list, "list the attributes"),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_refused_by_open_and_verify(finished: Path, tmp_path: Path, what: str) -> None:
    change, message = HOSTILE[what]
    path = Path(shutil.copy(finished, tmp_path / "hostile.h5"))
    with h5py.File(path, "r+") as file:
        change(file, tmp_path)
    seal(path)
    with pytest.raises(EmbedcalError) as error:
        open_cache(path)
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert not verify(path).ok


def test_an_array_that_is_there_but_declares_terabytes(finished, tmp_path) -> None:
    """Dimensions patched in the bytes themselves, so that the array keeps a place in the file."""
    path = tmp_path / "patched.h5"
    data = finished.read_bytes()
    old = struct.pack("<QQ", 24, 6)  # rows and width of the embedding
    assert old in data
    path.write_bytes(data.replace(old, struct.pack("<QQ", 24, 1 << 36)))
    seal(path)
    with pytest.raises(
        EmbedcalError, match=f"an array of {24 * 4 << 36} bytes in a file of|damage"
    ):
        open_cache(path)


def test_changed_labels_with_a_fitting_seal_are_found_by_verify(finished, tmp_path) -> None:
    path = Path(shutil.copy(finished, tmp_path / "relabelled.h5"))
    with h5py.File(path, "r+") as file:
        file["samples/y"][...] = 1 - file["samples/y"][...]
    seal(path)
    assert "fingerprint" in verify(path).reason


def test_non_finite_features_are_refused_when_read(finished, tmp_path) -> None:
    path = Path(shutil.copy(finished, tmp_path / "nan.h5"))
    with h5py.File(path, "r+") as file:
        file["images/embedding"][7, 2] = np.nan
        file["images/tokens"][3, 0, 0] = np.inf
        file["images/pooled"][0] = 3e38  # finite, though the sum of squares is not
    seal(path)
    with open_cache(path) as cache:
        with pytest.raises(EmbedcalError, match="level embedding in rows 7"):
            cache.read()
        with pytest.raises(EmbedcalError, match="level tokens in rows 3"):
            cache.tokens(np.arange(5))
        assert cache.read("pooled")[0, 0] == np.float32(3e38)
        name = ("train", "val", "test")[cache.samples.split[7]]
        with pytest.raises(EmbedcalError, match="rows 7"):
            cache.split(name)
        counts = info_record(cache)["groups"]["counts"]  # reads no features
        known = np.all([values >= 0 for values in cache.samples.attributes.values()], axis=0)
        assert sum(map(sum, counts.values())) == known.sum()


@pytest.mark.parametrize("version", [3, 10, 999])
def test_a_newer_format_asks_for_a_newer_embedcal(finished, tmp_path, version) -> None:
    path = tmp_path / "newer.h5"
    data = finished.read_bytes()
    path.write_bytes(f"{FORMAT} {version}\n".encode() + data[20:])
    with pytest.raises(EmbedcalError, match=f"found format {version}.*newer embedcal"):
        open_cache(path)


def test_a_user_block_of_garbage(finished, tmp_path) -> None:
    path = tmp_path / "garbage.h5"
    data = finished.read_bytes()[USER_BLOCK:]
    for body in [b"{}", b"[" * 400, b'{"state":1}', b"\xff" * 100, b"null", b'{"length":NaN}']:
        block = f"{FORMAT} 1\n".encode() + body + b"\n"
        path.write_bytes(block.ljust(USER_BLOCK, b"\0") + data)
        with pytest.raises(EmbedcalError, match="user block"):
            open_cache(path)
