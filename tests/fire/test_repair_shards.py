"""verify and repair on shards, and on a virtual cache of them: all is as it was, to the bit."""

from __future__ import annotations

import re
import shlex
import time
from pathlib import Path

import numpy as np
import pytest
from encoders_for_tests import OPTIONS, NumpyEncoder, make_manifest
from faults_for_tests import PLUGIN, child, flip, images_below, seal

from embedcal.cache import BuildOptions, build_cache, join_shards, open_cache
from embedcal.cache.format import USER_BLOCK
from embedcal.cache.layout import StoredFile
from embedcal.cache.repairing import CHANGED
from embedcal.cache.sharding import Part, Shard, open_any, verify_any
from embedcal.cli import app
from embedcal.reencoding import Source
from embedcal.repairing import ASKED, Repair, repair
from embedcal.types import EmbedcalError


@pytest.fixture
def shards(root: Path, tmp_path: Path) -> list[Path]:
    """Rows 0 to 7, 8 to 23 and 24 to 39, in batches of 8: an image is no image in each."""
    paths = images_below(root)
    for row in (6, 20, 30):
        (root / paths[row]).write_bytes(b"not an image")
    manifest = make_manifest(root, paths)
    return [
        build_cache(
            manifest,
            NumpyEncoder(),
            options=BuildOptions(out=tmp_path / f"{number}.h5", **OPTIONS),
            shard=Part(number, 3),
        ).path
        for number in (1, 2, 3)
    ]


@pytest.fixture
def linked(shards: list[Path], tmp_path: Path) -> Path:
    return join_shards(shards, tmp_path / "linked.h5", virtual=True).path


@pytest.fixture
def whole(linked: Path, shards: list[Path]) -> dict[Path, bytes]:
    """Every byte before any harm."""
    return {path: path.read_bytes() for path in (*shards, linked)}


def unharmed(whole: dict[Path, bytes]) -> bool:
    return all(path.read_bytes() == data for path, data in whole.items())


def mend(path: Path, root: Path, **how: object) -> Repair:
    return repair(path, source=Source(root=root, backbone=PLUGIN), **how)  # type: ignore[arg-type]


def place(path: Path, name: str, row: int) -> int:
    with StoredFile(path, linked="ignore") as file:
        stored = file.arrays[name]
        return stored.offset + row * stored.row_bytes


def command(reason: str) -> list[str]:
    """The words of the command that a message tells to run."""
    (line,) = re.findall(r"'embedcal (.*?)'(?=$|,|:)", reason)
    return shlex.split(line)


def run(words: list[str]) -> object:
    return app(words, standalone_mode=False, prog_name="embedcal")


@pytest.mark.parametrize("bit", [0, 7])
@pytest.mark.parametrize(
    ("number", "name", "row"),
    [
        (1, "/images/embedding", 0),
        (2, "/images/pooled", 15),
        (2, "/images/tokens", 8),
        (2, "/samples/status", 3),
        (3, "/samples/reason", 6),
        (3, "/samples/crc32", 15),
    ],
)
def test_a_flipped_bit_of_a_shard_is_undone_in_its_place(
    shards, root, whole, number, name, row, bit
) -> None:
    path = shards[number - 1]
    flip(path, place(path, name, row), bit)
    found = verify_any(path)
    assert (found.ok, found.path, found.rows) == (False, path, (row,))
    done = mend(path, root)
    assert (done.source, done.path, done.written, done.exact) == (path, path, True, True)
    assert done.rows == {row: CHANGED}
    assert verify_any(path).ok
    assert unharmed(whole)
    assert not [*path.parent.glob("*repaired.h5"), *path.parent.glob("*.repairing")]


def test_the_whole_batch_is_encoded_for_a_row_in_the_middle_of_the_table(
    shards, root, whole, monkeypatch
) -> None:
    """Neighbours move the last bits: rows 16 to 23 of the table are 8 to 15 of the shard."""
    import embedcal.reencoding as reencoding

    asked: set[int] = set()
    read = reencoding._pixels
    monkeypatch.setattr(
        reencoding, "_pixels", lambda p, row, how: asked.add(row) or read(p, row, how)
    )
    flip(shards[1], place(shards[1], "/images/embedding", 9), 3)
    mend(shards[1], root)
    assert asked == {*range(8, 16)}
    assert unharmed(whole)


@pytest.mark.parametrize("name", ["/text/class/embedding", "/projection/image_weight"])
def test_text_that_the_first_shard_alone_has(shards, root, whole, name) -> None:
    flip(shards[0], place(shards[0], name, 0) + 2, 6)
    done = mend(shards[0], root)
    assert (done.rows, done.text, done.exact, done.path) == ({}, True, True, shards[0])
    assert unharmed(whole)


