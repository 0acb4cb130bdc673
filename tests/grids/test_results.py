"""A folder's lines: torn at every byte, damaged in the middle, replaced by later ones."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from grids_for_tests import lines, outcome, times_done

from embedcal.asked import GRID, asked_of
from embedcal.fitting import fit
from embedcal.grids import grid, load, merge
from embedcal.grids.results import Results, ask
from embedcal.runs import RESULTS, append, listed
from embedcal.types import EmbedcalError


def record(name: str, **changes):
    return {"id": name, "status": "done", "method": "erm", "label": "é" * 3, **changes}


def test_a_line_torn_at_any_byte_is_passed_over_and_spoils_no_other(tmp_path: Path) -> None:
    file = tmp_path / RESULTS
    first, last = (json.dumps(record(n), ensure_ascii=False).encode() for n in ("a", "b"))
    for length in range(len(last) + 1):
        file.write_bytes(first + b"\n" + last[:length])
        assert [*load(tmp_path).records] == ["a"]
        append(tmp_path, record("c"))
        found = load(tmp_path)
        torn = 0 < length < len(last)
        assert ([*found.records], found.damaged) == (
            (["a", "c"], int(torn)) if torn or not length else (["a", "b", "c"], 0)
        )


def test_a_reader_takes_up_a_line_when_it_is_whole(tmp_path: Path) -> None:
    text = json.dumps(record("b")).encode() + b"\n"
    append(tmp_path, record("a"))
    results = Results(tmp_path)
    for byte in range(len(text)):
        results.refresh()
        assert [*results.records] == ["a"]
        with (tmp_path / RESULTS).open("ab") as file:
            file.write(text[byte : byte + 1])
    results.refresh()
    assert [*results.records] == ["a", "b"]
    assert results.damaged == 0


@pytest.mark.parametrize(
    "damage",
    [b"", b"{", b"null", b"[1]", b"{}", b'"text"', b"\xff\xfe", b"\0\0\0", b'{"id": ["a"]}'],
)
def test_damaged_lines_in_the_middle_cost_only_themselves(damage: bytes, tmp_path: Path) -> None:
    append(tmp_path, record("a"))
    with (tmp_path / RESULTS).open("ab") as file:
        file.write(damage + b"\n")
    append(tmp_path, record("b"))
    found = load(tmp_path)
    assert [*found.records] == ["a", "b"]
    assert found.damaged == (1 if damage else 0)


def test_later_lines_win(tmp_path: Path) -> None:
    for status in ("failed", "done"):
        append(tmp_path, record("a", status=status))
    assert load(tmp_path).records["a"]["status"] == "done"


def test_a_line_counts_as_listed_only_if_it_is_whole_and_says_the_same(tmp_path: Path) -> None:
    assert not listed(tmp_path, record("a"))
    append(tmp_path, record("b", stage="a"))  # names the id, but is not of it
    assert not listed(tmp_path, record("a"))
    append(tmp_path, record("a", status="failed"))
    assert not listed(tmp_path, record("a"))
    text = json.dumps(record("a"))
    for length in range(len(text)):
        (tmp_path / RESULTS).write_text(text[:length])
        assert not listed(tmp_path, record("a"))
        (tmp_path / RESULTS).write_text(text[:length] + "\n" + json.dumps(record("b")) + "\n")
        assert not listed(tmp_path, record("a"))
    append(tmp_path, record("a"))
    append(tmp_path, record("b", stage="a"))
    assert listed(tmp_path, record("a"))


def test_a_folder_without_results_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(EmbedcalError, match=r"results\.jsonl, found none in"):
        load(tmp_path)


def test_asked_is_what_commands_asked_for_in_order_and_all_where_there_was_none(tmp_path) -> None:
    for name in "abc":
        append(tmp_path, record(name))
    assert [*load(tmp_path).asked] == ["a", "b", "c"]
    append(tmp_path, record("s"))
    append(tmp_path, record("b", stage="s"))
    ask(tmp_path, ["c", "x"], {"seeds": [0]})
    append(tmp_path, record("d"))
    ask(tmp_path, ["a", "c"], {"seeds": [0]})
    ask(tmp_path, ["a"], {"seeds": [1]})
    assert asked_of(tmp_path) == ["a", "b", "c", "x"]
    assert [*load(tmp_path).asked] == ["a", "b", "c"]
    document = json.loads((tmp_path / GRID).read_text())
    assert document["commands"] == [{"seeds": [0]}, {"seeds": [1]}]
    assert document["format"] == 1


def test_fits_and_grids_in_one_folder_are_all_asked_for(cache, tmp_path: Path) -> None:
    """Fits before the grid and after it, and those that a folder has before others come to it."""
    own, other = tmp_path / "own", tmp_path / "other"
    first = [fit("jtt", cache, epochs=1, stage_epochs=1, out=own).id]
    assert len(load(own).asked) == 2  # nothing tells its stage apart
    first += [r["id"] for r in grid(["erm:epochs=2"], cache, seeds=1, out=own).records]
    first += [fit("dfr", cache, c=(1.0,), refits=1, out=own).id]
    assert [*load(own).asked] == first
    assert fit("dfr", cache, c=(1.0,), refits=1, out=own).reused
    assert [*load(own).asked] == first
    second = fit("erm", cache, epochs=3, out=other).id
    assert asked_of(other) is None
    merge([own], other)
    assert [*load(other).asked] == [second, *first]


@pytest.mark.parametrize("text", ["", "{", "{}", "[]", '{"asked": 3}'])
def test_a_damaged_grid_file_is_one_line(text: str, tmp_path: Path) -> None:
    append(tmp_path, record("a"))
    (tmp_path / GRID).write_text(text)
    with pytest.raises(EmbedcalError, match=r"grid\.json.*delete it") as caught:
        load(tmp_path).asked  # noqa: B018
    assert "\n" not in str(caught.value)
    with pytest.raises(EmbedcalError, match=r"grid\.json"):
        ask(tmp_path, ["a"], {})


@pytest.mark.parametrize("engine", ["sequential", "batched"])
def test_runs_whose_lines_were_lost_are_listed_again_and_not_fitted(
    engine: str, cache, tmp_path: Path, monkeypatch
) -> None:
    specs = ["erm:epochs=1", "dfr:c=1:refits=1", "erm:optimizer=sgd:lr=1e38:epochs=3"]
    first = grid(specs, cache, out=tmp_path, seeds=2, engine=engine)
    assert (len(first.done), len(first.failed)) == (4, 2)
    before = outcome(tmp_path)
    (tmp_path / RESULTS).write_bytes((tmp_path / RESULTS).read_bytes()[:100])
    monkeypatch.setattr("embedcal.train.train", lambda *a, **k: pytest.fail("fitted again"))
    monkeypatch.setattr("embedcal.stacked.train_stack", lambda *a, **k: pytest.fail("again"))
    again = grid(specs, cache, out=tmp_path, seeds=2, engine=engine)
    assert (len(again.done), len(again.failed)) == (4, 2)
    assert outcome(tmp_path) == before
    assert load(tmp_path).damaged == 1
    assert set(times_done(tmp_path).values()) == {1}
    assert len(lines(tmp_path)) == 6
