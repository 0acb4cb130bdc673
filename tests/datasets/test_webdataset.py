"""Shards written with tarfile, some of them hostile; the real webdataset is in test_containers."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from webdataset.tariterators import base_plus_ext

from embedcal.datasets import Manifest, ReadOptions, attributes_of, build_manifest
from embedcal.datasets.containers.webdataset import read_webdataset, webdataset_shards
from embedcal.types import EmbedcalError

Members = Sequence[tuple[str, Any]]


def shard(path: Path, members: Members) -> Path:
    """A tar of (name, bytes, text, object or ready TarInfo)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as sink:
        for name, content in members:
            if isinstance(content, tarfile.TarInfo):
                sink.addfile(content)
                continue
            data = content if isinstance(content, bytes | str) else json.dumps(content)
            data = data.encode("utf-8", "surrogatepass") if isinstance(data, str) else data
            info = tarfile.TarInfo(name)
            info.size = len(data)
            sink.addfile(info, io.BytesIO(data))
    return path


def samples(n: int = 3, **cells: Any) -> Members:
    listed: list[tuple[str, Any]] = []
    for i in range(n):
        listed += [(f"{i}.jpg", b"\xff\xd8\xff%d" % i), (f"{i}.json", {"y": i % 2, **cells})]
    return listed


def manifest_of(path: Path, **options: Any) -> Manifest:
    chosen = ReadOptions(**options)
    table, root = read_webdataset(path, options=chosen)
    return build_manifest(table, root=root, name="t", options=chosen)


def fault(path: Path, root: Path | None = None, **options: Any) -> str:
    with pytest.raises(EmbedcalError) as caught:
        read_webdataset(path, root=root, options=ReadOptions(**options))
    message = str(caught.value)
    assert message.isprintable()
    return message


# Samples


def test_one_shard(tmp_path: Path) -> None:
    file = shard(tmp_path / "train-000000.tar", samples())
    manifest = manifest_of(file)
    assert manifest.y.tolist() == [0, 1, 0]
    assert manifest.split.tolist() == [0, 0, 0]
    assert manifest.ids == ("train-000000/0", "train-000000/1", "train-000000/2")
    assert [(manifest.root / p).read_bytes()[-1:] for p in manifest.paths] == [b"0", b"1", b"2"]


def test_names_and_suffixes(tmp_path: Path) -> None:
    """A key ends at the first dot of the base name; hidden files and other suffixes are no part."""
    members = [
        ("a.b/ü.PNG", b"1"), ("a.b/ü.cls", b" 1\n"), ("a.b/ü.txt", b"\xff"),
        ("a.b/ü.seg.png", b"x"),
        ("./c.jpeg", b"2"), ("./c.CLS", b"0"), ("c.npy", b"pickle"), ("README", b""),
        ("a.b/._ü.png", b"x"), ("a.b/.ü.png", b"x"), ("__meta__.json", {"k": 1}), ("d.cls", b"7"),
    ]  # fmt: skip
    file = shard(tmp_path / "val.tar", members)
    manifest = manifest_of(file)
    assert manifest.ids == ("val/a.b/ü", "val/./c")
    assert [(manifest.root / path).read_bytes() for path in manifest.paths] == [b"1", b"2"]
    assert manifest.y.tolist() == [1, 0]
    assert (
        "2 samples hold no image and are passed over; the first is '__meta__' in val.tar"
        in (manifest.warnings[0])
    )


@pytest.mark.parametrize("name", ["a.jpg", "x.y/ß.jpg", "a.b.jpg", "./a.PNG", "a/b/c.png"])
def test_keys_are_those_of_webdataset(tmp_path: Path, name: str) -> None:
    key, suffix = base_plus_ext(name)
    file = shard(tmp_path / "s.tar", [("first.jpg", b""), (name, b"")])
    want = ["s/first", *([f"s/{key}"] if suffix and suffix.lower() in ("jpg", "png") else [])]
    assert list(read_webdataset(file)[0].columns["id"]) == want


@pytest.mark.parametrize(
    ("members", "y"),
    [
        ([("0.cls", b"1")], "1"),
        ([("0.cls", "groß")], "groß"),
        ([("0.json", {"y": 1, "label": 0, "cls": 0})], "1"),
        ([("0.json", {"label": "dry", "cls": True})], "True"),
        ([("0.json", {"label": "dry"})], "dry"),
        ([("0.json", {"label": 1.0})], "1"),
        ([("0.json", {"cls": 3}), ("0.cls", b"2")], "2"),
        ([("0.cls", b"2"), ("0.json", {"cls": 3})], "2"),
        ([("0.cls", b"2"), ("0.json", {"y": None})], ""),
        ([("0.json", '{"y": NaN}')], ""),
    ],
)
def test_where_the_label_is(tmp_path: Path, members: Members, y: str) -> None:
    file = shard(tmp_path / "s.tar", [("0.jpg", b"x"), *members])
    assert read_webdataset(file)[0].columns["y"] == (y,)