@pytest.mark.parametrize("of", ["shard", "linked"])
def test_verify_names_the_shard_and_the_command_that_mends_it(
    shards, linked, root, whole, of, capsys
) -> None:
    flip(shards[1], place(shards[1], "/images/embedding", 9), 3)
    with pytest.raises(EmbedcalError) as told:
        run(["verify", str(linked if of == "linked" else shards[1])])
    assert "\n" not in str(told.value)
    assert f"in {shards[1]} (rows 9): bytes have changed" in str(told.value)
    assert (f"shards of {linked}" in str(told.value)) == (of == "linked")
    words = command(str(told.value).removesuffix(", or restore the file"))
    assert words == ["repair", str(shards[1])]
    assert run([*words, "--root", str(root), "--backbone", PLUGIN]) == 3  # images are unreadable
    assert "every byte is as it was first written" in " ".join(capsys.readouterr().out.split())
    assert unharmed(whole)
    run(["verify", str(linked)])


def test_a_virtual_cache_has_its_shards_repaired(shards, linked, root, whole) -> None:
    with open_cache(linked) as cache:
        features = cache.read("pooled")
    for number, row in ((0, 3), (2, 1), (2, 15)):
        flip(shards[number], place(shards[number], "/images/pooled", row) + 1, 5)
    seen = shards[1].stat().st_ino
    done = mend(linked, root)
    assert done.rows == {3: CHANGED, 25: CHANGED, 39: CHANGED}  # as the virtual cache counts
    assert done.shards == (shards[0], shards[2])
    assert (done.source, done.path, done.written, done.exact) == (linked, linked, True, True)
    assert [row[0] for row in done.unreadable] == [
        f"id-{images_below(root)[row]}" for row in (6, 20, 30)
    ]
    assert unharmed(whole)
    assert shards[1].stat().st_ino == seen  # it was left alone
    assert verify_any(linked).ok
    with open_cache(linked) as cache:
        np.testing.assert_array_equal(cache.read("pooled"), features)


@pytest.mark.parametrize("name", ["/text/class/embedding", "/samples/y", "/shards/sha256"])
def test_a_damaged_virtual_file_is_linked_anew(linked, root, whole, name) -> None:
    """Labels too: its shards have them. Only the time of creation is another."""
    flip(linked, place(linked, name, 0), 0)
    found = verify_any(linked)
    assert not found.ok
    assert command(found.reason.removesuffix(", or restore the file")) == ["repair", str(linked)]
    done = mend(linked, root)
    assert (done.written, done.exact, done.shards, done.rows) == (True, True, (), {})
    assert linked.read_bytes()[USER_BLOCK:] == whole.pop(linked)[USER_BLOCK:]
    assert unharmed(whole)
    assert verify_any(linked).ok


def test_rows_that_are_named(shards, linked, root, whole) -> None:
    assert mend(shards[1], root, rows=[2]).rows == {2: ASKED}
    done = mend(linked, root, rows=[2, 9])
    assert (done.rows, done.shards) == ({2: ASKED, 9: ASKED}, (shards[0], shards[1]))
    assert unharmed(whole)
    for path, most in ((shards[1], 15), (linked, 39)):
        with pytest.raises(EmbedcalError, match=f"rows between 0 and {most}, found {most + 1}"):
            mend(path, root, rows=[most + 1])


def test_nothing_to_do(shards, linked, root, whole) -> None:
    for path in (shards[0], linked):
        done = mend(path, root)
        assert (done.written, done.path, done.rows, done.shards) == (False, path, {}, ())
    assert unharmed(whole)


def test_with_a_name_of_its_own_the_damaged_shard_stays(shards, root, whole, tmp_path) -> None:
    flip(shards[1], place(shards[1], "/images/embedding", 9), 3)
    damaged = shards[1].read_bytes()
    done = mend(shards[1], root, out=tmp_path / "again.h5")
    assert done.path == tmp_path / "again.h5"
    assert shards[1].read_bytes() == damaged
    assert done.path.read_bytes() == whole[shards[1]]


def test_a_shard_that_comes_out_otherwise_lies_beside(shards, linked, root, capsys) -> None:
    """Sealed by somebody with another number in it: nothing proves what was there before."""
    at = place(shards[1], "/images/embedding", 9)
    flip(shards[1], at, 3)
    seal(shards[1])
    join_shards(shards, linked.with_name("other.h5"), virtual=True)
    flip(shards[1], at, 4)
    damaged = shards[1].read_bytes()
    with pytest.raises(EmbedcalError, match="to come out as it was sealed") as told:
        mend(linked.with_name("other.h5"), root)
    assert "\n" not in str(told.value)
    beside = shards[1].with_name("2-repaired.h5")
    assert shards[1].read_bytes() == damaged
    assert verify_any(beside).ok
    words = command(str(told.value))
    run(words)
    with open_cache(words[words.index("-o") + 1]) as cache, Shard(beside) as shard:
        assert len(cache.stored.shards) == 3
        np.testing.assert_array_equal(cache.read()[8:24], shard.read())
    beside.unlink()
    done = mend(shards[1], root)  # by itself that is no mistake
    assert (done.path, done.exact, done.rows) == (beside, False, {9: CHANGED})


