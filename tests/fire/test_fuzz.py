"""Fuzzers over the CSV reader and over opening a cache, bounded in time; their corpus is kept."""

from __future__ import annotations

import csv
import io
import os
import shutil
import signal
import tempfile
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
from faults_for_tests import FORK, seal
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from embedcal.cache import open_cache, verify
from embedcal.cache.format import USER_BLOCK
from embedcal.datasets import ReadOptions, read_manifest
from embedcal.datasets.table import read_csv
from embedcal.types import EmbedcalError

CORPUS = Path(__file__).parent / "corpus"
FIXTURES = [HealthCheck.function_scoped_fixture]
MANY = settings(max_examples=100, deadline=None, suppress_health_check=FIXTURES)
FEW = settings(max_examples=60, deadline=None, suppress_health_check=FIXTURES)
LONG = settings(max_examples=1000, deadline=None, suppress_health_check=FIXTURES)


# The CSV reader

PIECES = st.sampled_from(
    [
        b"path,y,split\n", b"path,y,split,a\n", b"a.png,0,train\n", b"b.png,1,test\n", b"\n", b"\r",
        b",", b'"', b'""', b'"a\nb"', b";", b"\t", b"\0", b"\xff", b"\xef\xbb\xbf", b"\xc3\xa9",
        b"\xe2\x80\xae", b"-1", b"1.0", b"1e9", b"9" * 30, b"nan", b"../x", b"/x", b" ", b"=1+1",
        b"\xed\xa0\x80", b"\x1b[2J", b"\xc2\x85", b"\xe2\x80\xa8",
    ]
)  # fmt: skip