def test_attributes_and_other_headers(tmp_path: Path) -> None:
    members = []
    for i in range(4):
        label = {"kind": i % 2, "place": ["land", "sea"][i // 2], "deep": {"x": 1}}
        members += [(f"{i}.ppm", b"%d" % i), (f"{i}.json", label | ({"time": "day"} if i else {}))]
    file = shard(tmp_path / "test-0.tar", members)
    named = {"y": "kind", "path": "image"}
    manifest = manifest_of(file, columns=named, attributes=attributes_of("place=;time="))
    assert manifest.y.tolist() == [0, 1, 0, 1]
    assert [a.labels.tolist() for a in manifest.attributes] == [[0, 0, 1, 1], [-1, 0, 0, 0]]
    with pytest.raises(EmbedcalError, match="'deep' is missing"):
        manifest_of(file, columns={**named, "a": "deep"})


# Splits


def test_splits_by_shard_folder_and_cell(tmp_path: Path) -> None:
    shard(tmp_path / "a" / "x-train-1.tar", samples(1))
    shard(tmp_path / "a" / "x-train-0.tar", samples(2))
    shard(tmp_path / "a" / "val" / "0000.tar", samples(1))
    shard(tmp_path / "a" / "test" / "0000.tar", samples(1))
    table, _ = read_webdataset(tmp_path / "a")
    assert table.columns["split"] == ("train", "train", "train", "test", "val")
    assert table.columns["id"][3:] == ("test/0000/0", "val/0000/0")

    mixed = [*samples(2, split="test"), ("8.jpg", b"x"), ("8.json", {"y": 0})]
    shard(tmp_path / "b" / "train.tar", mixed)
    assert read_webdataset(tmp_path / "b")[0].columns["split"] == ("test", "test", "train")
    shard(tmp_path / "c" / "0.tar", samples(1, split="test"))
    assert read_webdataset(tmp_path / "c")[0].columns["split"] == ("test",)
    shard(tmp_path / "c" / "train.tar", samples(1))
    assert "'0.tar' beside others that do" in fault(tmp_path / "c")
    table, _ = read_webdataset(tmp_path / "c", options=ReadOptions(split="0.5,0.2,0.3"))
    assert table.columns["split"] == ("test", "")  # the rule takes its place
    shard(tmp_path / "d" / "0.tar", samples(1))
    with pytest.raises(EmbedcalError, match=r"'split' is missing; cut the rows by a rule"):
        manifest_of(tmp_path / "d")


def test_folders_that_are_not_of_shards(tmp_path: Path) -> None:
    shard(tmp_path / "train" / "0.tar", samples())
    assert len(webdataset_shards(tmp_path)) == 1
    (tmp_path / "notes").mkdir()
    assert webdataset_shards(tmp_path) == ()
    shard(tmp_path / "notes" / "0.tar", samples())
    assert webdataset_shards(tmp_path) == ()
    assert webdataset_shards(tmp_path / "no") == ()


# Shards that are torn, damaged, hostile


def test_every_cut_is_noticed(tmp_path: Path) -> None:
    """Above all those between two members, where tarfile itself ends without a word."""
    file = shard(tmp_path / "train.tar", samples())
    whole = file.read_bytes()
    with tarfile.open(file) as opened:
        end = max(m.offset_data + 512 for m in opened.getmembers())
    for cut in [*range(0, end, 256), end - 1, end + 511]:
        file.write_bytes(whole[:cut])
        message = fault(file)
        assert "cut short or damaged" in message, cut
    file.write_bytes(whole[: end + 512])
    assert len(read_webdataset(file)[0]) == 3


def test_other_files_under_the_suffix(tmp_path: Path) -> None:
    file = tmp_path / "train.tar"
    for content in (b"", b"PK\3\4" * 300, bytes(511)):
        file.write_bytes(content)
        assert "expected" in fault(file)
    shard(file, samples())
    with tarfile.open(tmp_path / "train.tgz.tar", "w:gz") as sink:
        sink.add(file, "x.jpg")
    assert "not a compressed one" in fault(tmp_path / "train.tgz.tar")
    assert "No such file" in fault(tmp_path / "no.tar")
    (tmp_path / "empty").mkdir()
    assert "found none: check the folder" in fault(tmp_path / "empty")
    assert "expected samples with images" in fault(shard(tmp_path / "e.tar", [("a.cls", b"0")]))
    assert "expected samples with images" in fault(shard(tmp_path / "f.tar", []))
    assert "expected no root beside" in fault(file, root=tmp_path)


def odd(name: str, kind: bytes, **facts: Any) -> tuple[str, tarfile.TarInfo]:
    info = tarfile.TarInfo(name)
    info.type = kind
    for key, value in facts.items():
        setattr(info, key, value)
    return name, info


@pytest.mark.parametrize(
    ("member", "said"),
    [
        (("/etc/x.jpg", b"x"), "leads out"),
        (("../x.jpg", b"x"), "leads out"),
        (("a/../../x.jpg", b"x"), "leads out"),
        (("/etc/notes", b"x"), "leads out"),
        (odd("x.jpg", tarfile.SYMTYPE, linkname="/etc/passwd"), "a link, a device"),
        (odd("x.jpg", tarfile.LNKTYPE, linkname="0.jpg"), "a link, a device"),
        (odd("x.jpg", tarfile.FIFOTYPE), "a link, a device"),
        (odd("x", tarfile.CHRTYPE, devmajor=1, devminor=3), "a link, a device"),
        (odd("x.jpg", tarfile.GNUTYPE_SPARSE), "or a sparse file"),
        (("0.png", b"x"), "one image a sample"),
        (("0.jpg", b"x"), "one image a sample"),
        (("9.cls", b"\xff\xfe"), "no text in UTF-8"),
        (("9.cls", b"1\0"), "NUL"),
        (("9.cls", b" " * (1 << 21)), "too much for a label"),
        (("9.json", b"{"), "no JSON"),
        (("9.json", b"[" * 100_000), "no JSON"),
        (("9.json", b"1" * 5000), "no JSON"),
        (("9.json", []), "a list, not an object"),
        (("9.json", "null"), "not an object"),
        (("9.json", {"y": "a\0"}), "NUL"),
        (("9.json", '{"y": "\\ud800"}'), "no text in UTF-8"),
        (("9.json", b"\xff{}"), "no text in UTF-8"),
    ],
)
def test_members_that_are_refused(tmp_path: Path, member: tuple[str, Any], said: str) -> None:
    file = shard(tmp_path / "train.tar", [*samples(), member])
    message = fault(file)
    assert said in message
    assert member[0] in message or "damaged" in message


def test_a_name_that_acts_on_a_terminal_and_one_that_is_no_text(tmp_path: Path) -> None:
    assert "\\x1b[2J" in fault(shard(tmp_path / "a.tar", [*samples(), ("../\x1b[2J.jpg", b"")]))
    latin = tarfile.TarInfo("é.jpg")
    with tarfile.open(
        tmp_path / "b.tar", "w", format=tarfile.USTAR_FORMAT, encoding="latin-1"
    ) as t:
        t.addfile(latin)
    assert "no text in UTF-8" in fault(tmp_path / "b.tar")


def test_a_size_that_leads_back_is_no_endless_loop(tmp_path: Path) -> None:
    back = tarfile.TarInfo("1.txt")
    back.pax_headers = {"size": "-1536"}  # to its own header
    file = shard(tmp_path / "train.tar", [("0.jpg", b"x"), ("1.txt", back), ("2.txt", b"x")])
    assert "'1.txt': of an impossible size" in fault(file)


def test_an_image_above_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("embedcal.datasets.containers.webdataset.LARGEST", 3)
    assert "above 1 GiB" in fault(shard(tmp_path / "train.tar", samples()))


def test_nested_folders_and_directories_within(tmp_path: Path) -> None:
    members = [odd("deep", tarfile.DIRTYPE), ("deep/er/0.jpg", b"x"), ("deep/er/0.cls", b"0")]
    assert manifest_of(shard(tmp_path / "train.tar", members)).ids == ("train/deep/er/0",)


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=150
)
@given(st.data())
def test_damaged_bytes_raise_nothing_else(tmp_path: Path, data: st.DataObject) -> None:
    file = tmp_path / "train.tar"
    whole = bytearray(shard(file, samples()).read_bytes()[:7680])
    for _ in range(data.draw(st.integers(1, 3))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    file.write_bytes(whole)
    try:
        table, root = read_webdataset(file)
    except EmbedcalError:
        return
    for path in table.columns["path"]:
        assert (root / path).is_file()


KEY = st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="./"), min_size=1)


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=40
)
@given(st.dictionaries(KEY, st.tuples(st.binary(), st.integers(0, 3)), min_size=1, max_size=6))
def test_whatever_is_written_comes_back(tmp_path: Path, content: Any) -> None:
    members: list[tuple[str, Any]] = []
    for key, (image, label) in content.items():
        members += [(f"{key}.jpg", image), (f"{key}.cls", str(label))]
    table, root = read_webdataset(shard(tmp_path / "train.tar", members))
    assert [key.partition("/")[2] for key in table.columns["id"]] == list(content)
    read = [(root / path).read_bytes() for path in table.columns["path"]]
    labels = [int(cell) for cell in table.columns["y"]]
    assert list(zip(read, labels, strict=True)) == list(content.values())