@pytest.mark.parametrize(
    ("name", "bit"),
    [("/samples/y", 0), ("/samples/y", 4), ("/samples/sha256", 0), ("/shard/whole", 0)],
)
def test_what_no_encoder_can_give_again(shards, root, name, bit) -> None:
    flip(shards[1], place(shards[1], name, 0), bit)
    damaged = shards[1].read_bytes()
    with pytest.raises(EmbedcalError, match=r"restore the file or make it again") as told:
        mend(shards[1], root)
    assert "\n" not in str(told.value)
    assert f"--shard 2/3 --out {shards[1]}" in str(told.value)
    assert shards[1].read_bytes() == damaged
    assert not list(shards[1].parent.glob("*.repairing"))


def test_what_stands_in_the_way(shards, linked, root, whole, tmp_path) -> None:
    flip(shards[1], place(shards[1], "/images/embedding", 9), 3)
    with pytest.raises(EmbedcalError, match=r"expected no -o for .*linked.h5"):
        mend(linked, root, out=tmp_path / "new.h5")
    shards[0].rename(tmp_path / "away")
    with pytest.raises(EmbedcalError, match=r"found No such file or directory for .*1\.h5"):
        mend(linked, root)
    (tmp_path / "away").rename(shards[0])
    flip(shards[1], 40, 2)
    with pytest.raises(EmbedcalError, match=r"intact user block.*2\.h5"):
        mend(linked, root)
    flip(shards[1], 40, 2)
    mend(linked, root)
    assert unharmed(whole)


def test_a_shard_of_another_seal_is_not_taken_for_the_one_that_was_linked(
    shards, linked, root, whole
) -> None:
    flip(shards[1], place(shards[1], "/images/embedding", 9), 3)
    seal(shards[1])
    with pytest.raises(EmbedcalError, match=r"2\.h5 with SHA-256 .*as a shard of .*linked\.h5"):
        mend(linked, root)
    assert linked.read_bytes() == whole[linked]


def test_a_killed_repair_leaves_a_shard_damaged_or_whole(shards, root, whole) -> None:
    path = shards[2]
    for row in range(0, 16, 3):
        flip(path, place(path, "/images/embedding", row), 3)
    damaged = path.read_bytes()
    seen = set()
    for tenth in range(10):
        killed = child(mend, path, root)
        time.sleep(0.004 * tenth)
        killed.kill()
        killed.join()
        now = path.read_bytes()
        assert now in (damaged, whole[path])
        seen.add(now == whole[path])
        path.write_bytes(damaged)
    assert mend(path, root).exact
    assert unharmed(whole)
    assert not [*path.parent.glob("*repaired.h5"), *path.parent.glob("*.repairing")]


def test_a_reader_goes_on_while_a_shard_is_repaired(shards, linked, root, monkeypatch) -> None:
    """It opens shards again by their names, where the file is another but the seal is the same."""
    monkeypatch.setattr("embedcal.cache.handles.MOST", 1)
    with open_cache(linked) as cache:
        before = cache.take("pooled", np.arange(40))
        flip(shards[1], place(shards[1], "/images/embedding", 9), 3)
        mend(shards[1], root)
        np.testing.assert_array_equal(cache.take("pooled", np.arange(40)), before)


def test_an_unfinished_shard_is_told_to_be_finished(shards, root, tmp_path) -> None:
    from faults_for_tests import Stop, StoppingEncoder

    manifest = make_manifest(root, images_below(root))
    options = BuildOptions(out=tmp_path / "new.h5", **OPTIONS)
    with pytest.raises(Stop):
        build_cache(manifest, StoppingEncoder(1), options=options, shard=Part(3, 3))
    part = tmp_path / "new.h5.part"
    assert "unfinished" in verify_any(part).reason
    with pytest.raises(EmbedcalError, match="still being built"):
        mend(part, root)


def test_a_damaged_joined_file_is_joined_anew(shards, tmp_path) -> None:
    """What is there already is believed only as far as its seal holds."""
    for virtual in (False, True):
        path = join_shards(shards, tmp_path / "all.h5", virtual=virtual).path
        kept = path.read_bytes()
        assert join_shards(shards, path, virtual=virtual).reused
        name = "/text/class/embedding" if virtual else "/images/pooled"
        flip(path, place(path, name, 0), 3)
        flip(path, len(kept) - 1, 0)
        assert not join_shards(shards, path, virtual=virtual).reused
        assert path.read_bytes()[USER_BLOCK:] == kept[USER_BLOCK:]
        assert verify_any(path).ok
        path.unlink()


def test_only_shards_are_opened_as_such(shards, linked) -> None:
    with open_any(shards[0]) as shard, open_any(linked) as cache:
        assert isinstance(shard, Shard)
        assert not isinstance(cache, Shard)
