"""Shards: which rows each has, what a join of them equals, and which joins are refused."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from encoders_for_tests import OPTIONS, NumpyEncoder, make_manifest
from hypothesis import given
from hypothesis import strategies as st

from embedcal.cache import BuildOptions, build_cache, open_cache, verify
from embedcal.cache.checksums import digest
from embedcal.cache.format import USER_BLOCK, parse_head
from embedcal.cache.layout import StoredFile
from embedcal.cache.merging import join_shards
from embedcal.cache.sharding import Part, Shard, part_of, span_of, verify_any
from embedcal.datasets.manifest import Manifest
from embedcal.types import EmbedcalError

OPTS = BuildOptions(**OPTIONS)  # batches of 8: the 37 rows of ``manifest`` are 5 of them


def shard_of(manifest: Manifest, out: Path, number: int, count: int = 3, **changes) -> Path:
    encoder = changes.pop("encoder", None) or NumpyEncoder()
    options = replace(OPTS, out=out / f"{number}.h5", **changes)
    part = Part(number, count)
    return build_cache(manifest, encoder, options=options, shard=part).path


@pytest.fixture
def shards(manifest: Manifest, tmp_path: Path) -> list[Path]:
    return [shard_of(manifest, tmp_path, number) for number in (1, 2, 3)]


@pytest.fixture
def single(manifest: Manifest, tmp_path: Path) -> Path:
    return build_cache(
        manifest, NumpyEncoder(), options=replace(OPTS, out=tmp_path / "single.h5")
    ).path


def behind(path: Path) -> bytes:
    return path.read_bytes()[USER_BLOCK:]


def seal(path: Path) -> None:
    head = parse_head(path.read_bytes()[:USER_BLOCK], "test")
    with path.open("r+b") as file:
        length = path.stat().st_size - USER_BLOCK
        sealed = digest(file.fileno(), length, [])
        file.write(replace(head, length=length, sha256=sealed).render())


def flip(path: Path, byte: int) -> None:
    data = bytearray(path.read_bytes())
    data[byte] ^= 4
    path.write_bytes(data)


@given(rows=st.integers(1, 500), batch=st.integers(1, 70), count=st.integers(1, 40))
def test_parts_are_all_rows_once_in_whole_batches(rows, batch, count) -> None:
    batches = -(-rows // batch)
    if count > batches:
        with pytest.raises(EmbedcalError, match=f"at most {batches} shards"):
            span_of(Part(1, count), rows, batch)
        return
    spans = [span_of(Part(i, count), rows, batch) for i in range(1, count + 1)]
    covered = [row for span in spans for row in range(span.start, span.stop)]
    assert covered == list(range(rows))
    assert all(span.start % batch == 0 for span in spans)
    sizes = [-(-(span.stop - span.start) // batch) for span in spans]
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize("text", ["", "2", "0/3", "4/3", "a/b", "1/0", "-1/3", "1/2/3", "½/2"])
def test_a_part_that_makes_no_sense(text) -> None:
    with pytest.raises(EmbedcalError, match="expected --shard I/N"):
        part_of(text)


def test_a_part_is_read() -> None:
    assert part_of("2/5") == Part(2, 5)


@pytest.mark.parametrize("count", [1, 2, 3, 5])
@pytest.mark.parametrize("text", [True, False], ids=["text", "image-only"])
def test_joined_shards_are_the_single_build_byte_for_byte(manifest, tmp_path, count, text) -> None:
    given = replace(
        manifest,
        box=np.arange(148, dtype=np.float32).reshape(37, 4),
        masks=tuple("" if i % 2 else f"m/{i}.png" for i in range(37)),
    )
    encoder = NumpyEncoder(text=text)
    paths = [shard_of(given, tmp_path, i, count, encoder=encoder) for i in range(1, count + 1)]
    assert encoder.image_rows == 40 - 3  # each row in one shard only, the last batch short
    single = build_cache(
        given, NumpyEncoder(text=text), options=replace(OPTS, out=tmp_path / "single.h5")
    )
    found = join_shards(paths[::-1], tmp_path / "all.h5")
    assert (found.rows, found.shards, found.virtual, found.notes) == (37, count, False, ())
    assert behind(found.path) == behind(single.path)
    assert verify(found.path).ok
    again = join_shards(paths, tmp_path / "all.h5")
    assert again.reused


def test_text_is_encoded_once_and_images_of_other_shards_are_not_read(manifest, tmp_path) -> None:
    encoder = NumpyEncoder()
    shard_of(manifest, tmp_path, 1, encoder=encoder)
    told, encoder.text_rows = encoder.text_rows, 0
    assert told == 10
    for path in manifest.paths[:8]:
        (manifest.root / path).unlink()
    report = build_cache(
        manifest, encoder, options=replace(OPTS, out=tmp_path / "2.h5"), shard=Part(2, 3)
    )
    assert encoder.text_rows == 0
    assert (report.rows, report.encoded, report.shard) == (16, 16, (2, 3))
    assert [row for row, _, _ in report.skipped] == [manifest.ids[20]]


def test_a_shard_is_resumed_reused_and_never_replaced_by_another(manifest, tmp_path) -> None:
    class Stop(Exception):
        pass

    class Stopping(NumpyEncoder):
        def images(self, pixels, levels):
            if self.image_rows == 8:
                raise Stop
            return super().images(pixels, levels)

    calm = behind(shard_of(manifest, tmp_path, 2))
    (tmp_path / "2.h5").unlink()
    with pytest.raises(Stop):
        shard_of(manifest, tmp_path, 2, encoder=Stopping())
    with pytest.raises(EmbedcalError, match="still being built"):
        join_shards([tmp_path / "2.h5.part"], tmp_path / "all.h5")
    options = replace(OPTS, out=tmp_path / "2.h5")
    report = build_cache(manifest, NumpyEncoder(), options=options, shard=Part(2, 3))
    assert (report.resumed, report.encoded) == (8, 8)
    assert behind(tmp_path / "2.h5") == calm
    assert build_cache(manifest, NumpyEncoder(), options=options, shard=Part(2, 3)).reused
    with pytest.raises(EmbedcalError, match=r"shard 1/3 of this request in .*found shard 2/3"):
        build_cache(manifest, NumpyEncoder(), options=options, shard=Part(1, 3))
    with pytest.raises(EmbedcalError, match="found shard 2 of 3"):
        build_cache(manifest, NumpyEncoder(), options=options)


def test_without_a_name_shards_have_a_folder_of_their_own(manifest, own_home) -> None:
    found = [
        build_cache(manifest, NumpyEncoder(), options=OPTS, shard=Part(i, 2)).path for i in (1, 2)
    ]
    assert {path.parent for path in found} == {own_home / "shards"}
    assert [path.name[-8:] for path in found] == ["-1of2.h5", "-2of2.h5"]
    assert build_cache(manifest, NumpyEncoder(), options=OPTS, shard=Part(2, 2)).reused


def test_a_shard_is_no_cache_and_says_what_to_do(shards) -> None:
    with pytest.raises(EmbedcalError, match=r"found shard 2 of 3 in .*'embedcal merge'"):
        open_cache(shards[1])
    with Shard(shards[1]) as shard:
        assert (shard.part, len(shard)) == (Part(2, 3), 16)
        assert (shard.span.start, shard.span.stop, shard.span.total) == (8, 24, 37)
    assert verify_any(shards[1]).ok


@pytest.mark.parametrize("place", ["features", "labels", "structure", "user block"])
def test_a_changed_byte_of_a_shard_is_found_and_named(shards, tmp_path, place) -> None:
    with StoredFile(shards[2]) as file:
        byte = {
            "features": file.arrays["/images/pooled"].offset + 17,
            "labels": file.arrays["/samples/y"].offset,
            "structure": USER_BLOCK + 3,
            "user block": 40,
        }[place]
    flip(shards[2], byte)
    assert not verify_any(shards[2]).ok
    with pytest.raises(EmbedcalError, match=r"3\.h5") as caught:
        join_shards(shards, tmp_path / "all.h5")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "all.h5").exists()


def test_missing_shards_are_named(shards, tmp_path) -> None:
    for some, rows, number in (
        (shards[:2], "24 to 36", "3/3"),
        (shards[1:], "0 to 7", "1/3"),
        (shards[::2], "8 to 23", "2/3"),
        (shards[1:2], "0 to 7, 24 to 36", "1/3, 3/3"),
    ):
        with pytest.raises(
            EmbedcalError, match=rf"all 37 rows, found rows {rows} in no shard"
        ) as e:
            join_shards(some, tmp_path / "all.h5")
        assert f"({number})" in str(e.value)
    with pytest.raises(EmbedcalError, match="found none"):
        join_shards([], tmp_path / "all.h5")


def test_overlapping_shards_are_named(manifest, shards, tmp_path) -> None:
    (tmp_path / "other").mkdir()
    half = shard_of(manifest, tmp_path / "other", 1, 2)  # rows 0 to 15
    for some, rows in (([*shards, shards[1]], "8 to 23"), ([shards[0], half], "0 to 7")):
        with pytest.raises(EmbedcalError, match=f"found rows {rows} in .*h5 and in .*h5"):
            join_shards(some, tmp_path / "all.h5")


def test_shards_of_other_counts_join_where_they_fit(manifest, single, tmp_path) -> None:
    """Batches 0-1, 2, 3-4: the first half of 5 batches, the third fifth, and the rest."""
    parts = [(1, 2), (3, 5), (4, 5), (5, 5)]
    paths = []
    for number, count in parts:
        (tmp_path / f"{count}").mkdir(exist_ok=True)
        paths.append(shard_of(manifest, tmp_path / f"{count}", number, count))
    assert behind(join_shards(paths, tmp_path / "all.h5").path) == behind(single)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"y": np.arange(37) // 3 % 2}, "other ids, paths, labels or names"),
        ({"name": "another set"}, "data set"),
        ({"classes": ("a", "b")}, "other ids"),
        ({"masks": ("m",) * 37}, "other ids"),
        ({"prompts": {"class": ("x", "y")}}, "prompts of bank 'class'"),
    ],
    ids=lambda value: "" if isinstance(value, str) else "-".join(value),
)
def test_shards_of_another_manifest_are_named(manifest, shards, tmp_path, change, message) -> None:
    (tmp_path / "other").mkdir()
    foreign = shard_of(replace(manifest, **change), tmp_path / "other", 2)
    with pytest.raises(EmbedcalError, match=rf"other/2\.h5 of another than .*{message}"):
        join_shards([shards[0], foreign, shards[2]], tmp_path / "all.h5")


def test_shards_of_another_encoding_are_named(manifest, shards, tmp_path) -> None:
    (tmp_path / "other").mkdir()
    foreign = shard_of(manifest, tmp_path / "other", 2, encoder=NumpyEncoder(seed=1))
    with pytest.raises(EmbedcalError, match=r"other/2\.h5 of another than .*weights_sha256"):
        join_shards([shards[0], foreign, shards[2]], tmp_path / "all.h5")


def test_a_whole_cache_is_no_shard(shards, single, tmp_path) -> None:
    with pytest.raises(EmbedcalError, match=r"found a whole cache in .*single"):
        join_shards([shards[0], single], tmp_path / "all.h5")


def test_other_batches_and_libraries_are_noted(manifest, tmp_path) -> None:
    encoder = NumpyEncoder()
    first = shard_of(manifest, tmp_path, 1, 5)
    encoder.meta = replace(encoder.meta, library="numpy 0")
    rest = replace(OPTS, out=tmp_path / "rest.h5", batch_size=4)
    paths = [first]
    for number in range(3, 11):  # batches of 4 from row 8 on
        options = replace(rest, out=tmp_path / f"r{number}.h5")
        path = build_cache(manifest, encoder, options=options, shard=Part(number, 10)).path
        paths.append(path)
    found = join_shards(paths, tmp_path / "all.h5")
    with open_cache(found.path) as cache:
        assert (cache.meta.batch_size, cache.meta.library) == (0, "numpy; numpy 0")
    assert len(found.notes) == 2
    assert verify(found.path).ok


def test_something_else_in_the_place_of_the_result_is_kept(manifest, shards, tmp_path) -> None:
    other = build_cache(
        replace(manifest, y=1 - manifest.y),
        NumpyEncoder(),
        options=replace(OPTS, out=tmp_path / "all.h5"),
    ).path
    before = other.read_bytes()
    with pytest.raises(EmbedcalError, match=r"expected no other cache in .*all\.h5"):
        join_shards(shards, other)
    with pytest.raises(EmbedcalError, match="expected no other cache"):
        join_shards(shards, shards[0])
    assert other.read_bytes() == before


# Virtual


@pytest.fixture
def linked(shards, tmp_path) -> Path:
    return join_shards(shards, tmp_path / "all.h5", virtual=True).path


def test_a_virtual_cache_reads_as_the_single_build(linked, single, shards) -> None:
    assert verify_any(linked).ok
    with open_cache(linked) as mine, open_cache(single) as theirs:
        assert (mine.fingerprint, mine.meta.identity) == (theirs.fingerprint, theirs.meta.identity)
        for level in ("embedding", "pooled", "tokens"):
            np.testing.assert_array_equal(mine.read(level), theirs.read(level))
        for split in ("train", "val", "test"):
            a, b = mine.split(split), theirs.split(split)
            np.testing.assert_array_equal(a.x, b.x)
            np.testing.assert_array_equal(a.g, b.g)
        np.testing.assert_array_equal(
            mine.tokens(np.array([30, 2])), theirs.tokens(np.array([30, 2]))
        )
        np.testing.assert_array_equal(mine.text("class").embedding, theirs.text("class").embedding)
        assert mine.samples.reasons == theirs.samples.reasons
        stored = mine.stored
        np.testing.assert_array_equal(
            stored.rows("/images/pooled", 5, 26), theirs.stored.read("/images/pooled")[5:26]
        )


def test_rows_of_a_virtual_cache_are_read_once_and_belong_to_their_reader(
    linked, monkeypatch
) -> None:
    seen = []
    rows = StoredFile.rows
    monkeypatch.setattr(
        StoredFile, "rows", lambda self, path, *a: (seen.append(path), rows(self, path, *a))[1]
    )
    with open_cache(linked) as cache:
        first = cache.read("pooled")
        kept = first.copy()
        first[:] = 0
        np.testing.assert_array_equal(cache.read("pooled"), kept)
        assert seen.count("/images/pooled") == 4  # once as a whole, once from each of three


def test_a_shard_is_no_source_for_a_cache_of_the_same_rows(manifest, shards, tmp_path) -> None:
    """It is without text features; names that hold the identity make it a candidate."""
    with Shard(shards[1]) as shard:
        identity, rows = shard.meta.identity, slice(shard.span.start, shard.span.stop)
    shutil.copy(shards[1], tmp_path / f"x-{identity[:10]}.h5")
    part = make_manifest(
        manifest.root,
        manifest.paths[rows],
        ids=manifest.ids[rows],
        y=manifest.y[rows],
        split=manifest.split[rows],
        attributes=(),
    )
    encoder = NumpyEncoder()
    path = build_cache(part, encoder, options=replace(OPTS, out=tmp_path / "own.h5")).path
    with open_cache(path) as cache:
        assert cache.meta.identity == identity
        assert cache.text("class").embedding.any()
    assert encoder.text_rows == 10


def test_any_hdf5_library_reads_a_virtual_cache(linked, single) -> None:
    with h5py.File(linked) as mine, h5py.File(single) as theirs:
        for path in ("images/embedding", "samples/status", "samples/reason", "samples/crc32"):
            assert mine[path][...].tobytes() == theirs[path][...].tobytes()


def test_a_virtual_cache_moves_with_its_shards_and_not_without(linked, shards, tmp_path) -> None:
    there = tmp_path / "there"
    there.mkdir()
    for path in (linked, *shards):
        shutil.copy(path, there / path.name)
    with open_cache(there / linked.name) as cache:
        assert len(cache.read()) == 37
    (there / shards[1].name).unlink()
    with pytest.raises(EmbedcalError, match=r"2\.h5"):
        open_cache(there / linked.name)


def test_a_changed_shard_is_refused_when_opened_or_found_by_verify(
    linked, manifest, shards
) -> None:
    with StoredFile(shards[1]) as file:
        byte = file.arrays["/images/embedding"].offset + 9
    flip(shards[1], byte)
    assert not verify_any(linked).ok  # its digest is that of before, its bytes are not
    seal(shards[1])
    with pytest.raises(EmbedcalError, match=r"2\.h5 with SHA-256 .*as a shard of .*all\.h5"):
        open_cache(linked)


def test_a_virtual_cache_needs_its_shards_beside_it(shards, tmp_path) -> None:
    (tmp_path / "sub").mkdir()
    with pytest.raises(EmbedcalError, match="expected shards beside"):
        join_shards(shards, tmp_path / "sub" / "all.h5", virtual=True)
    odd = Path(shutil.copy(shards[0], tmp_path / "50%b.h5"))
    with pytest.raises(EmbedcalError, match="no % or backslash"):
        join_shards([odd, *shards[1:]], tmp_path / "all.h5", virtual=True)


def test_a_virtual_cache_becomes_one_file_and_back(linked, shards, single) -> None:
    assert behind(join_shards(shards, linked).path) == behind(single)
    assert join_shards(shards, linked, virtual=True).virtual
    with open_cache(linked) as cache:
        assert len(cache.stored.shards) == 3


def test_new_labels_over_a_virtual_cache_encode_nothing(linked, manifest) -> None:
    encoder = NumpyEncoder()
    other = replace(manifest, y=1 - manifest.y)
    report = build_cache(other, encoder, options=replace(OPTS, out=linked))
    assert report.relabelled
    assert (encoder.image_rows, encoder.text_rows) == (0, 0)
    calm = build_cache(other, NumpyEncoder(), options=replace(OPTS, out=linked.parent / "calm.h5"))
    assert behind(linked) == behind(calm.path)


def link(name: str, array: str, *, rows: int = 37, offset: int = 0):
    def change(file: h5py.File) -> None:
        path = "images/embedding"
        shape = file[path].shape
        del file[path]
        layout = h5py.VirtualLayout(shape=shape, dtype="<f4")
        source = h5py.VirtualSource(name, array, shape=(rows, *shape[1:]))
        layout[: rows - offset] = source[offset:] if offset else source
        file.create_virtual_dataset(path, layout)

    return change


def unlimited(name: str, source_rows: int):
    """A mapping whose extent is that of other files, which HDF5 opens to tell it."""

    def change(file: h5py.File) -> None:
        path = "images/embedding"
        width = file[path].shape[1]
        del file[path]
        layout = h5py.VirtualLayout(shape=(37, width), dtype="<f4", maxshape=(None, width))
        source = h5py.VirtualSource(name, path, shape=(1, width), maxshape=(None, width))
        layout[0 : h5py.h5s.UNLIMITED] = source[0:source_rows]
        file.create_virtual_dataset(path, layout)

    return change


def names(*given: str):
    def change(file: h5py.File) -> None:
        del file["shards/name"]
        file["shards/name"] = np.array([name.encode() for name in given])

    return change


def same_shard_thrice(file: h5py.File) -> None:
    for path in ("shards/name", "shards/sha256"):
        kept = file[path][0]
        file[path][...] = kept


HOSTILE = {
    "a path": (link("/etc/passwd", "/images/embedding"), "chunked, compact or virtual"),
    "a folder above": (link("../1.h5", "/images/embedding"), "chunked, compact or virtual"),
    "itself": (link(".", "/images/embedding"), "chunked, compact or virtual"),
    "a pattern": (unlimited("%b.h5", 1), "chunked, compact or virtual"),
    "another array": (link("1.h5", "/images/pooled"), "chunked, compact or virtual"),
    "fewer rows": (link("1.h5", "/images/embedding", rows=8), "chunked, compact or virtual"),
    "a part of a file": (
        link("1.h5", "/images/embedding", rows=40, offset=3),
        "chunked, compact or virtual",
    ),
    "unlimited": (unlimited("1.h5", h5py.h5s.UNLIMITED), "chunked, compact or virtual"),
    "other pieces": (link("1.h5", "/images/embedding"), "another list"),
    "other names": (names("1.h5", "2.h5", "9.h5"), "another list"),
    "one shard thrice": (same_shard_thrice, "another list"),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_other_virtual_arrays_are_refused(linked, what) -> None:
    change, message = HOSTILE[what]
    with h5py.File(linked, "r+") as file:
        change(file)
    seal(linked)
    with pytest.raises(EmbedcalError) as caught:
        open_cache(linked)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_virtual_caches_are_not_shards_of_each_other(linked, shards, tmp_path) -> None:
    """A name that leads back to the file itself must not be followed for ever."""
    with h5py.File(linked, "r+") as file:
        names("1.h5", "2.h5", "3.h5")(file)
    seal(linked)
    shutil.copy(linked, shards[0])
    with pytest.raises(EmbedcalError, match="chunked, compact or virtual"):
        open_cache(linked)