def outcome(data: bytes) -> str:
    """What becomes of a file: nothing but a manifest or a refusal in one line that prints."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "t.csv"
        path.write_bytes(data)
        try:
            manifest = read_manifest(path, options=ReadOptions(check_files=False))
        except EmbedcalError as error:
            said = str(error)
            assert said.isprintable(), said
            assert len(said) < 6000
            return "refused"
        assert len(manifest) == len(manifest.y) == len(set(manifest.ids)) > 0
        assert all("\0" not in path for path in manifest.paths)
        assert all(warning.isprintable() for warning in manifest.warnings)
        return "read"


@MANY
@given(st.lists(PIECES | st.binary(max_size=8), max_size=14).map(b"".join))
def test_any_bytes_are_a_table_or_refused_in_one_line(data) -> None:
    outcome(data)


@pytest.mark.parametrize("path", sorted(CORPUS.glob("*.csv")), ids=lambda path: path.name)
def test_the_corpus(path: Path) -> None:
    """Inputs that found something, or stand for a branch; their names say what becomes of them."""
    assert outcome(path.read_bytes()) == path.name.split("-")[0]


def test_the_corpus_is_there() -> None:
    assert len(list(CORPUS.glob("*.csv"))) >= 12


@MANY
@given(
    st.lists(
        st.lists(
            st.text(st.characters(exclude_characters="\0", codec="utf-8")), min_size=3, max_size=3
        ),
        max_size=6,
    )
)
@example([["a\r\nb", '"', ","]])
@example([["\ufeff", "\x85", "\u2028"]])
def test_cells_come_back_as_the_csv_module_writes_them(rows) -> None:
    with tempfile.TemporaryDirectory() as folder:
        text = io.StringIO(newline="")
        csv.writer(text).writerows([["path", "y", "split"], *rows])
        path = Path(folder) / "t.csv"
        path.write_text(text.getvalue(), encoding="utf-8", newline="")
        table = read_csv(path)
    columns = [table.columns[name] for name in ("path", "y", "split")]
    assert [list(row) for row in zip(*columns)] == rows


# Opening a cache


def serve(source: Path, pipe: Connection) -> None:
    """Open what the other end sends, in a process whose death harms nobody."""
    path = source.with_name("fuzzed.h5")
    whole = source.read_bytes()
    while True:
        changes, sealed = pipe.recv()
        data = bytearray(whole)
        for place, new in changes:
            start = USER_BLOCK + place % (len(data) - USER_BLOCK)
            data[start : start + len(new)] = new[: len(data) - start]
        path.write_bytes(data)
        if sealed:
            seal(path)
        signal.alarm(20)  # neither may it hang
        try:
            with open_cache(path) as cache:
                cache.samples, cache.meta  # noqa: B018 - read for what they raise
                for level in cache.meta.levels:
                    cache.read(level)  # type: ignore[arg-type]
                for bank in cache.banks:
                    cache.text(bank)
                cache.projection()
            said = "opened"
        except EmbedcalError as error:
            said = str(error)
        except Exception as error:  # told to the parent, which judges
            said = f"RAISED {type(error).__name__}: {error}"
        found = verify(path)
        signal.alarm(0)
        pipe.send((said, found.ok, found.reason, bytes(data) == whole))


class Opener:
    """A child that opens damaged caches; a new one for one that died."""

    def __init__(self, source: Path) -> None:
        self.source = source
        self.start()

    def start(self) -> None:
        self.pipe, other = FORK.Pipe()
        self.child = FORK.Process(target=serve, args=(self.source, other), daemon=True)
        self.child.start()
        other.close()

    def __call__(self, changes: list[tuple[int, bytes]], *, sealed: bool) -> tuple:
        try:
            self.pipe.send((changes, sealed))
            return self.pipe.recv()
        except (EOFError, OSError):
            self.child.join()
            died = self.child.exitcode
            self.start()
            return (f"DIED {died}", False, "", False)


@pytest.fixture(scope="module")
def opener(finished: Path, tmp_path_factory: pytest.TempPathFactory):
    made = Opener(Path(shutil.copy(finished, tmp_path_factory.mktemp("fuzz") / "whole.h5")))
    yield made
    made.child.kill()
    made.child.join()
    made.pipe.close()


CHANGES = st.lists(
    st.tuples(
        st.integers(0, 1 << 20) | st.integers(0, 4000),  # HDF5's structure stands first
        st.binary(min_size=1, max_size=8)
        | st.sampled_from(
            [b"\xff" * 8, bytes(8), b"\0\0\0\0\0\0\0\x80", b"\1\0\0\0\0\0\0\0", b"TREE"]
        ),
    ),
    min_size=1,
    max_size=4,
)


def found_or_refused(opener: Opener, changes: list[tuple[int, bytes]]) -> None:
    """Damage: ``verify`` sees each, and ``open`` refuses in one line or gives what it can."""
    said, ok, reason, same = opener(changes, sealed=False)
    assert not said.startswith(("RAISED", "DIED")), said
    assert "\n" not in said + reason
    assert ok == same, "a change that verify does not see"


def opened_or_refused(opener: Opener, changes: list[tuple[int, bytes]]) -> None:
    """Malice gives a seal that fits: what stands before a reader is what ``open`` checks."""
    said, _, reason, _ = opener(changes, sealed=True)
    assert not said.startswith(("RAISED", "DIED")), said
    assert "\n" not in said + reason


@FEW
@given(changes=CHANGES)
@example(changes=[(0, b"\x89HDF\r\n\x1a\n\3")])  # another superblock
@example(changes=[(96, b"\xff" * 8)])
@example(changes=[(40, bytes(8))])
@example(changes=[(1520, b"\n")])  # in the name of an attribute
def test_a_damaged_cache_is_refused_or_verify_tells(opener, changes) -> None:
    found_or_refused(opener, changes)


@FEW
@given(changes=CHANGES)
@example(changes=[(96, b"\xff" * 8)])
def test_a_cache_changed_by_malice_is_opened_or_refused(opener, changes) -> None:
    opened_or_refused(opener, changes)


@pytest.mark.slow
@LONG
@given(changes=CHANGES)
def test_a_long_search_for_damage_that_is_not_seen(opener, changes) -> None:
    found_or_refused(opener, changes)


@pytest.mark.slow
@LONG
@given(changes=CHANGES)
def test_a_long_search_for_malice_that_does_harm(opener, changes) -> None:
    opened_or_refused(opener, changes)


def test_the_opener_notices_a_death(opener) -> None:
    os.kill(opener.child.pid, signal.SIGKILL)
    assert opener([(0, b"x")], sealed=False)[0] == "DIED -9"
    assert opener([], sealed=False)[:2] == ("opened", True)
