"""Kept programs: exported once, whole or not there, and made anew when a byte has changed."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from embedcal.encoders import programs
from embedcal.encoders.programs import FILE, SUMS, program

SIZE = (8, 8)


class Exporting:
    """Writes two files that hold the first weight, as an export with its weights beside it does."""

    def __init__(self, pause: float = 0.0, harm: Callable[[], object] | None = None) -> None:
        self.calls: list[Path] = []
        self.pause, self.harm = pause, harm

    def __call__(self, trunk: nn.Module, size: tuple[int, int], path: Path) -> None:
        self.calls.append(path)
        path.write_text(f"program for {size}")
        time.sleep(self.pause)
        if self.harm is not None:
            self.harm()
        weight = next(trunk.parameters()).detach().numpy().tobytes()
        path.with_name(f"{FILE}.data").write_bytes(weight)


def trunk(seed: int = 0, width: int = 2) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Conv2d(3, width, 1).eval()


def weights_of(path: Path) -> bytes:
    return path.with_name(f"{FILE}.data").read_bytes()


def use(export: Exporting, of: nn.Module | None = None, size: tuple[int, int] = SIZE) -> Path:
    module = trunk() if of is None else of
    with program(module, size, export) as path:
        assert path.read_text() == f"program for {size}"
        assert weights_of(path) == next(module.parameters()).detach().numpy().tobytes()
        return path


def left(home: Path) -> list[str]:
    """Names below the home but locks."""
    found = (home / "programs").glob("*")
    return sorted(path.name for path in found if path.suffix != ".lock")


def test_a_second_build_does_not_export(own_home: Path) -> None:
    export = Exporting()
    first = use(export)
    assert use(export) == first
    assert len(export.calls) == 1
    assert first.parent.parent == own_home / "programs"
    assert sorted(path.name for path in first.parent.iterdir()) == [SUMS, FILE, f"{FILE}.data"]
    assert left(own_home) == [first.parent.name]


def test_whatever_decides_what_is_in_it_makes_another(
    own_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export = Exporting()
    padded = trunk()
    padded.padding = (1, 1)  # type: ignore[assignment]  # the same weights in another layer
    buffered = trunk()
    buffered.register_buffer("mean", torch.ones(3), persistent=False)  # in no state_dict
    found = {use(export)}
    found |= {use(export, of=other) for other in (trunk(1), trunk(width=3), padded, buffered)}
    found.add(use(export, size=(8, 9)))
    real = programs.version
    for name in programs.MADE_BY:
        with monkeypatch.context() as patch:
            patch.setattr(programs, "version", lambda n, name=name: real(n) + "x" * (n == name))
            found.add(use(export))
    monkeypatch.setattr(programs, "__version__", "9")
    found.add(use(export))
    assert len(found) == len(export.calls) == 7 + len(programs.MADE_BY)


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


HARM: dict[str, Callable[[Path], object]] = {
    "a bit of the program": flip,
    "a bit of its weights": lambda path: flip(path.with_name(f"{FILE}.data")),
    "a bit of its digests": lambda path: flip(path.with_name(SUMS)),
    "no digests": lambda path: path.with_name(SUMS).unlink(),
    "digests that are none": lambda path: path.with_name(SUMS).write_bytes(b"\xff{"),
    "no weights": lambda path: path.with_name(f"{FILE}.data").unlink(),
    "cut short": lambda path: os.truncate(path, 3),
    "another file beside": lambda path: path.with_name("more").write_text("x"),
}


@pytest.mark.parametrize("what", HARM)
def test_a_damaged_one_is_made_anew(what: str, own_home: Path) -> None:
    export = Exporting()
    path = use(export)
    HARM[what](path)
    assert use(export) == path
    assert len(export.calls) == 2
    use(export)
    assert len(export.calls) == 2
    assert left(own_home) == [path.parent.name]


def test_an_export_that_fails_leaves_nothing(own_home: Path) -> None:
    def fail() -> None:
        raise RuntimeError("unknown operator")

    with pytest.raises(RuntimeError, match="unknown operator"):
        use(Exporting(harm=fail))
    assert left(own_home) == []


def test_one_that_was_killed_leaves_nothing_that_is_taken(own_home: Path) -> None:
    fork = multiprocessing.get_context("fork")
    killed = fork.Process(target=use, args=(Exporting(harm=lambda: os._exit(9)),))
    killed.start()
    killed.join()
    (stale,) = left(own_home)
    assert stale.endswith(".part")
    export = Exporting()
    path = use(export)
    assert len(export.calls) == 1
    assert left(own_home) == [path.parent.name]


def test_two_at_once_export_once(own_home: Path) -> None:
    fork = multiprocessing.get_context("fork")
    counted = own_home / "counted"

    def count() -> None:
        with counted.open("a") as file:
            file.write("x")

    both = [fork.Process(target=use, args=(Exporting(0.2, count),)) for _ in range(2)]
    for each in both:
        each.start()
    for each in both:
        each.join()
    assert [each.exitcode for each in both] == [0, 0]
    assert counted.read_text() == "x"


def test_where_none_can_be_kept_it_lies_in_a_folder_that_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "home").write_text("a file, no folder")
    (tmp_path / "temporary").mkdir()
    monkeypatch.setenv("EMBEDCAL_HOME", str(tmp_path / "home"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    export = Exporting()
    for _ in range(2):
        assert not use(export).exists()
    assert len(export.calls) == 2
    assert not list((tmp_path / "temporary").iterdir())


def test_a_full_disk_at_home_does_not_stop_a_build(own_home: Path) -> None:
    full = iter([OSError(28, "No space left on device")])

    def fill() -> None:
        for error in full:
            raise error

    export = Exporting(harm=fill)
    path = use(export)
    assert len(export.calls) == 2
    assert own_home not in path.parents
    assert left(own_home) == []
