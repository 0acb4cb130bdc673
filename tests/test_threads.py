"""Parts of a piece of work side by side."""

from __future__ import annotations

import threading

import pytest
import torch

from embedcal.threads import side_by_side


@pytest.mark.parametrize(
    ("cores", "parts", "spare", "each"),
    [(1, 5, False, 1), (2, 5, False, 1), (4, 2, False, 1), (4, 2, True, 2), (5, 2, True, 2)],
)
def test_parts_are_shared_out(cores: int, parts: int, spare: bool, each: int) -> None:
    before, seen = torch.get_num_threads(), set()
    meet = threading.Barrier(min(cores, parts), timeout=20)

    def work(part: int) -> tuple[int, int]:
        if part < min(cores, parts):
            meet.wait()  # so many are at work at one time
        seen.add(threading.get_ident())
        return part * part, torch.get_num_threads()

    try:
        torch.set_num_threads(cores)
        found = side_by_side(work, range(parts), spare=spare)
        assert torch.get_num_threads() == cores
    finally:
        torch.set_num_threads(before)
    assert found == [(part * part, each) for part in range(parts)]
    assert len(seen) == min(cores, parts)


def test_an_error_is_raised_and_the_threads_are_as_before() -> None:
    before = torch.get_num_threads()
    with pytest.raises(ZeroDivisionError):
        side_by_side(lambda part: 1 // part, (1, 0, 2))
    assert torch.get_num_threads() == before
    assert side_by_side(lambda part: part, ()) == []
