"""Caches of WebDataset and Parquet inputs: the bytes of one whose manifest lies in memory."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
import tracemalloc
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from encoders_for_tests import NumpyEncoder
from PIL import Image

from embedcal.cache import (
    BuildOptions,
    BuildReport,
    build_cache,
    contents,
    encoding,
    identity,
    open_cache,
    verify,
)
from embedcal.cache.build import identity_of
from embedcal.cache.contents import manifest_fingerprint
from embedcal.cache.format import USER_BLOCK, canonical
from embedcal.cache.merging import join_shards
from embedcal.cache.sharding import Part, whole_digest
from embedcal.datasets import Manifest, ReadOptions, read_manifest, scratch, stored_text
from embedcal.datasets.stored_text import StoredText
from embedcal.types import EmbedcalError

pa = pytest.importorskip("pyarrow")
OPTS = BuildOptions(batch_size=8, templates=("a photo of a {}.", "{}"))
READ = ReadOptions(attributes={"place": None})
SPLITS = ("train", "val", "test")
Hold = Callable[..., None]


@pytest.fixture
def hold(monkeypatch: pytest.MonkeyPatch) -> Hold:
    """Columns and arrays of more than so many rows and bytes in files, or all in memory."""

    def choose(rows: int | None = 8) -> None:
        monkeypatch.setattr(stored_text, "ROWS", rows or 10**9)
        monkeypatch.setattr(scratch, "SMALL", 64 if rows else 10**12)
        for module, name in ((identity, "_ROWS"), (contents, "_ROWS"), (encoding, "_HASHED")):
            monkeypatch.setattr(module, name, rows or 10**9)

    return choose


def picture(i: int) -> bytes:
    """The last of every eleven is none."""
    if i % 11 == 10:
        return b"no picture %d" % i
    out = io.BytesIO()
    Image.new("RGB", (3, 2), (i % 256, i // 256 % 256, i // 65536)).save(out, "PPM")
    return out.getvalue()


def facts(i: int) -> dict[str, object]:
    return {"y": ("dry", "wet")[i % 2], "place": ("land", "sea", None)[i // 2 % 3]}


def tars(
    folder: Path, n: int, each: int, change: Callable[[int], dict[str, object]] = facts
) -> Path:
    """Shards of ``each`` samples, in turn of train, val and test."""
    folder.mkdir(parents=True)
    for number in range(0, n, each):
        name = f"{number // each:04d}-{SPLITS[number // each % 3]}.tar"
        with tarfile.open(folder / name, "w") as sink:
            for i in range(number, min(number + each, n)):
                for suffix, data in (("ppm", picture(i)), ("json", json.dumps(change(i)).encode())):
                    info = tarfile.TarInfo(f"{i:06d}ü.{suffix}")
                    info.size = len(data)
                    sink.addfile(info, io.BytesIO(data))
    return folder


def parquets(folder: Path, n: int, each: int) -> Path:
    import pyarrow.parquet as pq

    folder.mkdir(parents=True)
    for number in range(0, n, each):
        rows = range(number, min(number + each, n))
        columns = {
            "image": [picture(i) for i in rows],
            "id": [f"ü{i}" for i in rows],
            "mask": ["" if i % 2 else f"m{i}.png" for i in rows],
            **{key: [facts(i)[key] for i in rows] for key in ("y", "place")},
        }
        name = f"{number // each:04d}-{SPLITS[number // each % 3]}.parquet"
        pq.write_table(pa.table(columns), folder / name, row_group_size=50)
    return folder


KINDS = pytest.mark.parametrize("source", [tars, parquets], ids=["webdataset", "parquet"])


def read(folder: Path) -> Manifest:
    return read_manifest(folder, options=READ)


def build(manifest: Manifest, out: Path, **how: object) -> BuildReport:
    encoder = how.pop("encoder", None) or NumpyEncoder()
    options = replace(OPTS, out=out, workers=how.pop("workers", None))  # type: ignore[arg-type]
    return build_cache(manifest, encoder, options=options, **how)  # type: ignore[arg-type]


def behind(path: Path) -> bytes:
    return path.read_bytes()[USER_BLOCK:]


# The same bytes


@KINDS
def test_a_build_is_that_of_a_manifest_in_memory(
    source: Callable[..., Path], hold: Hold, tmp_path: Path
) -> None:
    folder = source(tmp_path / "in", 70, 9)
    hold(None)
    plain = read(folder)
    whole = build(plain, tmp_path / "whole.h5")
    hold()
    manifest = read(folder)
    assert isinstance(plain.ids, tuple)
    assert isinstance(manifest.ids, StoredText)
    assert isinstance(manifest.paths, StoredText)
    report = build(manifest, tmp_path / "streamed.h5")
    assert behind(report.path) == behind(whole.path)
    assert report.skipped == whole.skipped
    assert [name for name, _, _ in report.skipped] == [plain.ids[i] for i in range(10, 70, 11)]
    assert verify(report.path).ok
    with open_cache(report.path) as cache:
        assert cache.samples.ids == plain.ids
        assert cache.samples.masks == plain.masks
        assert cache.samples.split.tolist() == [i // 9 % 3 for i in range(70)]
    assert build(read(folder), tmp_path / "streamed.h5").reused


@KINDS
def test_shards_of_it(source: Callable[..., Path], hold: Hold, tmp_path: Path) -> None:
    folder = source(tmp_path / "in", 70, 9)
    hold(None)
    whole = build(read(folder), tmp_path / "whole.h5").path
    first = build(read(folder), tmp_path / "1.h5", shard=Part(1, 2)).path
    hold()
    second = build(read(folder), tmp_path / "2.h5", shard=Part(2, 2)).path
    joined = join_shards([second, first], tmp_path / "joined.h5").path
    assert behind(joined) == behind(whole)


@KINDS
def test_an_interrupted_build_goes_on(
    source: Callable[..., Path], hold: Hold, tmp_path: Path
) -> None:
    folder = source(tmp_path / "in", 70, 9)
    hold(None)
    whole = build(read(folder), tmp_path / "whole.h5").path
    hold()
    encoder = Stopping(after=4)
    with pytest.raises(KeyboardInterrupt):
        build(read(folder), tmp_path / "new.h5", encoder=encoder)
    report = build(read(folder), tmp_path / "new.h5")
    assert 0 < report.resumed <= 32
    assert behind(report.path) == behind(whole)


@KINDS
def test_an_older_cache_is_extended(
    source: Callable[..., Path], hold: Hold, tmp_path: Path
) -> None:
    old = build(read(source(tmp_path / "old", 40, 9)), tmp_path / "old.h5").path
    folder = source(tmp_path / "in", 70, 9)
    made = []
    for rows in (None, 8):
        hold(rows)
        report = build(read(folder), tmp_path / f"{rows}.h5", extend=old)
        assert (report.copied, report.encoded) == (37, 33)  # three of 40 are no pictures
        made.append(behind(report.path))
    assert made[0] == made[1]


class Stopping(NumpyEncoder):
    """Interrupts at one of its batches."""

    def __init__(self, *, after: int) -> None:
        super().__init__()
        self._left = after

    def images(self, pixels: np.ndarray, levels: Sequence[str]) -> dict[str, np.ndarray]:
        self._left -= 1
        if self._left < 0:
            raise KeyboardInterrupt
        return super().images(pixels, levels)


def test_digests_are_those_of_the_whole_text(hold: Hold, tmp_path: Path) -> None:
    """As they were formed before columns could lie in files: caches of then stay what they are."""
    folder = parquets(tmp_path / "in", 70, 9)
    hold()
    manifest, encoder = read(folder), NumpyEncoder()
    made = identity_of(manifest, encoder, OPTS)
    attributes = {a.name: (a.values, a.labels) for a in manifest.attributes}
    state = hashlib.sha256()
    parts = [("identity", made.digest.encode()), ("ids", canonical([*manifest.ids]).encode())]
    parts += [(key, getattr(manifest, key).astype("<i8").tobytes()) for key in ("y", "split")]
    parts += [("classes", canonical([*manifest.classes]).encode())]
    for name, (values, labels) in attributes.items():
        parts += [("attribute", canonical([name, [*values]]).encode())]
        parts += [("labels", labels.astype("<i8").tobytes())]
    for name, value in parts:
        state.update(f"{name}:{len(value)}:".encode() + value)
    assert manifest_fingerprint(manifest, made) == state.hexdigest()

    read_rows = [hashlib.sha256(path.read_bytes()).digest() for path in manifest.files]
    assert made.rows.tobytes() == b"".join(read_rows)

    bare = identity.Identity(**{**vars(made), "rows": np.zeros((0, 32), np.uint8)})
    labels = manifest_fingerprint(manifest, bare)
    for masks in (manifest.masks, None):
        one = Manifest(**{**vars(manifest), "masks": masks})
        listed = None if masks is None else [*masks]
        other = [labels, one.name, [*one.paths], listed, [*one.warnings]]
        assert whole_digest(one, made) == hashlib.sha256(canonical(other).encode()).hexdigest()


# Faults


def test_a_bad_label_is_named_by_shard_and_sample(hold: Hold, tmp_path: Path) -> None:
    hold()

    def odd(i: int) -> dict[str, object]:
        return {**facts(i), **({"y": ""} if i == 31 else {})}

    folder = tars(tmp_path / "in", 70, 9, odd)
    with pytest.raises(EmbedcalError) as caught:
        read(folder)
    assert "blank label: row 32, '000031ü' of 0003-train.tar ('')" in str(caught.value)
    assert "\n" not in str(caught.value)


# Braces


@KINDS
def test_braces_name_files(source: Callable[..., Path], hold: Hold, tmp_path: Path) -> None:
    hold()
    folder = source(tmp_path / "in", 54, 9)
    suffix = next(folder.iterdir()).suffix
    for i, path in enumerate(sorted(folder.iterdir())):
        path.rename(folder / f"x-{SPLITS[i // 2]}-{i:03d}{suffix}")
    (folder / f"x-val-001{suffix}").mkdir()  # nothing of these is looked at
    manifest = read_manifest(f"{folder}/x-train-{{000..001}}{suffix}", options=READ)
    assert manifest.name == "x-train"
    assert manifest.split.tolist() == [0] * 18
    both = f"{folder}/x-{{train-000,test-005}}{suffix}"
    manifest = read_manifest(both, options=READ)
    assert manifest.name == "x"
    assert manifest.split.tolist() == [0] * 9 + [2] * 9
    report = build(manifest, tmp_path / "new.h5")
    assert report.rows == 18
    with pytest.raises(EmbedcalError, match=r"expected the 3 files of .*found 1 of them missing"):
        read_manifest(f"{folder}/x-train-{{000..002}}{suffix}", options=READ)


# Memory


@KINDS
def test_memory_does_not_grow_with_text(
    source: Callable[..., Path], hold: Hold, tmp_path: Path
) -> None:
    """Less than 100 bytes a row at the peak, labels and digests among them; text takes 2 KB."""
    build(read(source(tmp_path / "warm", 64, 64)), tmp_path / "warm.h5", workers=1)
    few, many = 100, 500
    peaks = {}
    for rows in (16, None):
        hold(rows)
        for n in (few, many):
            folder = source(tmp_path / str(rows) / str(n), n, 64)
            tracemalloc.start()
            build(read(folder), tmp_path / f"{rows}-{n}.h5", workers=1)
            peaks[rows, n] = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
    streamed, whole = ((peaks[rows, many] - peaks[rows, few]) / (many - few) for rows in (16, None))
    assert streamed < 100, (streamed, whole)
    assert whole > 1000, (streamed, whole)
    names = [tmp_path / f"{rows}-{many}.h5" for rows in (16, None)]
    assert behind(names[0]) == behind(names[1])
